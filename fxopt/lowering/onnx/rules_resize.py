"""Upsampling, sampling at given places, and sliding windows as columns."""

import torch

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.graph import Attribute, Value
from fxopt.ops.sizes import product

__all__: list[str] = []


def _nearest(spatial: int) -> None:
    @rule(f"aten.upsample_nearest{spatial}d")
    def lower(b: Builder, c: Call) -> Value:
        return _resize(
            b, c, spatial, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )

    @rule(f"aten._upsample_nearest_exact{spatial}d")
    def lower_exact(b: Builder, c: Call) -> Value:
        return _resize(
            b, c, spatial, mode="nearest", coordinate_transformation_mode="half_pixel",
            nearest_mode="round_prefer_ceil",
        )  # fmt: skip


def _smooth(name: str, spatial: int, mode: str, **attributes: Attribute) -> None:
    @rule(f"aten.{name}")
    def lower(b: Builder, c: Call) -> Value:
        how = "align_corners" if c.flag("align_corners") else "half_pixel"
        return _resize(b, c, spatial, mode=mode, coordinate_transformation_mode=how, **attributes)


for _spatial in (1, 2, 3):
    _nearest(_spatial)
_smooth("upsample_linear1d", 1, "linear")
_smooth("upsample_bilinear2d", 2, "linear")
_smooth("upsample_trilinear3d", 3, "linear")
_smooth("upsample_bicubic2d", 2, "cubic", cubic_coeff_a=-0.75)
_smooth("_upsample_bilinear2d_aa", 2, "linear", antialias=1, exclude_outside=1)
_smooth("_upsample_bicubic2d_aa", 2, "cubic", cubic_coeff_a=-0.5, antialias=1, exclude_outside=1)


def _resize(b: Builder, c: Call, spatial: int, **attributes: Attribute) -> Value:
    """By the given factors, which torch uses for places too, else by the result's sizes."""
    if attributes.get("antialias") and c.flag("align_corners"):
        raise c.error("antialias together with align_corners")
    scales = _scales(c, spatial)
    sizes: tuple[Value, ...]
    if scales is not None and attributes.get("coordinate_transformation_mode") != "align_corners":
        sizes = (b.constant([1.0, 1.0, *scales], torch.float32),)
    else:
        sizes = ("", b.shape(tuple(c.out.shape)))
    return b.graph.ops("Resize", (c.x, "", *sizes), 1, attributes=attributes)[0]


def _scales(c: Call, spatial: int) -> list[float] | None:
    if c.has("scale_factors"):
        given = c["scale_factors"]
        assert isinstance(given, (list, tuple))
        values: list[object] = list(given)
    else:
        names = [n for n in ("scales_d", "scales_h", "scales_w", "scales") if n in c.arguments]
        values = [c[n] for n in names]
    if len(values) != spatial or not all(isinstance(v, (int, float)) for v in values):
        return None
    factors = [_single(float(str(v))) for v in values]
    fits = (
        not isinstance(before, int) or int(before * factor) == after
        for before, factor, after in zip(c.shape[2:], factors, c.out.shape[2:], strict=True)
    )
    return factors if all(fits) else None


def _single(factor: float) -> float:
    """The float32 at or above a factor: below it, `floor(10 * 0.7)` would be 6."""
    near = torch.tensor(factor, dtype=torch.float32)
    return float(near if float(near) >= factor else torch.nextafter(near, torch.tensor(torch.inf)))


@rule("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def grid_sampler(b: Builder, c: Call) -> Value:
    mode = ("linear", "nearest", "cubic")[c.integer("interpolation_mode")]
    if b.opset < 20:
        mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding = ("zeros", "border", "reflection")[c.integer("padding_mode")]
    return b.op(
        "GridSample", c.x, c.tensor("grid"), mode=mode, padding_mode=padding,
        align_corners=int(c.flag("align_corners")),
    )  # fmt: skip


@rule("aten.im2col")
def im2col(b: Builder, c: Call) -> Value:
    """Every window as a column: two gathers over the padded image."""
    if c.rank != 4:
        raise c.error("an example without batch")
    kernel, dilation, padding, stride = (
        c.integers(n) for n in ("kernel_size", "dilation", "padding", "stride")
    )
    n, channels, height, width = c.shape
    if not isinstance(height, int) or not isinstance(width, int):
        raise c.error("windows of an image of dynamic size")
    x = b.op("Pad", c.x, b.ints([0, 0, *padding, 0, 0, *padding])) if any(padding) else c.x
    places = [
        _places(size + 2 * p, k, d, s)
        for size, k, d, p, s in zip((height, width), kernel, dilation, padding, stride, strict=True)
    ]
    rows = b.op("Gather", x, b.constant(places[0], torch.int64), axis=2)
    windows = b.op("Gather", rows, b.constant(places[1], torch.int64), axis=4)
    ordered = b.transpose(windows, [0, 1, 2, 4, 3, 5])
    count = int(places[0].shape[1] * places[1].shape[1])
    return b.reshape(ordered, (n,), [n, product([channels, *kernel]), count])


def _places(size: int, kernel: int, dilation: int, stride: int) -> torch.Tensor:
    """The position of each kernel element in each window, i64[kernel, windows]."""
    windows = (size - dilation * (kernel - 1) - 1) // stride + 1
    return torch.arange(kernel)[:, None] * dilation + torch.arange(windows)[None] * stride


@rule("aten.unfold")
def unfold(b: Builder, c: Call) -> Value:
    """Windows along an axis, their elements last."""
    if c.rank == 0:
        return b.op("Reshape", c.x, b.shape(tuple(c.out.shape)))
    axis, size, step = c.dim("dimension"), c.integer("size"), c.integer("step")
    length = c.shape[axis]
    if not isinstance(length, int):
        raise c.error("windows along a dynamic axis")
    windows = b.op("Gather", c.x, b.constant(_places(length, size, 1, step).t(), torch.int64), axis=axis)
    order = [d for d in range(c.rank + 1) if d != axis + 1]
    return b.transpose(windows, [*order, axis + 1])
