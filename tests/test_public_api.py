"""The public names and their signatures, pinned in public_api.txt.

A change that is meant: `python -m tests.test_public_api` writes it anew, CHANGELOG.md says what changed.
"""

import dataclasses
import enum
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fxopt

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def signature(value: object) -> str:
    try:
        return str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""


def member_lines(cls: type) -> Iterator[str]:
    """The public methods, properties and fields that a class defines or inherits from a class of fxopt."""
    members: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] == "fxopt":
            members |= {k: v for k, v in vars(base).items() if not k.startswith("_")}
            members |= {k: ... for k in vars(base).get("__annotations__", {}) if not k.startswith("_")}
    for name in sorted(members):
        raw = members[name]
        function = raw.__func__ if isinstance(raw, staticmethod | classmethod) else raw
        yield f"    {name}{signature(function) if inspect.isfunction(function) else ''}"


def lines() -> Iterator[str]:
    for name in sorted(fxopt.__all__):
        value = getattr(fxopt, name)
        if inspect.isclass(value):
            bases = ", ".join(b.__name__ for b in value.__bases__ if b is not object)
            plain = issubclass(value, enum.Enum | Exception)
            fields = signature(value) if dataclasses.is_dataclass(value) and not plain else ""
            yield f"class {name}({bases}){': ' + fields if fields else ''}"
            if not issubclass(value, Exception):
                yield from member_lines(value)
        elif inspect.isfunction(value):
            yield f"def {name}{signature(value)}"
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
