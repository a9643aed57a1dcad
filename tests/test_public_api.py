"""The public names and their signatures, pinned in public_api.txt.

A change that is meant: `python -m tests.test_public_api` writes it anew, CHANGELOG.md says what changed.
"""

import ast
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import fxopt

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def source_of(value: object) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def function_text(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def is_public(name: str) -> bool:
    return not name.startswith("_") or name in {"__init__", "__call__"}


def members(cls: type) -> dict[str, str]:
    """Methods, fields and constants as they are written in the class and in its bases of fxopt."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] != "fxopt":
            continue
        for node in source_of(base).body:
            match node:
                case ast.FunctionDef(name=name) if is_public(name):
                    decorators = [f"@{ast.unparse(d)} " for d in node.decorator_list]
                    found[name] = "".join(decorators) + function_text(node)
                case ast.AnnAssign(target=ast.Name(id=name)) if is_public(name):
                    found[name] = ast.unparse(node)
                case ast.Assign(targets=[ast.Name(id=name)]) if is_public(name):
                    found[name] = ast.unparse(node)
    return found


def lines() -> Iterator[str]:
    for name in sorted(fxopt.__all__):
        value = getattr(fxopt, name)
        if inspect.isclass(value):
            yield f"class {name}({', '.join(b.__name__ for b in value.__bases__ if b is not object)})"
            for _, text in sorted(members(value).items()):
                yield f"    {text}"
        elif inspect.isfunction(value):
            yield f"def {function_text(source_of(value))}"
        elif inspect.ismodule(value):
            yield f"module {name}: {', '.join(sorted(value.__all__))}"
        else:
            yield f"{name}: {type(value).__name__}"


def test_names_and_signatures_are_pinned():
    expected = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    assert list(lines()) == expected, "meant? python -m tests.test_public_api"


def test_import_loads_nothing_heavy():
    code = "import sys, fxopt; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "fxopt" in loaded
    heavy = {
        "torch",
        "numpy",
        "onnx",
        "onnxscript",
        "onnxsim",
        "onnxruntime",
        "networkx",
        "rich",
        "typer",
        "hypothesis",
    }
    assert not heavy & set(loaded)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = fxopt.optimise


def test_dir_lists_the_public_names():
    assert dir(fxopt) == sorted(fxopt.__all__)


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(lines()) + "\n", encoding="utf-8")
