"""Which dtypes an ONNX op can't take, and in which wider dtype it runs instead.

Two reasons, in one table, so that no rule thinks of them: the ONNX schema does not list the dtype (ReduceSum
of int8, Add of bool), or onnxruntime's CPU provider, which checks the files, has no kernel (Where of bool,
nearly all of bfloat16). The op then runs between casts: for integers that is the same function, and bfloat16
is rounded after each op as torch's CPU kernels do. Nothing is wider than float64: what has no kernel for it is
lowered by parts, or refused.

>>> wider_dtype("Where", torch.bool), wider_dtype("Add", torch.float32)
(torch.int32, None)
"""

import torch

from fxopt.lowering.onnx.dtypes import SMALL_INTEGERS

__all__ = ["CONTRIBUTED", "data_inputs", "lacks_kernel", "output_dtypes", "wider_dtype"]

_MOVES = {
    "Cast", "CastLike", "Compress", "Concat", "ConstantOfShape", "DequantizeLinear", "Flatten", "Gather",
    "GatherElements", "GatherND", "Identity", "IsInf", "IsNaN", "QuantizeLinear", "Reshape",
    "ScatterElements", "ScatterND", "Shape", "Sign", "Size", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
}  # fmt: skip
"""Ops that take every dtype."""

_ARITHMETIC = {"Abs", "Add", "Div", "Mod", "Mul", "Neg", "Sub"}
_ORDER = {
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Clip",
    "ArgMax",
    "ArgMin",
    "Relu",
    "TopK",
}
_SUMS = {
    "CumSum", "Einsum", "MatMul", "Pow", "ReduceL1", "ReduceL2", "ReduceMean", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
}  # fmt: skip
_EXTREMES = {"ReduceMax", "ReduceMin"}
_SHAPING = {"EyeLike", "NonZero", "Pad", "Range", "Trilu", "Where"}

_WIDE: dict[torch.dtype, frozenset[str]] = {
    torch.bool: frozenset(_ARITHMETIC | _ORDER | _SUMS | _EXTREMES | {"EyeLike", "Range", "Where"}),
    torch.int8: frozenset(_SUMS | {"EyeLike", "NonZero", "Range", "Relu", "Trilu"}),
    torch.uint8: frozenset(_SUMS | {"EyeLike", "Neg", "Range", "Relu", "Trilu"}),
    torch.int16: frozenset(_SUMS | _EXTREMES | _SHAPING | _ORDER),
    torch.uint16: frozenset(_ARITHMETIC | _SUMS | _EXTREMES | _SHAPING | _ORDER),
    torch.float16: frozenset({"Range"}),
}


_NOT_FLOAT64 = frozenset({
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Attention", "AveragePool", "Celu", "Col2Im", "Conv",
    "ConvTranspose", "Cosh", "Det", "Elu", "Erf", "Gelu", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid",
    "HardSwish", "Hardmax", "InstanceNormalization", "LRN", "LeakyRelu", "LpPool", "MaxUnpool",
    "MeanVarianceNormalization", "Mish", "NonZero", "OneHot", "PRelu", "Resize", "Selu", "Shrink", "Sinh", "Softplus",
    "Softsign", "Tan", "ThresholdedRelu",
})  # fmt: skip
"""Tried one by one in onnxruntime 1.32. Shrink has a kernel, but its numbers are float32."""


def lacks_kernel(op_type: str, dtypes: list[torch.dtype | None]) -> bool:
    """Whether onnxruntime can't run an op on inputs of these dtypes, in no wider dtype either."""
    return op_type in _NOT_FLOAT64 and torch.float64 in dtypes


def wider_dtype(op_type: str, dtype: torch.dtype) -> torch.dtype | None:
    """The dtype to run an op in instead of `dtype`, or None where it can take `dtype` itself."""
    if dtype is torch.bfloat16:
        return None if op_type in _MOVES else torch.float32
    if op_type not in _WIDE.get(dtype, ()):
        return None
    if dtype is torch.float16:
        return torch.float32
    return torch.int64 if dtype in SMALL_INTEGERS and op_type == "CumSum" else torch.int32


def data_inputs(op_type: str, dtypes: list[torch.dtype | None]) -> list[int]:
    """Which inputs hold the data whose dtype decides; Where's condition and Pad's sizes do not."""
    first = 1 if op_type == "Where" else 0
    if len(dtypes) <= first or dtypes[first] is None:
        return []
    return [i for i in range(first, len(dtypes)) if dtypes[i] is dtypes[first]]


_BOOLEAN = {
    "And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor",
}  # fmt: skip
_INDEX = {"ArgMax", "ArgMin", "NonZero", "Shape", "Size"}
CONTRIBUTED = frozenset({"GatherBlockQuantized", "MatMulNBits"})
"""Ops of onnxruntime's own, in the domain com.microsoft."""
_LEADER = {
    "GatherBlockQuantized": 2,
    "Where": 1,
    "OneHot": 2,
    "DequantizeLinear": 1,
    "QuantizeLinear": 2,
    "CastLike": 1,
}


def output_dtypes(op_type: str, inputs: list[torch.dtype | None], outputs: int) -> list[torch.dtype | None]:
    """The dtypes of an op's outputs from those of its inputs, for ops that follow ONNX's habits."""
    if op_type in _BOOLEAN:
        return [torch.bool] * outputs
    if op_type in _INDEX:
        return [torch.int64] * outputs
    leader = _LEADER.get(op_type, 0)
    first = inputs[leader] if len(inputs) > leader else None
    if op_type in {"MatMulInteger", "ConvInteger"}:
        first = torch.int32
    if op_type == "DynamicQuantizeLinear":
        return [torch.uint8, torch.float32, torch.uint8]
    if op_type in {"TopK", "MaxPool"}:
        return [first, torch.int64][:outputs]
    return [first] * outputs
