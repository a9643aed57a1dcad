"""Padding: constant, reflected, replicated, circular; negative amounts take away, amounts may be computed."""

from collections.abc import Sequence

import torch
from torch.fx import Node

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.graph import Value
from fxopt.ops.sizes import Size

__all__: list[str] = []

_END = torch.iinfo(torch.int64).max
_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@rule("aten.pad", "aten.constant_pad_nd", "aten.reflection_pad1d", "aten.reflection_pad2d",
      "aten.reflection_pad3d", "aten.replication_pad1d", "aten.replication_pad2d",
      "aten.replication_pad3d")  # fmt: skip
def pad(b: Builder, c: Call) -> Value:
    name = c.name
    mode = c.text("mode") if "mode" in c.arguments else "constant"
    mode = "reflect" if "reflection" in name else "replicate" if "replication" in name else mode
    before, after = _amounts(c)
    if _fixed(*before, *after) and not any([*before, *after]):
        return c.x
    value = c.arguments.get("value")
    fill = b.operand(value, c.out.dtype) if mode == "constant" and value else ""
    if mode == "constant" and not _fixed(*before, *after):
        return b.op("Pad", c.x, b.shape([*before, *after]), fill)
    x, shape = _cropped(b, c, before, after)
    before, after = [_positive(n) for n in before], [_positive(n) for n in after]
    if mode == "circular":
        return _wrapped(b, x, shape, before, after)
    if _fixed(*before, *after) and not any([*before, *after]):
        return x
    if mode == "constant" and not fill:
        return b.pad_zeros(x, [int(n) for n in before], [int(n) for n in after])
    return b.op("Pad", x, b.shape([*before, *after]), fill, mode=_MODES[mode])


def _amounts(c: Call) -> tuple[list[Size], list[Size]]:
    """How much is put before and after each axis."""
    given = c["pad"] if "pad" in c.arguments else c["padding"]
    assert isinstance(given, (list, tuple))
    amounts = [a.meta["val"] if isinstance(a, Node) else a for a in given]
    before: list[Size] = [0] * c.rank
    after: list[Size] = [0] * c.rank
    for i in range(len(amounts) // 2):
        before[-1 - i], after[-1 - i] = amounts[2 * i], amounts[2 * i + 1]
    return before, after


def _fixed(*sizes: Size) -> bool:
    return all(isinstance(s, int) for s in sizes)


def _positive(size: Size) -> Size:
    return max(size, 0) if isinstance(size, int) else torch.sym_max(size, 0)


def _cropped(b: Builder, c: Call, before: Sequence[Size], after: Sequence[Size]) -> tuple[Value, list[Size]]:
    """What negative padding leaves, and its shape; onnxruntime's Pad takes none in other modes than constant."""
    x, shape = c.x, list(c.shape)
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        if _fixed(low, high) and low >= 0 and high >= 0:
            continue
        start = _positive(-low)
        end = shape[axis] - _positive(-high)
        x = b.op("Slice", x, b.size(start), b.size(end), b.ints([axis]))
        shape[axis] = end - start
    return x, shape


def _wrapped(
    b: Builder, x: Value, shape: Sequence[Size], before: Sequence[Size], after: Sequence[Size]
) -> Value:
    """Circular padding by slices: Pad's mode "wrap" came with opset 19, and onnxruntime refuses empty tensors in it."""
    for axis, (size, low, high) in enumerate(zip(shape, before, after, strict=True)):
        parts = [x]
        if not (isinstance(low, int) and low == 0):
            start = b.ints([-low]) if isinstance(low, int) else b.size(size - low)
            parts.insert(0, b.op("Slice", x, start, b.ints([_END]), b.ints([axis])))
        if not (isinstance(high, int) and high == 0):
            parts.append(b.op("Slice", x, b.ints([0]), b.size(high), b.ints([axis])))
        x = b.op("Concat", *parts, axis=axis) if len(parts) > 1 else x
    return x
