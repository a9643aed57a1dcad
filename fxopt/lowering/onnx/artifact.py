"""`OnnxArtifact`: an ONNX file that runs, with the model's own containers in and out if fxopt wrote it.

A file of another exporter gets a signature from its graph: its inputs and outputs by name, a tuple of
several outputs.
"""

import json
import os

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import ArtifactError
from fxopt.lowering.onnx.metadata import DATA_KEY, SIGNATURE_KEY, check_whole, read_metadata
from fxopt.lowering.onnx.run import NUMBERS, Array, Port, Session, open_session
from fxopt.lowering.onnx.times import kernel_times
from fxopt.lowering.quick import QuickArtifact
from fxopt.lowering.tensors import pack, unpack_value
from fxopt.lowering.times import NodeTime
from fxopt.lowering.wire import Packed
from fxopt.program.signature import Dim, Signature, Symbol, TensorSpec, evaluate_dim, named_dtype
from fxopt.program.trees import signature_from_json

__all__ = ["OnnxArtifact", "open_onnx"]

_REFERENCE = "onnxruntime is not installed: the file is run by ONNX's reference evaluator, slowly"


class OnnxArtifact(QuickArtifact):
    """A file in an onnxruntime session (one thread, CPU)."""

    def __init__(self, session: Session, signature: Signature, *, path: str, size: int) -> None:
        super().__init__("onnx", signature, path=path, size=size)
        self._session, self._file = session, path
        if session.runtime != "onnxruntime":
            self.notes = (_REFERENCE,)

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs on the tensors of `signature.tensor_inputs`; returns the computed outputs in order.

        Raises:
            ArtifactError: the runtime refuses the call.
        """
        try:
            return self._results(tensors)
        except Exception as error:
            raise ArtifactError(f"{self.path} can't be run: {_first_line(error)}") from error

    def attempt(self, tensors: list[torch.Tensor]) -> list[object]:
        """`run_flat` of a call that the signature takes.

        Raises:
            InputError: an op does not take its sizes or values.
        """
        try:
            return self._results(tensors)
        except Exception as error:  # the runtime has exceptions of its own
            # Of onnxruntime's line what is behind the op's name and a C++ condition.
            reason = _first_line(error).rpartition("Status Message: ")[2].rpartition(" was false. ")[2]
            raise self._problem(tensors, RuntimeError(reason)) from error

    def node_times(self, tensors: list[torch.Tensor], calls: frozenset[str]) -> list[NodeTime]:
        """The times of its kernels, by onnxruntime's profile; none where another runs the file."""
        if self._session.runtime != "onnxruntime" or self._session.arrays is None:
            return []
        names = [port.name for port in self._session.inputs]
        return kernel_times(
            self._file, dict(zip(names, (t.numpy(force=True) for t in tensors), strict=True)), calls
        )

    def _results(self, tensors: list[torch.Tensor]) -> list[object]:
        session = self._session
        if session.arrays is None:  # bytes: numpy lacks a dtype
            packed = [p for p in map(pack, tensors) if isinstance(p, Packed)]
            return [unpack_value(r) for r in session.values(packed)]
        results = session.arrays([t.numpy(force=True) for t in tensors])
        if not session.scalars:
            return [torch.from_numpy(array) for array in results]
        return [_value(array, session.scalars.get(i)) for i, array in enumerate(results)]


def _value(array: Array, kind: str | None) -> object:
    """A tensor, or the number that an output is for the model's caller."""
    return torch.from_numpy(array) if kind is None else NUMBERS[kind](array.item())


def open_onnx(path: str, *, trust: bool = False, as_written: bool = False) -> OnnxArtifact:
    """Opens a file.

    Args:
        path: the file.
        trust: also open a file of fxopt's that was changed since.
        as_written: node by node, without onnxruntime's optimisations.

    Raises:
        ArtifactError: it is missing, no ONNX file, damaged or changed, or takes what tensors can't say.
    """
    metadata = read_metadata(path)
    own = SIGNATURE_KEY in metadata
    if own and not trust:
        check_whole(path, metadata)
    try:
        session = open_session(path, as_written=as_written)
    except Exception as error:
        raise ArtifactError(f"{path} can't be opened as an ONNX file: {_first_line(error)}") from error
    signature = _own(session, metadata[SIGNATURE_KEY], path) if own else _foreign(session, path)
    size = os.path.getsize(path)
    beside = os.path.join(os.path.dirname(path), metadata.get(DATA_KEY, ""))
    return OnnxArtifact(
        session, signature, path=path, size=size + (os.path.getsize(beside) if os.path.isfile(beside) else 0)
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _own(session: Session, text: str, path: str) -> Signature:
    try:
        signature = signature_from_json(json.loads(text))
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path}: its fxopt.signature is no JSON") from error
    specs, results = signature.tensor_inputs, signature.computed_outputs
    if len(specs) != len(session.inputs) or len(results) != len(session.outputs):
        raise ArtifactError(f"{path}: its fxopt.signature does not fit the graph's inputs and outputs")
    return signature


def _foreign(session: Session, path: str) -> Signature:
    symbols: dict[str, Symbol] = {}
    inputs = tuple(_spec(p, path, symbols) for p in session.inputs)
    known = dict.fromkeys(symbols, 2)
    outputs = tuple(_spec(p, path, {}, known) for p in session.outputs)
    tree = pytree.tree_structure((tuple(range(len(inputs))), {}))
    result: object = 0 if len(outputs) == 1 else tuple(range(len(outputs)))
    names = tuple(s.name for s in inputs)
    return Signature(inputs, outputs, tree, pytree.tree_structure(result), symbols, names)


def _spec(
    port: Port, path: str, symbols: dict[str, Symbol], known: dict[str, int] | None = None
) -> TensorSpec:
    """A tensor spec; sizes without a usable name are called after the axis."""
    if not port.dtype:
        raise ArtifactError(f"{path}: {port.name!r} is no tensor that torch can hold")
    shape: list[Dim] = []
    for axis, size in enumerate(port.shape):
        if isinstance(size, int):
            shape.append(size)
            continue
        name = size if size and (size.isidentifier() or _computable(size, known)) else f"{port.name}_{axis}"
        shape.append(name)
        symbols.setdefault(name, Symbol(name))
    return TensorSpec(port.name, named_dtype(port.dtype), tuple(shape))


def _computable(size: str, known: dict[str, int] | None) -> bool:
    """Whether an output's size is arithmetic over the inputs' sizes ("floor(h/2)" is not)."""
    if known is None:
        return False
    try:
        evaluate_dim(size, known)
    except (KeyError, ValueError, SyntaxError, ArithmeticError):
        return False
    return True
