"""What TensorRT's parser asks of an ONNX file, as rules that say where they are from. No TensorRT runs files here.

>>> broken_rules(onnx.ModelProto(opset_import=[onnx.helper.make_opsetid("", 8)]))[0].partition(" (")[0]
'an opset beyond 9 to 24: 8'
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["RULES", "TensorRtRule", "broken_rules"]

_OPERATORS = "github.com/onnx/onnx-tensorrt, docs/operators.md of TensorRT 10.15"
_QUANTIZED_TYPES = "docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html"
_TAKEN = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BlackmanWindow Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
    DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization GRU HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization
    IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool
    MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or
    Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike
    Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RMSNormalization RNN RoiAlign RotaryEmbedding
    Round STFT ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
    Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
    Trilu Unsqueeze Upsample Where Xor
"""
"""The ops that its parser takes."""
_FIRST_OPSET, _LAST_OPSET = 9, 24
_ROUNDINGS = ("QuantizeLinear", "DequantizeLinear")


class _Graph:
    """A model's nodes, who reads what, and small constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.nodes = model, list(model.graph.node)
        self.stored = {i.name: i for i in model.graph.initializer}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {o.name for o in model.graph.output}

    def roundings(self) -> Iterator[onnx.NodeProto]:
        """QuantizeLinear and DequantizeLinear."""
        return (n for n in self.nodes if n.op_type in _ROUNDINGS)

    def value(self, name: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None":
        """A stored tensor; None where it is computed."""
        found = self.stored.get(name)
        return None if found is None else numpy_helper.to_array(found)


@dataclass(frozen=True)
class TensorRtRule:
    """What a file must be like.

    Attributes:
        says: in words, of what is wrong.
        source: where TensorRT's makers say so.
        breaks: the places of a graph that are wrong.
    """

    says: str
    source: str
    breaks: Callable[[_Graph], Iterator[str]]


def _unknown_ops(graph: _Graph) -> Iterator[str]:
    return (n.op_type for n in graph.nodes if n.domain or n.op_type not in _TAKEN.split())


def _opsets(graph: _Graph) -> Iterator[str]:
    versions = [o.version for o in graph.model.opset_import if not o.domain]
    return (str(v) for v in versions if not _FIRST_OPSET <= v <= _LAST_OPSET)


def _zero_points(graph: _Graph) -> Iterator[str]:
    for node in graph.roundings():
        if len(node.input) > 2 and (zero := graph.value(node.input[2])) is not None and zero.any():
            yield node.name


def _other_types(graph: _Graph) -> Iterator[str]:
    for node in graph.roundings():
        zero = graph.stored.get(node.input[2]) if len(node.input) > 2 else None
        held = zero if zero is not None else graph.stored.get(node.input[0])
        if held is None or held.data_type != onnx.TensorProto.INT8:
            yield node.name


def _scales_of_activations(graph: _Graph) -> Iterator[str]:
    for node in graph.roundings():
        scale = graph.value(node.input[1])
        if node.input[0] not in graph.stored and (scale is None or scale.size != 1):
            yield node.name


def _integers_that_others_read(graph: _Graph) -> Iterator[str]:
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            readers = graph.readers.get(node.output[0], [])
            if node.output[0] in graph.outputs or any(r.op_type != "DequantizeLinear" for r in readers):
                yield node.name


RULES = (
    TensorRtRule("an op that its parser does not take", _OPERATORS, _unknown_ops),
    TensorRtRule(f"an opset beyond {_FIRST_OPSET} to {_LAST_OPSET}", _OPERATORS, _opsets),
    TensorRtRule("a zero point that is not 0", _OPERATORS, _zero_points),
    TensorRtRule("integers that are not int8, such as those of a bias", _OPERATORS, _other_types),
    TensorRtRule("an activation of several scales", _QUANTIZED_TYPES, _scales_of_activations),
    TensorRtRule("integers that are not made floats again at once", _QUANTIZED_TYPES, _integers_that_others_read),
)  # fmt: skip
"""What a file is held to."""


def broken_rules(model: onnx.ModelProto) -> list[str]:
    """What TensorRT would not take of a model, a line a rule, with its source."""
    graph = _Graph(model)
    found = ((rule, list(dict.fromkeys(rule.breaks(graph)))) for rule in RULES)
    return [f"{rule.says}: {', '.join(places)} ({rule.source})" for rule, places in found if places]
