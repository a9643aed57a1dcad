"""What is measured, opened: a model of the user's or a file, run the way that one runs it without fxopt.

An ONNX file runs in onnxruntime, a TorchScript file as the loaded module, a model in eval mode without
gradients, an eager file by its artifact. torch is imported for those that need it only, so that the memory of
an ONNX file's process is what the file takes.

>>> open_subject("net.onnx", threads=1, trust=False)
Traceback (most recent call last):
fxopt.errors.ArtifactError: net.onnx does not exist
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxopt.errors import ArtifactError, InputError
from fxopt.lowering.wire import Packed

if TYPE_CHECKING:
    from fxopt.factories import ModelSource

__all__ = ["Slot", "Subject", "import_runtime", "open_subject"]


@dataclass(frozen=True)
class Slot:
    """A tensor input: its name and dtype, empty where unknown."""

    name: str = ""
    dtype: str = ""


@dataclass(frozen=True)
class Subject:
    """An opened side."""

    kind: str
    """model, program, eager, torchscript or onnx."""
    slots: tuple[Slot, ...] | None
    """Its tensor inputs in order; None if it does not say."""
    bind: Callable[[Sequence[Packed]], Callable[[], object]]
    """Takes tensors for the slots; what it returns runs on them."""
    example: tuple[Packed, ...] = ()
    """The tensors of its own example call."""
    size: int = 0
    """Bytes of weights of a model in memory; 0 for a file."""


def import_runtime(text: str) -> None:
    """Imports what the side's own runtime is, and nothing else."""
    import importlib.util

    if not text.endswith(".onnx"):
        import fxopt.api  # noqa: F401
    elif importlib.util.find_spec("onnxruntime"):
        import onnxruntime  # noqa: F401


def open_subject(text: str, *, threads: int, trust: bool) -> Subject:
    """Opens a side.

    Args:
        text: `FILE.py:FACTORY`, or a file of fxopt's or of another exporter.
        threads: how many compute an op.
        trust: as in `fxopt.load`.

    Raises:
        FxoptError: it can't be opened.
    """
    from fxopt.factories import read_factory, split_factory

    if text.endswith(".onnx"):
        return _onnx(text, threads)
    import torch

    torch.set_num_threads(threads)
    factory = split_factory(text)
    return _model(read_factory(*factory)) if factory else _file(text, trust=trust)


def _onnx(path: str, threads: int) -> Subject:
    from fxopt.lowering.onnx.run import open_session

    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise ArtifactError(f"{path} {what}")
    try:
        session = open_session(path, threads=threads)
    except Exception as error:  # what the runtime raises has no common class
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ArtifactError(f"{path} can't be opened as an ONNX file: {reason}") from error
    if session.runtime != "onnxruntime":
        raise ArtifactError(f'{path}: an ONNX file is measured in onnxruntime: pip install "fxopt[runtime]"')
    slots = tuple(Slot(port.name, port.dtype) for port in session.inputs)
    return Subject("onnx", slots, session.bind)


def _file(path: str, *, trust: bool) -> Subject:
    from fxopt.api import load
    from fxopt.lowering.torchscript.foreign import ForeignScript
    from fxopt.lowering.torchscript.target import TorchScriptArtifact
    from fxopt.program import Program
    from fxopt.verification.sampling import arguments_of

    opened = load(path, trust=trust)
    if isinstance(opened, ForeignScript):
        return Subject("torchscript", None, _binder(lambda tensors: (opened.module, tuple(tensors), {})))
    signature = opened.signature
    slots = tuple(Slot(s.name, str(s.dtype).removeprefix("torch.")) for s in signature.tensor_inputs)
    if isinstance(opened, TorchScriptArtifact):
        return Subject("torchscript", slots, _binder(lambda tensors: (opened.module, tuple(tensors), {})))
    kind = "program" if isinstance(opened, Program) else opened.target
    return Subject(kind, slots, _binder(lambda tensors: (opened, *arguments_of(signature, tensors))))


_Call = tuple[Callable[..., object], tuple[object, ...], Mapping[str, object]]


def _binder(
    call_of: "Callable[[list[torch.Tensor]], _Call]",  # type: ignore[name-defined]  # noqa: F821
) -> Callable[[Sequence[Packed]], Callable[[], object]]:
    """`Subject.bind` from what says which call the tensors make."""

    def bind(packed: Sequence[Packed]) -> Callable[[], object]:
        from fxopt.lowering.tensors import unpack

        function, args, kwargs = call_of([unpack(p) for p in packed])
        return lambda: function(*args, **kwargs)

    return bind


def _model(source: "ModelSource") -> Subject:
    """A model of the user's and the example that came with it."""
    import torch
    from torch.utils import _pytree as pytree

    from fxopt.lowering.tensors import pack

    model: object = source.model
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    elif isinstance(model, torch.nn.Module):
        model.eval()
    if not callable(model):
        raise InputError(
            f"{source.name} returned a {type(model).__name__} as model; expected a torch.nn.Module"
        )
    function: Callable[..., object] = model
    leaves, tree = pytree.tree_flatten((source.args or (), source.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    names = _leaf_names(function, source)
    slots = tuple(Slot(names[i], str(leaves[i].dtype).removeprefix("torch.")) for i in places)

    def call_of(tensors: list[torch.Tensor]) -> _Call:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        args, kwargs = pytree.tree_unflatten(filled, tree)
        return function, args, kwargs

    packed = (pack(leaves[i]) for i in places)
    example = tuple(p for p in packed if isinstance(p, Packed))
    return Subject("model", slots, _binder(call_of), example, _weight_bytes(function))


def _leaf_names(function: Callable[..., object], source: "ModelSource") -> list[str]:
    """A name for each leaf of the example call: the parameter's, as tracing names inputs."""
    import inspect

    from fxopt.frontend.dimensions import leaf_names

    try:
        parameters = list(inspect.signature(getattr(function, "forward", function)).parameters)
    except (TypeError, ValueError):  # a callable without a signature
        parameters = []
    args = source.args or ()
    positional = [*parameters[: len(args)], *(str(i) for i in range(len(parameters), len(args)))]
    given = [*zip(positional, args, strict=True), *source.kwargs.items()]
    return [name for argument, value in given for name in leaf_names(argument, value)]


def _weight_bytes(function: object) -> int:
    """Bytes of the distinct parameters and buffers."""
    import torch

    if not isinstance(function, torch.nn.Module):
        return 0
    tensors = [*function.parameters(), *function.buffers()]
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
