"""From a recorded graph to an ONNX model in memory: deterministic bytes, no paths, no times.

Weights are kept out of the protobuf objects, which would copy them four times: the file's bytes are joined
from the serialized rest and the tensors' own memory. Weights whose sum is beyond what one file may hold go
to a sibling file that is named by its content.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx
import torch
from onnx import helper

from fxopt import __version__
from fxopt.lowering.onnx.dtypes import onnx_type, raw_bytes, raw_memory
from fxopt.lowering.onnx.gates import SMALL
from fxopt.lowering.onnx.graph import Attribute, Body, Names, OnnxNode
from fxopt.lowering.onnx.kernels import CONTRIBUTED
from fxopt.lowering.onnx.lower import Recording
from fxopt.lowering.onnx.metadata import DATA_KEY, SEAL_MARK, SIGNATURE_KEY
from fxopt.program.program import Program
from fxopt.program.seal import sealed
from fxopt.program.signature import ScalarSpec, Spec, TensorSpec
from fxopt.program.trees import signature_to_json

__all__ = ["EXTERNAL_THRESHOLD", "Model", "build_model", "share_data"]

EXTERNAL_THRESHOLD = 2_000_000_000
"""Bytes of weights above which they go to a sibling file; a protobuf message ends at 2^31."""
_CONTRIBUTED_DOMAIN = "com.microsoft"
_ALIGNMENT = 4096
"""Of tensors in the sibling file, so that a runtime can map them."""
_SCALARS = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Field numbers of ModelProto.graph, GraphProto.initializer and TensorProto.raw_data."""

Buffer = bytes | memoryview


@dataclass
class Model:
    """A model whose larger weights stand beside its proto.

    Attributes:
        proto: everything but the larger weights.
        weights: their headers, without data, and tensors.
        data_name: the sibling file that holds them, if they are not in the main one.
        stored: what is in the sibling file.
    """

    proto: onnx.ModelProto
    weights: list[tuple[onnx.TensorProto, torch.Tensor]] = field(default_factory=list)
    data_name: str | None = None
    stored: list[torch.Tensor] = field(default_factory=list)

    @property
    def opset(self) -> int:
        """Of ONNX's own ops."""
        return int(next(o.version for o in self.proto.opset_import if not o.domain))

    def content(self) -> bytes:
        """The main file, sealed: a protobuf message is the concatenation of its fields, in any order."""
        graph: list[Buffer] = [self.proto.graph.SerializeToString(deterministic=True)]
        for header, tensor in self.weights:
            parts: list[Buffer] = [header.SerializeToString(deterministic=True)]
            if self.data_name is None:
                parts += _field(_RAW_DATA, [raw_memory(tensor)])
            graph += _field(_INITIALIZER, parts)
        rest = onnx.ModelProto()
        rest.CopyFrom(self.proto)
        rest.ClearField("graph")
        return sealed([rest.SerializeToString(deterministic=True), *_field(_GRAPH, graph)], SEAL_MARK)

    def data(self) -> bytes | None:
        """The sibling file, if there is one."""
        return b"".join(_aligned(self.stored)) if self.data_name is not None else None


def build_model(program: Program, recording: Recording, opset: int, *, stem: str, threshold: int) -> Model:
    """The model of a recording.

    Args:
        program: whose signature it carries.
        recording: the lowered graph.
        opset: the version that the recording was made for.
        stem: names the sibling file.
        threshold: bytes of weights above which there is one.
    """
    graph = onnx.GraphProto(name=program.name)
    names = Names()
    for node in recording.nodes:
        _add_node(graph, node, names)
    weights: list[tuple[onnx.TensorProto, torch.Tensor]] = []
    for value, tensor in recording.initializers.items():
        kind, shape = onnx_type(tensor.dtype), tuple(tensor.shape)
        if value in recording.four_bits:
            kind, shape = onnx.TensorProto.INT4, recording.four_bits[value]
        header = onnx.TensorProto(name=value, data_type=kind, dims=shape)
        if _bytes(tensor) > SMALL:
            weights.append((header, tensor))
        else:
            header.raw_data = raw_bytes(tensor)
            graph.initializer.append(header)
    _add_values(graph, program, recording)
    opsets = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(opsets)
    if _contributed(graph):
        opsets.append(helper.make_opsetid(_CONTRIBUTED_DOMAIN, 1))
    proto = onnx.ModelProto(
        ir_version=version,
        producer_name="fxopt",
        producer_version=__version__,
        opset_import=opsets,
        graph=graph,
    )
    model = Model(proto, weights)
    _attach_metadata(proto, program)
    if sum(_bytes(t) for _, t in weights) > threshold:
        share_data([model], stem)
    return model


