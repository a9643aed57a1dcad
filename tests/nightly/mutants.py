"""Mutants of the passes and of the rewriting: `python -m tests.nightly.mutants --seconds 3600`.

Each mutant is one small change of one source file (a comparison turned, a number off by one, a condition negated, a
statement left out). It is loaded in the place of the file in a fresh process, which runs the tests of that file;
a mutant that no test notices survives. Those that can't be noticed stand in equivalent_mutants.json with the
reason; any other survivor is a hole in the tests. Mutants are tried in random order, so that a run that stops early
is a fair sample. Results go to build/mutants.json.
"""

import argparse
import ast
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("fxopt/passes", "fxopt/rewriting")
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
RESULTS = ROOT / "build" / "mutants.json"

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: file, place, and what it became."""

    file: str
    line: int
    function: str
    before: str
    after: str
    number: int
    """Among the mutants of the file."""

    @property
    def key(self) -> str:
        """A name that stays while other parts of the file change."""
        return f"{self.file}:{self.function}: {self.before} -> {self.after}"


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """A node of the tree and what may stand in its place (None: nothing)."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        turned = _COMPARISONS[type(node.ops[0])]()
        yield node, ast.Compare(node.left, [turned], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield node, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
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
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Each node of code that runs, with the function it stands in; docstrings and annotations left out."""
    names: list[tuple[str, ast.AST]] = [("", tree)]
    while names:
        name, node = names.pop()
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "bases", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST):
                    continue
                if isinstance(child, ast.FunctionDef | ast.ClassDef):
                    names.append((f"{name}.{child.name}".lstrip("."), child))
                elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                    continue
                else:
                    yield name, child
                    names.append((name, child))


def mutants_of(file: str) -> list[tuple[Mutant, str]]:
    """Every mutant of a file, with the source that it makes."""
    text = (ROOT / file).read_text(encoding="utf-8")
    tree = ast.parse(text)
    made: list[tuple[Mutant, str]] = []
    for function, node in _functions(tree):
        for old, new in changes(node):
            before = ast.unparse(old)
            after = "" if new is None else ast.unparse(new)
            segment = ast.get_source_segment(text, old)
            if segment is None or not function:
                continue  # module level: constants and registrations, which every test would notice
            lines = text.splitlines(keepends=True)
            start = sum(map(len, lines[: old.lineno - 1])) + len(
                lines[old.lineno - 1].encode()[: old.col_offset].decode()
            )
            inline = f"({after})" if isinstance(new, ast.expr) else after
            source = text[:start] + inline + text[start + len(segment) :]
            mutant = Mutant(file, old.lineno, function, before[:80], after[:80], len(made))
            made.append((mutant, source))
    return made


def tests_of(file: str) -> list[str]:
    """The tests of a file: its own first, then those of its room."""
    path = Path(file)
    own = ROOT / "tests" / path.relative_to("fxopt").with_name(f"test_{path.name.lstrip('_')}")
    room = "tests/rewriting" if file.startswith("fxopt/rewriting") else f"tests/passes/{path.parent.name}"
    named = [str(own.relative_to(ROOT))] if own.is_file() else []
    further = ["tests/passes/fuse", "tests/passes/eliminate"] if file.startswith("fxopt/rewriting") else []
    return [*named, room, *further]


_LOADER = """
import importlib.abc, importlib.machinery, importlib.util, sys

class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, name, path, source):
        self.name, self.path, self.source = name, path, source
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(compile(self.source, self.path, "exec"), module.__dict__)

name, path, source = sys.argv[1], sys.argv[2], open(sys.argv[3], encoding="utf-8").read()
sys.meta_path.insert(0, Mutated(name, path, source))
import pytest
sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--no-header", "--tb=no", *sys.argv[4:]]))
"""


def killed(mutant: Mutant, source: str, timeout: float) -> str:
    """How a mutant ended: "killed", "timeout" (which counts as killed) or "survived"."""
    file = ROOT / "build" / f"mutant-{os.getpid()}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(source, encoding="utf-8")
    name = mutant.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    command = [
        sys.executable,
        "-c",
        _LOADER,
        name,
        str(ROOT / mutant.file),
        str(file),
        *tests_of(mutant.file),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CI": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        file.unlink(missing_ok=True)
    return "survived" if done.returncode == 0 else "killed"


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutants of passes and rewriting.")
    parser.add_argument("--seconds", type=float, default=3600.0, help="when to stop; a fair sample is left")
    parser.add_argument("--timeout", type=float, default=300.0, help="of one mutant")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--file", default="", help="only files whose path holds this")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    options = parser.parse_args()
    files = [str(p.relative_to(ROOT)) for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]
    all_of = [m for f in files if options.file in f and not f.endswith("__init__.py") for m in mutants_of(f)]
    if options.list:
        for mutant, _ in all_of:
            print(f"{mutant.file}:{mutant.line} {mutant.key}")
        print(len(all_of))
        return 0
    random.Random(options.seed).shuffle(all_of)
    equivalent = json.loads(EQUIVALENT.read_text(encoding="utf-8"))
    start, results = time.monotonic(), []
    for mutant, source in all_of:
        if time.monotonic() - start > options.seconds:
            break
        end = "equivalent" if mutant.key in equivalent else killed(mutant, source, options.timeout)
        results.append({**asdict(mutant), "key": mutant.key, "end": end})
        print(f"{end:10} {mutant.file}:{mutant.line} {mutant.before} -> {mutant.after}", flush=True)
    survivors = [r for r in results if r["end"] == "survived"]
    counted = [r for r in results if r["end"] != "equivalent"]
    share = 1 - len(survivors) / len(counted) if counted else 1.0
    RESULTS.parent.mkdir(exist_ok=True)
    figures = {"mutants": len(all_of), "tried": len(results), "killed": share, "results": results}
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"{len(results)} of {len(all_of)} mutants tried: {share:.1%} killed, {len(survivors)} survive")
    return 1 if share < 0.95 else 0


if __name__ == "__main__":
    sys.exit(main())
