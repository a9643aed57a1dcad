"""What a model of the zoo is measured as: itself, fxopt's files, and what others make of it.

Each side is made from the same module, example and dynamic sizes, and is then a function without arguments
that runs it once, as its own runtime does, and returns its outputs. A file that is there already is opened
only, so that a second process measures the first one's files.
"""

import contextlib
import functools
import io
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import fxopt
from fxopt.lowering.onnx.run import open_session
from fxopt.lowering.tensors import pack

Shapes = tuple[dict[int, str], ...]


Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A model, an example call of positional tensors, which sizes vary, and a folder for files."""

    name: str
    model: nn.Module
    args: tuple[torch.Tensor, ...]
    shapes: Shapes
    folder: Path

    def file(self, side: "Side") -> Path:
        """Where a side's file lies."""
        return self.folder / f"{self.name}{side.ending}"


@dataclass(frozen=True)
class Side:
    """A way to run a model: what makes its file, if it has one, and what opens it."""

    open: Callable[[Case, Path], Run]
    ending: str = ""
    """Of its file's name; empty if there is none."""
    make: Callable[[Case, Path], object] | None = None


def _model(case: Case, _: Path) -> Run:
    return functools.partial(case.model, *case.args)


def _compiled(case: Case, _: Path) -> Run:
    """torch.compile, with its first run, in which it compiles."""
    function = torch.compile(case.model)
    with torch.inference_mode():
        function(*case.args)
    return functools.partial(function, *case.args)


def _freeze(case: Case, path: Path) -> None:
    """`torch.jit.trace` and `freeze`: its sizes are the example's."""
    with silent():
        traced = torch.jit.trace(case.model, case.args, strict=False)
        torch.jit.save(torch.jit.freeze(traced), path)


def _export(case: Case, path: Path) -> None:
    """`torch.onnx.export(dynamo=True)` as it is called without options, with the same dynamic sizes."""
    with silent():
        program = torch.onnx.export(
            case.model, case.args, dynamo=True, dynamic_shapes=case.shapes, verbose=False
        )
        assert program is not None
        program.save(path)


def _simplify(case: Case, path: Path) -> None:
    import onnx
    import onnxsim

    with silent():
        smaller, _ = onnxsim.simplify(onnx.load(case.file(SIDES["torch.onnx.export"])))
    onnx.save(smaller, path)


def _lower(target: str, case: Case, path: Path) -> None:
    program = fxopt.run_pipeline(fxopt.trace(case.model, case.args, dynamic_shapes=case.shapes), "O1")
    fxopt.lower(program, target, path=path)


def _script(case: Case, path: Path) -> Run:
    """A TorchScript file as it is run where fxopt is not installed."""
    with silent():
        return functools.partial(torch.jit.load(path), *case.args)


def _eager(case: Case, path: Path) -> Run:
    return functools.partial(fxopt.load(path), *case.args)


def _onnx(case: Case, path: Path) -> Run:
    """A file in onnxruntime: one thread, all of its own optimizations, inputs and outputs as numpy arrays."""
    return open_session(str(path)).bind([pack(x) for x in case.args])


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """The exporters print what they do."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


SIDES: dict[str, Side] = {
    "model": Side(_model),
    "fxopt eager": Side(_eager, ".fxopt", functools.partial(_lower, "eager")),
    "torch.compile": Side(_compiled),
    "TorchScript freeze": Side(_script, ".frozen.pt", _freeze),
    "fxopt torchscript": Side(_script, ".pt", functools.partial(_lower, "torchscript")),
    "torch.onnx.export": Side(_onnx, ".exported.onnx", _export),
    "onnxsim": Side(_onnx, ".simplified.onnx", _simplify),
    "fxopt onnx": Side(_onnx, ".onnx", functools.partial(_lower, "onnx")),
}


@dataclass(frozen=True)
class Opened:
    """A side ready to run, and what it took."""

    run: Run
    seconds: float = 0.0
    """To make the file, or to compile; 0 if the file was there already."""
    size: int = 0
    """Bytes of the file; 0 where there is none."""
    nodes: int = 0
    """Nodes of an ONNX graph."""


def open_side(side: Side, case: Case) -> Opened:
    """Makes the file if it is not there yet, and opens it."""
    path, seconds = case.file(side), 0.0
    if side.make and not path.exists():
        start = time.perf_counter()
        side.make(case, path)
        seconds = time.perf_counter() - start
    start = time.perf_counter()
    run = side.open(case, path)
    if not side.make:
        return Opened(run, time.perf_counter() - start)
    return Opened(run, seconds, path.stat().st_size, _nodes(path))


def _nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node) if path.suffix == ".onnx" else 0
