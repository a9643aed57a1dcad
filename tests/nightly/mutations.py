"""Small changes of a source file that its tests must notice.

>>> [m.before + " -> " + m.after for m, _ in mutants_of("fxopt/passes/_batch_norm.py")][-1:]
['var + eps -> var - eps']

What only says something is left alone: docstrings, annotations, the texts of errors, asserts, type unions, motifs, the
`strict=True` of a zip over what is made equally long. So is code at
module level (constants and registrations, which every test would notice). Of two changes that are one (`a == b` turned,
`if a == b` negated) one is made.
"""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Mutant", "changes", "mutants_of"]

ROOT = Path(__file__).resolve().parents[2]

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ORDERED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_NO_CODE = ("annotation", "returns", "decorator_list", "bases", "type_params")


@dataclass(frozen=True)
class Mutant:
    """One change: file, place, and what it became."""

    file: str
    line: int
    function: str
    before: str
    after: str
    key: str
    """A name that stays while other parts of the file change."""
    at_load: bool
    """In code that runs when the module is loaded: a class body, a default argument."""
    source: str
    """Hash of the function that is changed, or of the class: what became of the mutant holds while it is the same."""


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """A node of the tree and what may stand in its place."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        turned = _COMPARISONS[type(node.ops[0])]()
        yield node, ast.Compare(node.left, [turned], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield node, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS and not _is_text(node):
        yield node, ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield node, ast.Constant(node.value + 1)
    elif isinstance(node, ast.Break):
        yield node, ast.Continue()
    elif isinstance(node, ast.Continue):
        yield node, ast.Break()
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield node, ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, ast.Pass()
    elif isinstance(node, ast.If | ast.While | ast.IfExp) and not _turned_elsewhere(node.test):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)


def _is_text(node: ast.AST) -> bool:
    """A text, or an addition of texts."""
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _turned_elsewhere(test: ast.expr) -> bool:
    """Whether a condition's negation is the change of the condition itself."""
    if isinstance(test, ast.Compare):
        return len(test.ops) == 1 and not isinstance(test.ops[0], _ORDERED)
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)


def _says_only(node: ast.AST) -> bool:
    """Whether a node holds no behaviour: a docstring, a text, what an error or an assert says, what tests draw from."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert) or _is_motifs(node)


def _is_motifs(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "motifs"
    )


def _code(tree: ast.Module) -> Iterator[tuple[str, bool, ast.AST]]:
    """Each node of code with behaviour: the function that it stands in, and whether it runs at load."""
    todo: list[tuple[str, bool, ast.AST]] = [("", True, tree)]
    motifs = {n.id for k in ast.walk(tree) if _is_motifs(k) for n in ast.walk(k) if isinstance(n, ast.Name)}
    while todo:
        name, at_load, node = todo.pop()
        for field, value in ast.iter_fields(node):
            if field in _NO_CODE or (_is_type_test(node) and field == "args"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or _says_only(child):
                    continue
                if isinstance(child, ast.FunctionDef | ast.ClassDef):
                    if child.name not in motifs:
                        todo.append((f"{name}.{child.name}".lstrip("."), at_load, child))
                    continue
                inside = isinstance(node, ast.FunctionDef | ast.Lambda) and field == "body"
                yield name, at_load and not inside, child
                todo.append((name, at_load and not inside, child))


def _is_type_test(node: ast.AST) -> bool:
    """`isinstance(x, A | B)` and `cast(A | B, x)`, whose unions are types."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("isinstance", "cast")
    )


def _hashes(tree: ast.Module) -> dict[str, str]:
    """A hash of each function and class, by its name within the module; where the text is laid out does not count."""
    found: dict[str, str] = {}
    todo: list[tuple[str, ast.AST]] = [("", tree)]
    while todo:
        name, node = todo.pop(0)
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
                text = found.get(inner, "") + ast.unparse(child)
                found[inner] = hashlib.sha256(text.encode()).hexdigest()[:16]
            todo.append((inner, child))
    return found


def mutants_of(file: str) -> list[tuple[Mutant, str]]:
    """Every mutant of a file, with the source that it makes.

    Args:
        file: a path below the root of the project.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    made: list[tuple[Mutant, str]] = []
    seen: Counter[str] = Counter()
    tree = ast.parse(text)
    hashes = _hashes(tree)
    stated = {id(k.value) for k in ast.walk(tree) if isinstance(k, ast.keyword) and k.arg == "strict"}
    for function, at_load, node in _code(tree):
        if not function:
            continue
        for old, new in changes(node):
            segment = ast.get_source_segment(text, old)
            assert isinstance(old, ast.expr | ast.stmt) and segment is not None
            start = sum(map(len, lines[: old.lineno - 1]))
            start += len(lines[old.lineno - 1].encode()[: old.col_offset].decode())
            before, after = ast.unparse(old), ast.unparse(new)
            inline = f"({after})" if isinstance(new, ast.expr) else after
            key = f"{file}:{function}: {before[:80]} -> {after[:80]}"
            seen[key] += 1
            key += f" #{seen[key]}" if seen[key] > 1 else ""
            if id(old) in stated:
                continue
            place = (file, old.lineno, function)
            mutant = Mutant(*place, before[:80], after[:80], key, at_load, hashes[function])
            made.append((mutant, text[:start] + inline + text[start + len(segment) :]))
    return made
