"""The layers of docs/architecture.md, and the rules that keep a file in its room."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fxopt"
FILES = sorted(PACKAGE.rglob("*.py"))

# Low to high; those of one line don't import each other.
LAYERS = (
    ("draws", "errors", "json_data", "report"),
    ("ops",),
    ("program",),
    ("dialect",),
    ("frontend",),
    ("rewriting",),
    ("analysis",),
    ("verification",),
    ("pipeline",),
    ("passes",),
    ("ensembles",),
    ("lowering",),
    ("diagnosis",),
    ("training",),
    ("optimizer",),
    ("api",),
    ("factories",),
    ("measure",),
    ("distributed",),
    ("testing", "reporting"),
    ("demo",),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
# `report` is JSON data and raises errors; all else in a layer of several rooms stands alone.
WITHIN_A_LAYER = {("report", "errors"), ("report", "json_data"), ("json_data", "errors")}
EDITORS = {"rewriting", "program", "frontend"}
EDITS = {"replace_all_uses_with", "replace_input_with", "erase_node", "update_arg", "update_kwarg"}


def room(file: Path) -> str:
    parts = file.relative_to(PACKAGE).parts
    if parts[-1] == "__main__.py":  # a package's own command line
        return "__main__"
    return parts[0].removesuffix(".py")


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, at any depth, that can run: imports for the type checker only are left out."""
    for child in ast.iter_child_nodes(tree):
        if is_type_checking(child):
            continue
        yield child
        yield from run_time_nodes(child)


def imported_rooms(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and room of each import of the package; its public face, `import fxopt`, stands as `api`."""
    for node in run_time_nodes(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "fxopt":
            names = [
                f"fxopt.{a.name}" if a.name in RANK else "fxopt"
                for a in node.names
                if a.name != "__version__"
            ]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "fxopt":
                yield node.lineno, parts[1] if len(parts) > 1 else "api"


def test_every_room_has_its_place_in_the_order():
    rooms = {room(file) for file in FILES} - {"__init__"}
    assert rooms <= set(RANK), f"not in the list of layers: {sorted(rooms - set(RANK))}"


def test_the_order_is_that_of_the_architecture_document():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = next(block for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) if "ops/" in block)
    written = [word for line in drawn.splitlines() for word in re.findall(r"\b([a-z_]+)\b/?", line[:24])]
    order = [name for name in written if name in RANK]
    assert [RANK[name] for name in order] == sorted(RANK[name] for name in order)
    assert {name for rooms in LAYERS[:-1] for name in rooms} - {"demo"} <= set(order)


def allowed(importer: str, imported: str) -> bool:
    if importer == imported or (importer, imported) in WITHIN_A_LAYER:
        return True
    return imported in RANK and RANK[imported] < RANK[importer]


def test_imports_point_up_the_list():
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports fxopt.{imported}"
        for file in FILES
        if room(file) != "__init__"
        for line, imported in imported_rooms(parse(file))
        if not allowed(room(file), imported)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "source", "ok"),
    [
        ("passes", "from fxopt.rewriting import Rule", True),
        ("rewriting", "from fxopt.passes.fuse import x", False),
        ("ops", "def f():\n    import fxopt.program", False),
        ("ops", "if TYPE_CHECKING:\n    from fxopt.program import Program", True),
        ("lowering", "import fxopt", False),
        ("cli", "import fxopt", True),
        ("lowering", "from fxopt import __version__", True),
        ("errors", "from fxopt import report", False),
        ("reporting", "from fxopt.testing import programs", False),
    ],
)
def test_the_check_sees(importer: str, source: str, ok: bool):
    assert all(allowed(importer, imported) for _, imported in imported_rooms(ast.parse(source))) is ok


def test_files_are_short():
    long = {str(f.relative_to(ROOT)): n for f in FILES if (n := len(f.read_text("utf-8").splitlines())) > 400}
    assert not long


def pass_files() -> list[Path]:
    return [f for f in sorted((PACKAGE / "passes").glob("*/*.py")) if not f.name.startswith("_")]


def test_every_pass_has_its_test_file():
    missing = [
        f"tests/passes/{f.parent.name}/test_{f.name}"
        for f in pass_files()
        if not (ROOT / "tests" / "passes" / f.parent.name / f"test_{f.name}").is_file()
    ]
    assert pass_files()
    assert not missing


def graph_edits(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Assignments to a node's args, kwargs or target, and calls of the graph's own editing methods."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                own = isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
                if (
                    isinstance(target, ast.Attribute)
                    and target.attr in {"args", "kwargs", "target"}
                    and not own
                ):
                    yield node.lineno, ast.unparse(target)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in EDITS:
            yield node.lineno, ast.unparse(node.func)


def test_graphs_are_edited_by_the_rewriter_only():
    wrong = [
        f"{file.relative_to(ROOT)}:{line} {what}"
        for file in FILES
        if room(file) not in EDITORS
        for line, what in graph_edits(parse(file))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("node.args = (x,)", True),
        ("node.kwargs['a'] = 1\nn.target = t", True),
        ("a.replace_all_uses_with(b)", True),
        ("self.args = args", False),
        ("args = node.args", False),
    ],
)
def test_the_edit_check_sees(source: str, found: bool):
    assert bool(list(graph_edits(ast.parse(source)))) is found
