"""Options that several verbs share, and models and files as arguments.

>>> read_side("missing.onnx")
Traceback (most recent call last):
fxopt.errors.InputError: missing.onnx does not exist; expected FILE.py:FACTORY or a file
"""

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from fxopt.errors import InputError
from fxopt.factories import ModelSource, read_factory, split_factory

__all__ = [
    "JsonFlag",
    "OptimizeOptions",
    "PluginOption",
    "QuietFlag",
    "TrustFlag",
    "check_side",
    "load_plugins",
    "read_model",
    "read_side",
]

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print the report as JSON, and nothing else, on standard output.")
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="A file that registers passes, ops or targets."),
]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
TrustFlag = Annotated[
    bool,
    typer.Option("--trust", help="Open .pt2 and foreign .pt files: they can run code of their author's."),
]


@dataclass(frozen=True)
class OptimizeOptions:
    """What a run of `fxopt optimize` was asked for, read but not looked into."""

    model: str
    pipeline: str
    target: str
    file_name: str
    output: Path | None = None
    dynamic: dict[str, dict[int, object]] = field(default_factory=dict)
    calibration: Path | None = None
    distill: str | None = None
    metric: str | None = None
    max_drop: float | None = None
    min_sqnr: float | None = None
    time_layers: bool = False
    opset: int | None = None
    check_each: bool = False
    reproduce: Path | None = None
    state: bool = False
    trust: bool = False
    plugins: tuple[Path, ...] = ()


def load_plugins(files: Iterable[Path]) -> None:
    """Runs the user's plugins.

    Raises:
        PipelineError: one is missing or fails; names the line.
    """
    from fxopt.pipeline import load_plugin

    with contextlib.redirect_stdout(sys.stderr):
        for file in files:
            load_plugin(str(file))


def read_side(text: str) -> ModelSource:
    """A model or a file: `FILE.py:FACTORY`, or the path of anything that fxopt can open.

    Raises:
        InputError: The file is missing, or a Python file comes without a function.
        UserCodeError: The factory is missing or fails.
    """
    factory = split_factory(text)
    if factory:
        with contextlib.redirect_stdout(sys.stderr):  # what the user's file prints is no result
            return read_factory(*factory)
    check_side(text)
    return ModelSource(Path(text).stem, text)


def check_side(text: str) -> None:
    """Whether the text names a factory or a file that is there; neither is opened.

    Raises:
        InputError: The file is missing, or a Python file comes without a function.
    """
    if split_factory(text):
        return
    path = Path(text)
    if path.suffix == ".py":
        raise InputError(f"{text}: name the function that returns the model, as in {text}:build")
    if not path.exists():
        file, _, factory = text.rpartition(":")
        meant = f"did you mean {file}.py:{factory}?" if Path(f"{file}.py").is_file() else ""
        raise InputError(f"{text} does not exist; {meant or 'expected FILE.py:FACTORY or a file'}")


def read_model(text: str) -> ModelSource:
    """What can be optimized: `FILE.py:FACTORY`, a `.pt2` file or a saved program.

    Raises:
        InputError: Neither, or the file is missing.
        UserCodeError: The factory is missing or fails.
    """
    source = read_side(text)
    if source.args is None and not text.endswith((".pt2", ".fxopt")):
        raise InputError(f"{text} is no model: expected FILE.py:FACTORY, a .pt2 file or a .fxopt program")
    return source
