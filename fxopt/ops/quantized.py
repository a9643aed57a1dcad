"""The ops of quantization that ATen has none for, `torch.ops.fxopt.*`, with their reference in ATen.

`fake_quantize` rounds to integers and back, as ONNX's QuantizeLinear and DequantizeLinear do one after the other:

    q = clamp(round(x / scale) + zero_point, quant_min, quant_max),    y = (q - zero_point) * scale

with halves rounded to even; `to_integers` gives the q themselves. `scale` and `zero_point` broadcast to `x`: a
scalar is one for the whole tensor, a shape of ones but for one dimension is one a channel; blocks are a dimension of
their own. `dequantize` is its second half, on integers that are stored. `choose_qparams` gives the numbers that
cover a tensor's range, zero included, by the rule of ONNX's DynamicQuantizeLinear (a scale of 1 where all is zero).
`round_blocks` rounds each block of the last dimension to integers of -high to high and back, by its largest
magnitude, which it is given: the rule by which onnxruntime's MatMulNBits rounds what it reads at accuracy level 4. (ATen's
`fake_quantize_per_tensor_affine` multiplies by the reciprocal, has no meta kernel in torch 2.13, and its
`per_channel` form takes no float64 scales.)

The gradient of `fake_quantize` is the straight-through estimator: that of the identity where `x` is within range,
zero beyond (Bengio et al., 2013, arXiv:1308.3432; Jacob et al., 2018, arXiv:1712.05877).

>>> x = torch.tensor([-1.0, 0.24, 0.26, 9.0])
>>> torch.ops.fxopt.fake_quantize(x, torch.tensor(0.5), torch.tensor(1), 0, 255)
tensor([-0.5000,  0.0000,  0.5000,  9.0000])
"""

import torch

__all__ = ["choose_qparams", "dequantize", "fake_quantize", "quantize", "round_blocks", "to_integers"]

_LIBRARY = torch.library.Library("fxopt", "DEF")
_LIBRARY.define(
    "fake_quantize(Tensor x, Tensor scale, Tensor zero_point, int quant_min, int quant_max) -> Tensor"
)
_LIBRARY.define(
    "to_integers(Tensor x, Tensor scale, Tensor zero_point, int quant_min, int quant_max) -> Tensor"
)
_LIBRARY.define("choose_qparams(Tensor x, int quant_min, int quant_max) -> (Tensor scale, Tensor zero_point)")
_LIBRARY.define("round_blocks(Tensor x, Tensor largest, int high) -> Tensor")
_LIBRARY.define("dequantize(Tensor q, Tensor scale, Tensor zero_point) -> Tensor")


def quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, quant_min: int, quant_max: int
) -> torch.Tensor:
    """The integers of `fake_quantize`, in the dtype of `x`."""
    steps = torch.round(x / scale.to(x.dtype)) + zero_point.to(x.dtype)
    return torch.clamp(steps, quant_min, quant_max)


def _fake_quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, quant_min: int, quant_max: int
) -> torch.Tensor:
    q = quantize(x, scale, zero_point, quant_min, quant_max)
    return (q - zero_point.to(x.dtype)) * scale.to(x.dtype)


def _to_integers(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, quant_min: int, quant_max: int
) -> torch.Tensor:
    return quantize(x, scale, zero_point, quant_min, quant_max).to(_stored_as(quant_min, quant_max))


