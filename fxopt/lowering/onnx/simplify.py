"""The simplified model, where onnxsim makes a smaller one that still says what fxopt's said.

onnxsim 0.8.1 miscompiles some graphs with a dynamic batch, so that its result is only a proposal: the caller
verifies the file at several batch sizes and falls back.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from fxopt.errors import LoweringError
from fxopt.lowering.onnx.gates import check_model, content_size, without_weights
from fxopt.lowering.onnx.metadata import SEAL_KEY, SEAL_MARK
from fxopt.lowering.remote import RemoteError, worker_of
from fxopt.lowering.wire import Packed
from fxopt.program.seal import sealed

__all__ = ["LARGEST", "Simplified", "simplify"]

LARGEST = 500_000_000
"""Bytes of a file above which onnxsim is not run: it holds half a dozen copies."""


@dataclass(frozen=True)
class Simplified:
    """The smaller file's content, or None and why there is none ("" if onnxsim found nothing to do)."""

    content: bytes | None
    why: str = ""


def simplify(content: bytes) -> Simplified:
    """Runs onnxsim on a model's file content, in its own process."""
    if len(content) > LARGEST:
        return Simplified(None, f"onnxsim was not run: the file has more than {LARGEST // 1_000_000} MB")
    worker = worker_of("onnxsim")
    try:
        worker.files += 1
        worker.ask({"do": "open", "file": worker.files, "path": ""})
        (result,) = worker.ask(
            {"do": "run", "file": worker.files}, [Packed("uint8", (len(content),), content)]
        )
    except RemoteError as error:
        return Simplified(None, f"onnxsim failed: {' '.join(str(error).split())[:200]}")
    assert isinstance(result, Packed)
    before = onnx.load_from_string(content)
    after = onnx.load_from_string(bytes(result.data))
    if len(after.graph.node) >= len(before.graph.node):
        return Simplified(None)
    restore(before, after)
    problem = _problem(before, after)
    if problem:
        return Simplified(None, f"onnxsim's result was not used: {problem}")
    return Simplified(sealed([after.SerializeToString(deterministic=True)], SEAL_MARK))


def restore(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Gives the simplified model fxopt's metadata, and takes out what onnxsim notes in it."""
    after.producer_name, after.producer_version = before.producer_name, before.producer_version
    del after.metadata_props[:]
    after.metadata_props.extend(p for p in before.metadata_props if p.key != SEAL_KEY)
    del after.graph.value_info[:]
    for node in after.graph.node:
        entries = [p for p in node.metadata_props if p.key == "fxopt.module"]
        del node.metadata_props[:]
        node.metadata_props.extend(entries)


def _problem(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """What the simplified model has lost, "" if nothing."""
    for what, old, new in (
        ("inputs", before.graph.input, after.graph.input),
        ("outputs", before.graph.output, after.graph.output),
    ):
        if [v.SerializeToString() for v in old] != [v.SerializeToString() for v in new]:
            return f"it changes the {what}"
    if _weight_bytes(after) > 1.05 * _weight_bytes(before) + 65536:
        return "its weights are larger"
    try:
        check_model(without_weights(after))
    except LoweringError as error:
        return str(error)
    return ""


def _weight_bytes(model: onnx.ModelProto) -> int:
    def size(tensors: Iterable[onnx.TensorProto]) -> int:
        return sum(map(content_size, tensors))

    attributes = (a for n in model.graph.node if n.op_type == "Constant" for a in n.attribute)
    constants = (a.t for a in attributes if a.name == "value")
    return size(model.graph.initializer) + size(constants)
