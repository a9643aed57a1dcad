"""Upsampling, sampling at given places, and sliding windows as columns."""

import torch

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.graph import Attribute, Value
from fxopt.ops.sizes import Size, product

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
    return b.ops("Resize", c.x, "", *sizes, outputs=1, **attributes)[0]


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
    kernel, dilation, padding, stride = (
        c.integers(n) for n in ("kernel_size", "dilation", "padding", "stride")
    )
    single = c.rank == 3
    x, (n, channels, height, width) = c.x, (1, *c.shape) if single else c.shape
    x = b.unsqueeze(x, 0) if single else x
    x = b.op("Pad", x, b.ints([0, 0, *padding, 0, 0, *padding])) if any(padding) else x
    counts = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, d, p, s in zip((height, width), kernel, dilation, padding, stride, strict=True)
    ]
    for axis, (k, d, s, count) in enumerate(zip(kernel, dilation, stride, counts, strict=True)):
        x = b.op("Gather", x, _places(b, count, k, d, s), axis=2 + 2 * axis)
    ordered = b.transpose(x, [0, 1, 2, 4, 3, 5])
    columns = product([channels, *kernel]), product(counts)
    return b.reshape(ordered, (), columns) if single else b.reshape(ordered, (n,), [n, *columns])


def _places(b: Builder, windows: Size, kernel: int, dilation: int, stride: int) -> Value:
    """The position of each kernel element in each window, i64[kernel, windows]."""
    elements = torch.arange(kernel)[:, None] * dilation
    if isinstance(windows, int):
        return b.constant(elements + torch.arange(windows)[None] * stride, torch.int64)
    starts = b.places(windows)
    starts = b.op("Mul", starts, b.constant(stride, torch.int64)) if stride != 1 else starts
    return b.op("Add", b.constant(elements, torch.int64), starts)


@rule("aten.unfold", "aten.unfold_copy")
def unfold(b: Builder, c: Call) -> Value:
    """Windows along an axis, their elements last."""
    if c.rank == 0:
        return b.op("Reshape", c.x, b.shape(tuple(c.out.shape)))
    axis, size, step = c.dim("dimension"), c.integer("size"), c.integer("step")
    windows = b.op("Gather", c.x, _places(b, (c.shape[axis] - size) // step + 1, size, 1, step), axis=axis)
    order = [d for d in range(c.rank + 1) if d != axis]
    return b.transpose(windows, [*order, axis])