def _dequantize(q: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    return (q.to(scale.dtype) - zero_point.to(scale.dtype)) * scale


def _round_blocks(x: torch.Tensor, largest: torch.Tensor, high: int) -> torch.Tensor:
    blocks = x.reshape(*largest.shape, x.shape[-1] // largest.shape[-1])
    largest = largest.unsqueeze(-1)
    inverse = torch.where(largest == 0, torch.zeros_like(largest), high / largest)
    return (torch.round(blocks * inverse) * (largest / high)).reshape(x.shape)


def _choose_qparams(x: torch.Tensor, quant_min: int, quant_max: int) -> tuple[torch.Tensor, torch.Tensor]:
    kind = _stored_as(quant_min, quant_max)
    if not x.numel():
        return torch.ones((), dtype=x.dtype), torch.zeros((), dtype=kind)
    low, high = (v.detach() for v in torch.aminmax(x))
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / (quant_max - quant_min)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = torch.clamp(torch.round(quant_min - low / scale), quant_min, quant_max)
    return scale, zero_point.nan_to_num(quant_min).to(kind)


def _stored_as(quant_min: int, quant_max: int) -> torch.dtype:
    """The type of integers, and so in ONNX of their zero point.

    Raises:
        TypeError: no 8-bit type has this range.
    """
    kinds = {(0, 255): torch.uint8, (-128, 127): torch.int8}
    if (quant_min, quant_max) not in kinds:
        raise TypeError(f"8-bit integers are 0 to 255 or -128 to 127, not {quant_min} to {quant_max}")
    return kinds[quant_min, quant_max]


def _numbers_of_x(x: torch.Tensor, quant_min: int, quant_max: int) -> tuple[torch.Tensor, torch.Tensor]:
    if not x.is_floating_point():
        raise TypeError(f"choose_qparams takes floating-point tensors, got {x.dtype}")
    return x.new_empty(()), x.new_empty((), dtype=_stored_as(quant_min, quant_max))


def _like_x(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, quant_min: int, quant_max: int
) -> torch.Tensor:
    if not x.is_floating_point():
        raise TypeError(f"fake_quantize takes floating-point tensors, got {x.dtype}")
    for numbers in (scale, zero_point):
        fits = all(n in (1, d) for n, d in zip(reversed(numbers.shape), reversed(x.shape), strict=False))
        if numbers.dim() > x.dim() or not fits:
            raise RuntimeError(
                f"numbers of the shape {list(numbers.shape)} do not broadcast to {list(x.shape)}"
            )
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _integers_like_x(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, quant_min: int, quant_max: int
) -> torch.Tensor:
    return _like_x(x, scale, zero_point, quant_min, quant_max).to(_stored_as(quant_min, quant_max))


def _like_blocks(x: torch.Tensor, largest: torch.Tensor, high: int) -> torch.Tensor:
    if not x.is_floating_point():
        raise TypeError(f"round_blocks takes floating-point tensors, got {x.dtype}")
    if not x.dim() or x.dim() != largest.dim() or x.shape[-1] % largest.shape[-1]:
        raise RuntimeError(
            f"{list(x.shape)} has no blocks of which {list(largest.shape)} are the largest values"
        )
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _like_scale(q: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    return torch.empty(q.shape, dtype=scale.dtype, device=q.device)


_LIBRARY.impl("fake_quantize", _fake_quantize, "CompositeExplicitAutograd")
_LIBRARY.impl("to_integers", _to_integers, "CompositeExplicitAutograd")
_LIBRARY.impl("choose_qparams", _choose_qparams, "CompositeExplicitAutograd")
_LIBRARY.impl("round_blocks", _round_blocks, "CompositeExplicitAutograd")
_LIBRARY.impl("dequantize", _dequantize, "CompositeExplicitAutograd")
torch.library.register_fake("fxopt::fake_quantize", _like_x, lib=_LIBRARY)
torch.library.register_fake("fxopt::to_integers", _integers_like_x, lib=_LIBRARY)
torch.library.register_fake("fxopt::choose_qparams", _numbers_of_x, lib=_LIBRARY)
torch.library.register_fake("fxopt::round_blocks", _like_blocks, lib=_LIBRARY)
torch.library.register_fake("fxopt::dequantize", _like_scale, lib=_LIBRARY)


def _keep_range(ctx: object, inputs: tuple[object, ...], output: object) -> None:
    x, scale, zero_point, low, high = inputs
    assert isinstance(x, torch.Tensor) and isinstance(scale, torch.Tensor)
    assert isinstance(zero_point, torch.Tensor) and isinstance(low, int) and isinstance(high, int)
    q = torch.round(x / scale) + zero_point
    ctx.save_for_backward((q >= low) & (q <= high))  # type: ignore[attr-defined]


def _straight_through(ctx: object, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (within,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return gradient * within, None, None, None, None


torch.library.register_autograd(
    "fxopt::fake_quantize", _straight_through, setup_context=_keep_range, lib=_LIBRARY
)

torch.library.register_autograd("fxopt::round_blocks", lambda ctx, g: (g, None, None), lib=_LIBRARY)

fake_quantize: torch._ops.OpOverload = torch.ops.fxopt.fake_quantize.default
to_integers: torch._ops.OpOverload = torch.ops.fxopt.to_integers.default
choose_qparams: torch._ops.OpOverload = torch.ops.fxopt.choose_qparams.default
round_blocks: torch._ops.OpOverload = torch.ops.fxopt.round_blocks.default
dequantize: torch._ops.OpOverload = torch.ops.fxopt.dequantize.default