def _contributed(graph: onnx.GraphProto) -> bool:
    """Whether a graph, or one within it, has nodes of onnxruntime's own."""
    bodies = (a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
    return any(node.domain for node in graph.node) or any(map(_contributed, bodies))


def _attach_metadata(model: onnx.ModelProto, program: Program) -> None:
    """Writes what an artifact needs: the model's own containers."""
    signature = json.dumps(signature_to_json(program.signature), separators=(",", ":"), sort_keys=True)
    model.metadata_props.add(key=SIGNATURE_KEY, value=signature)
    model.metadata_props.add(key="fxopt.version", value=__version__)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def share_data(models: Sequence[Model], stem: str) -> list[torch.Tensor]:
    """Moves the larger weights of models to one sibling file, which is named by its content.

    Args:
        models: made by `build_model`, their weights in them.
        stem: what the sibling's name begins with.

    Returns:
        The tensors of the sibling file, in order; equal ones of several models are stored once.
    """
    stored: dict[object, int] = {}
    tensors: list[torch.Tensor] = []
    offset = 0
    for header, tensor in (pair for model in models for pair in model.weights):
        key = (header.data_type, hashlib.sha256(raw_memory(tensor)).digest())
        if key not in stored:
            offset += -offset % _ALIGNMENT
            stored[key] = offset
            tensors.append(tensor)
            offset += _bytes(tensor)
        header.data_location = onnx.TensorProto.EXTERNAL
        header.external_data.add(key="offset", value=str(stored[key]))
        header.external_data.add(key="length", value=str(_bytes(tensor)))
    digest = hashlib.sha256()
    for part in _aligned(tensors):
        digest.update(part)
    name = f"{stem}.{digest.hexdigest()[:16]}.data"
    for model in models:
        model.data_name, model.stored = name, tensors
        model.proto.metadata_props.add(key=DATA_KEY, value=name)
        for header, _ in model.weights:
            header.external_data.add(key="location", value=name)
    return tensors


def _aligned(tensors: Sequence[torch.Tensor]) -> list[Buffer]:
    parts: list[Buffer] = []
    offset = 0
    for tensor in tensors:
        gap = -offset % _ALIGNMENT
        parts += [bytes(gap), raw_memory(tensor)]
        offset += gap + _bytes(tensor)
    return parts


def _field(number: int, parts: Sequence[Buffer]) -> list[Buffer]:
    """A length-delimited protobuf field."""
    return [_varint(number << 3 | 2) + _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _add_node(graph: onnx.GraphProto, node: OnnxNode, names: Names) -> None:
    name = names.unique(f"{node.source.removeprefix('v_')}/{node.op_type}")
    proto = graph.node.add(op_type=node.op_type, input=node.inputs, output=node.outputs, name=name)
    if node.op_type in CONTRIBUTED:
        proto.domain = _CONTRIBUTED_DOMAIN
    proto.attribute.extend(_attribute(k, v, names) for k, v in sorted(node.attributes.items()))
    if node.module:
        proto.metadata_props.add(key="fxopt.module", value=node.module)


def _attribute(name: str, value: Attribute, names: Names) -> onnx.AttributeProto:
    if isinstance(value, Body):
        graph = onnx.GraphProto(name=names.unique(name))
        for node in value.nodes:
            _add_node(graph, node, names)
        kinds = ((v, onnx_type(dtype)) for v, dtype in value.outputs)
        graph.output.extend(helper.make_tensor_value_info(v, kind, None) for v, kind in kinds)
        return helper.make_attribute(name, graph)
    if isinstance(value, torch.dtype):
        return helper.make_attribute(name, onnx_type(value))
    if isinstance(value, torch.Tensor):
        dims, data = tuple(value.shape), raw_bytes(value)
        return helper.make_attribute(
            name, onnx.TensorProto(data_type=onnx_type(value.dtype), dims=dims, raw_data=data)
        )
    return helper.make_attribute(name, int(value) if isinstance(value, bool) else value)


def _add_values(graph: onnx.GraphProto, program: Program, recording: Recording) -> None:
    specs = zip(recording.inputs, program.signature.tensor_inputs, strict=True)
    graph.input.extend(_value_info(v, s) for v, s in specs)
    results = zip(recording.outputs, program.signature.computed_outputs, strict=True)
    graph.output.extend(_value_info(v, s) for v, s in results)


def _value_info(name: str, spec: Spec) -> onnx.ValueInfoProto:
    if isinstance(spec, TensorSpec):
        return helper.make_tensor_value_info(name, onnx_type(spec.dtype), list(spec.shape))
    assert isinstance(spec, ScalarSpec)
    return helper.make_tensor_value_info(name, onnx_type(_SCALARS[spec.kind]), [])
