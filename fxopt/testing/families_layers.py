"""More families: layers and ops of trained models that the others lack, in the spelling that tracing gives."""

import operator
from collections.abc import Sequence

import torch
from torch.fx import Node

from fxopt.testing.builder import ProgramBuilder
from fxopt.testing.choice import Choose
from fxopt.testing.families import axis_of, family, floating, static, weight

__all__: list[str] = []


@family
def rms_norm(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A value divided by its root mean square, as models write it out."""
    width = static(b, x, -1)
    if width is None or width < 2 or not floating(b, x):
        return None
    mean = b.call("aten.mean.dim", b.call("aten.pow.Tensor_Scalar", x, 2), [b.value(x).dim() - 1], True)
    scale = b.call("aten.rsqrt", b.call("aten.add.Tensor", mean, draw.of((1e-5, 1e-3))))
    return b.call("aten.mul.Tensor", b.call("aten.mul.Tensor", x, scale), weight(draw, b, (width,)))


@family
def instance_norm(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """An instance norm over images of at least four pixels."""
    channels, value = static(b, x, 1), b.value(x)
    sizes = [static(b, x, i) for i in range(2, value.dim())]
    if channels is None or value.dim() not in (3, 4) or not floating(b, x):
        return None
    pixels = 1
    for size in sizes:
        pixels *= size or 0
    if pixels < 4:
        return None
    gamma, beta = (weight(draw, b, (channels,)) if not draw.chance(3) else None for _ in range(2))
    return b.call("aten.instance_norm", x, gamma, beta, None, None, True, 0.1, 1e-5, False)


@family
def gated(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A gated linear unit along an axis of even size, or a SwiGLU of two linear layers."""
    width = static(b, x, -1)
    if width is None or not floating(b, x):
        return None
    if width % 2 == 0 and draw.chance(2):
        return b.call("aten.glu", x, b.value(x).dim() - 1)
    out = draw.size()
    gate, up = (b.call("aten.linear", x, weight(draw, b, (out, width)), None) for _ in range(2))
    return b.call("aten.mul.Tensor", b.call("aten.silu", gate), up)


@family
def prelu(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A PReLU with a slope a channel or one for all."""
    channels = static(b, x, 1)
    if channels is None or b.value(x).dim() < 2 or not floating(b, x):
        return None
    return b.call("aten.prelu", x, weight(draw, b, (draw.of((channels, 1)),)))


@family
def upsample(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Nearest or bilinear resizing of an image to twice its size."""
    height, width = static(b, x, 2), static(b, x, 3)
    if b.value(x).dim() != 4 or height is None or width is None or height * width > 64 or not floating(b, x):
        return None
    size = [2 * height, 2 * width]
    if draw.chance(2):
        return b.call("aten.upsample_bilinear2d", x, size, draw.chance(2), None, None)
    return b.call("aten.upsample_nearest2d", x, size, None, None)


@family
def pixel_shuffle(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Channels into pixels, or back."""
    channels, height, width = (static(b, x, i) for i in (1, 2, 3))
    if b.value(x).dim() != 4 or channels is None or height is None or width is None:
        return None
    if channels % 4 == 0:
        return b.call("aten.pixel_shuffle", x, 2)
    return b.call("aten.pixel_unshuffle", x, 2) if height % 2 == 0 and width % 2 == 0 else None


@family
def rotary(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Rotary positions: a value times cosines plus its rotated halves times sines."""
    width = static(b, x, -1)
    if width is None or width % 2 or not floating(b, x):
        return None
    last = b.value(x).dim() - 1
    first = b.call("aten.slice.Tensor", x, last, 0, width // 2)
    second = b.call("aten.slice.Tensor", x, last, width // 2, 2**63 - 1)
    turned = b.call("aten.cat", [b.call("aten.neg", second), first], last)
    angles = weight(draw, b, (width,))
    cosine, sine = b.call("aten.cos", angles), b.call("aten.sin", angles)
    return b.call(
        "aten.add.Tensor", b.call("aten.mul.Tensor", x, cosine), b.call("aten.mul.Tensor", turned, sine)
    )


@family
def heads(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Self-attention of a layer: projections split into heads, attention, heads joined, projected."""
    width, length = static(b, x, -1), static(b, x, 1)
    if b.value(x).dim() != 3 or width is None or width % 2 or length is None or not floating(b, x):
        return None
    batch = (
        b.call("aten.sym_size.int", x, 0)
        if isinstance(b.value(x).shape[0], torch.SymInt)
        else b.value(x).shape[0]
    )

    def projected() -> Node:
        y = b.call("aten.linear", x, weight(draw, b, (width, width)), weight(draw, b, (width,)))
        return b.call("aten.permute", b.call("aten.reshape", y, [batch, length, 2, width // 2]), [0, 2, 1, 3])

    query, key, value = projected(), projected(), projected()
    made = b.call("aten.scaled_dot_product_attention", query, key, value, None, 0.0, draw.chance(2))
    joined = b.call("aten.reshape", b.call("aten.permute", made, [0, 2, 1, 3]), [batch, length, width])
    return b.call("aten.linear", joined, weight(draw, b, (width, width)), None)


@family
def comparison(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """How many elements are above a threshold that no rounding reaches."""
    axis = axis_of(draw, b, x)
    if axis is None or not floating(b, x):
        return None
    rounded = b.call("aten.add.Tensor", b.call("aten.round", x), 0.5)
    above = b.call(draw.of(("aten.gt.Scalar", "aten.lt.Scalar", "aten.ge.Scalar")), rounded, 1.0)
    return b.call("aten.sum.dim_IntList", b.call("aten.to.dtype", above, torch.float32), [axis])


@family
def norm(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """The L2 norm along an axis, or a value divided by it."""
    axis = axis_of(draw, b, x)
    if axis is None or not floating(b, x):
        return None
    shifted = b.call("aten.add.Tensor", b.call("aten.abs", x), 1.0)
    length = b.call("aten.linalg_vector_norm", shifted, 2, [axis], True)
    return b.call("aten.div.Tensor", x, length) if draw.chance(2) else length


@family
def logsumexp(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """The logarithm of a sum of exponentials along an axis."""
    axis = axis_of(draw, b, x)
    return None if axis is None or not floating(b, x) else b.call("aten.logsumexp", x, [axis], draw.chance(2))


@family
def flip(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """An axis reversed, sometimes twice."""
    axis = axis_of(draw, b, x)
    if axis is None:
        return None
    flipped = b.call("aten.flip", x, [axis])
    return b.call("aten.flip", flipped, [axis]) if draw.chance(4) else flipped


@family
def chunk(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """One or the sum of the two halves of an axis."""
    axis = axis_of(draw, b, x)
    size = static(b, x, axis) if axis is not None else None
    if axis is None or size is None or size % 2 or size == 0:
        return None
    parts = b.call("aten.split.Tensor", x, size // 2, axis)
    first, second = (b.call(operator.getitem, parts, i) for i in (0, 1))
    return b.call("aten.sub.Tensor", first, second) if floating(b, x) and draw.chance(2) else second


@family
def batched(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A product of three-dimensional values, or one that adds to a bias."""
    width = static(b, x, -1)
    if width is None or b.value(x).dim() not in (2, 3) or not floating(b, x):
        return None
    out = draw.size()
    if b.value(x).dim() == 2:
        return b.call("aten.addmm", weight(draw, b, (out,)), x, weight(draw, b, (width, out)))
    order = [0, 2, 1]
    return b.call("aten.bmm", x, b.call("aten.permute", x, order))
