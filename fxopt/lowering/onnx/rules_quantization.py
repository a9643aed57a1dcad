"""Rounding to integers and back: QuantizeLinear, DequantizeLinear, weights stored as integers."""

import torch

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.graph import Value

__all__: list[str] = []

_TYPES = {(0, 255): torch.uint8, (-128, 127): torch.int8}


def _numbers(c: Call, *names: str) -> list[torch.Tensor]:
    """Scale and zero point, which ONNX's runtimes want as constants."""
    found = [c.builder.weight_of(c[n]) for n in names]
    if any(t is None for t in found):
        raise c.error("its scale and zero point must be weights")
    return [t.detach() for t in found if t is not None]


def _axis(c: Call, scale: torch.Tensor) -> int | None:
    """The dimension along which scales differ; None where there is one scale.

    Raises:
        LoweringError: they differ along several.
    """
    axes = [d for d, size in enumerate(scale.shape) if size != 1]
    if len(axes) > 1 or (axes and scale.dim() != c.rank):
        raise c.error(f"scales of the shape {list(scale.shape)} are neither one nor one a channel")
    return axes[0] if axes else None


@rule("fxopt.fake_quantize")
def fake_quantize(b: Builder, c: Call) -> Value:
    scale, zero_point = _numbers(c, "scale", "zero_point")
    kind = _TYPES.get((c.integer("quant_min"), c.integer("quant_max")))
    if kind is None:
        raise c.error(f"no integer type is {c.integer('quant_min')} to {c.integer('quant_max')}")
    axis = _axis(c, scale)
    steps = _constants(b, scale, zero_point, kind, axis)
    q = b.op("QuantizeLinear", c.x, *steps, axis=axis)
    return b.op("DequantizeLinear", q, *steps, axis=axis)


@rule("fxopt.dequantize")
def dequantize(b: Builder, c: Call) -> Value:
    scale, zero_point = _numbers(c, "scale", "zero_point")
    axis = _axis(c, scale)
    steps = _constants(b, scale, zero_point, c.fake().dtype, axis)
    return b.op("DequantizeLinear", c.x, *steps, axis=axis)


def _constants(
    b: Builder, scale: torch.Tensor, zero_point: torch.Tensor, kind: torch.dtype, axis: int | None
) -> list[Value]:
    """Scale and zero point as ONNX has them: scalars, or vectors along the axis; no zero point for i32."""
    shape = () if axis is None else (scale.shape[axis],)
    numbers = [b.constant(scale.reshape(shape), scale.dtype)]
    if kind is not torch.int32:
        numbers.append(b.constant(zero_point.expand(scale.shape).reshape(shape), kind))
    elif bool((zero_point != 0).any()):
        raise b.error("32-bit integers have no zero point")
    return numbers
