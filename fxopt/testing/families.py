"""Op families of the program generator: each extends a program by one step, or says that it can't.

A family is a function `(draw, builder, value, pool) -> node or None`. Families are grouped by what they need:
any floats, a matrix's last axis, images, several values, shapes, integers.
"""

from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from fxopt.testing.builder import ProgramBuilder
from fxopt.testing.choice import Choose

__all__ = ["FAMILIES", "Family", "family"]

Family = Callable[[Choose, ProgramBuilder, Node, Sequence[Node]], Node | None]

FAMILIES: dict[str, Family] = {}
"""Families by name."""


def family(function: Family) -> Family:
    """Registers a family under its function's name."""
    FAMILIES[function.__name__.strip("_")] = function
    return function


def weight(draw: Choose, b: ProgramBuilder, shape: Sequence[int], *, positive: bool = False) -> Node:
    """A weight: mostly normal, sometimes another kind; sometimes one that the program has already."""
    if draw.chance(6):
        same = [
            n
            for n in b.program.weight_nodes()
            if tuple(n.meta["val"].shape) == tuple(shape) and n.meta["val"].is_floating_point()
        ]
        if same:
            return draw.of(same)
    kind = "positive" if positive else draw.of((*(["normal"] * 6), *b.kinds[1:]))
    return b.weight(shape, kind=kind, seed=draw.below(8))


def floating(b: ProgramBuilder, x: Node) -> bool:
    """Whether a value is of a floating-point dtype."""
    return b.value(x).is_floating_point()


def static(b: ProgramBuilder, x: Node, axis: int) -> int | None:
    """A size, None if it is dynamic or missing."""
    value = b.value(x)
    if not -value.dim() <= axis < value.dim():
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def axis_of(draw: Choose, b: ProgramBuilder, x: Node, *, dynamic: bool = False) -> int | None:
    """An axis, a static one unless `dynamic`."""
    value = b.value(x)
    axes = [i for i in range(value.dim()) if dynamic or isinstance(value.shape[i], int)]
    return draw.latest(axes) if axes else None


_UNARY = (
    "relu",
    "sigmoid",
    "tanh",
    "neg",
    "abs",
    "silu",
    "exp",
    "square",
    "sin",
    "cos",
    "erf",
    "softplus",
    "mish",
    "hardswish",
    "relu6",
    "selu",
    "log1p",
)


@family
def unary(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """An elementwise function."""
    name = draw.of(_UNARY)
    if not floating(b, x):
        return None
    if name == "log1p":
        x = b.call("aten.abs", x)
    return b.call(f"aten.{name}", x)


@family
def gelu(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """GELU, exact or by tanh."""
    return b.call("aten.gelu", x, approximate=draw.of(("none", "tanh"))) if floating(b, x) else None


@family
def leaky_relu(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Leaky relu, or ELU."""
    return (
        b.call(draw.of(("aten.leaky_relu", "aten.elu")), x, draw.of((0.1, 0.5))) if floating(b, x) else None
    )


@family
def clamp(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Clamp on one or both sides, or hardtanh."""
    if not floating(b, x):
        return None
    low, high = draw.of(((0.0, None), (None, 1.0), (-0.5, 0.5), (0.0, 6.0)))
    return b.call("aten.clamp", x, low, high)


@family
def rooted(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A square root, logarithm or reciprocal of something positive."""
    if not floating(b, x):
        return None
    positive = b.call("aten.add.Tensor", b.call("aten.mul.Tensor", x, x), 1.0)
    return b.call(draw.of(("aten.sqrt", "aten.rsqrt", "aten.log", "aten.reciprocal")), positive)


@family
def scalar(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Arithmetic with a number, neutral ones among them."""
    op = draw.of(("add", "mul", "sub", "div"))
    return b.call(
        f"aten.{op}.Tensor",
        x,
        draw.of((1.0, 0.0, 2.0, 0.5, -1.0, 1, 2)) if op != "div" else draw.of((2.0, 1.0, 4)),
    )


@family
def power(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """An integer power."""
    return b.call("aten.pow.Tensor_Scalar", x, draw.of((2, 1, 3))) if floating(b, x) else None


def _matching(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Another value that broadcasts with this one: one of the pool's, else a weight."""
    shape = list(b.value(x).shape)
    same = [p for p in pool if list(map(str, b.value(p).shape)) == list(map(str, shape)) and floating(b, p)]
    if same and not draw.chance(3):
        return draw.latest(same)
    tail = [d if isinstance(d, int) else 1 for d in shape]
    return weight(draw, b, [1 if draw.chance(4) else d for d in tail[draw.below(len(tail) + 1) :]])


@family
def binary(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Arithmetic of two values, broadcasting, in either order: residuals and skip connections."""
    if not floating(b, x):
        return None
    other = _matching(draw, b, x, pool)
    if other is None:
        return None
    pair = (other, x) if draw.chance(3) else (x, other)
    return b.call(f"aten.{draw.of(('add.Tensor', 'mul.Tensor', 'sub.Tensor', 'maximum', 'minimum'))}", *pair)


@family
def scaled_add(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """`add` or `sub` with an alpha that is not 1."""
    if not floating(b, x):
        return None
    other = _matching(draw, b, x, pool)
    op = draw.of(("aten.add.Tensor", "aten.sub.Tensor"))
    return None if other is None else b.call(op, x, other, alpha=draw.of((2, 3)))


@family
def linear(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A linear layer, with or without bias."""
    width = static(b, x, -1)
    if width is None or not floating(b, x):
        return None
    out = draw.size()
    return b.call(
        "aten.linear", x, weight(draw, b, (out, width)), None if draw.chance(3) else weight(draw, b, (out,))
    )


@family
def matmul(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A product with a weight, plain or transposed, with or without a bias added."""
    width = static(b, x, -1)
    if width is None or not floating(b, x):
        return None
    out = draw.size()
    w = (
        b.call("aten.permute", weight(draw, b, (out, width)), [1, 0])
        if draw.chance(2)
        else weight(draw, b, (width, out))
    )
    y = b.call("aten.matmul", x, w)
    return b.call("aten.add.Tensor", y, weight(draw, b, (out,))) if draw.chance(2) else y


@family
def product(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A product of a value with its own transpose."""
    value = b.value(x)
    if value.dim() not in (2, 3) or not floating(b, x):
        return None
    order = [*range(value.dim() - 2), value.dim() - 1, value.dim() - 2]
    return b.call("aten.matmul", x, b.call("aten.permute", x, order))


@family
def einsum(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A contraction of the last axis written as einsum."""
    width = static(b, x, -1)
    if width is None or not floating(b, x) or b.value(x).dim() != 2:
        return None
    return b.call("aten.einsum", "ni,io->no", [x, weight(draw, b, (width, draw.size()))])


def _conv_weight(
    draw: Choose, b: ProgramBuilder, channels: int, rank: int
) -> tuple[Node, Node | None, int, int]:
    groups = draw.of((1, 1, channels))
    out = groups * draw.of((2, 1, 3))
    kernel = draw.of((1, 2, 3))
    w = weight(draw, b, (out, channels // groups, *([kernel] * rank)))
    return w, None if draw.chance(2) else weight(draw, b, (out,)), groups, kernel


def _image_rank(b: ProgramBuilder, x: Node) -> int | None:
    """1, 2 or 3 for [N, C, ...] with static channels and sizes of 3 and more."""
    value = b.value(x)
    rank = value.dim() - 2
    sizes = [static(b, x, i) for i in range(1, value.dim())]
    if rank not in (1, 2, 3) or not floating(b, x) or any(s is None for s in sizes):
        return None
    return rank if all(s is not None and s >= 3 for s in sizes[1:]) else None


@family
def conv(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A convolution in 1, 2 or 3 dimensions, grouped or not."""
    rank, channels = _image_rank(b, x), static(b, x, 1)
    if rank is None or channels is None:
        return None
    w, bias, groups, kernel = _conv_weight(draw, b, channels, rank)
    stride, padding = draw.of((1, 2)), draw.of((0, kernel // 2))
    return b.call(f"aten.conv{rank}d", x, w, bias, [stride] * rank, [padding] * rank, [1] * rank, groups)


@family
def conv_transpose(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A transposed convolution."""
    rank, channels = _image_rank(b, x), static(b, x, 1)
    if rank is None or channels is None:
        return None
    groups = draw.of((1, channels))
    per_group = draw.of((2, 1))
    w = weight(draw, b, (channels, per_group, *([2] * rank)))
    bias = None if draw.chance(2) else weight(draw, b, (per_group * groups,))
    op = f"aten.conv_transpose{rank}d" + (".input" if rank > 1 else "")
    return b.call(op, x, w, bias, [draw.of((1, 2))] * rank, [0] * rank, [0] * rank, groups)


@family
def batch_norm(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """An eval BatchNorm with statistics of its own, with or without affine."""
    channels = static(b, x, 1)
    if channels is None or not floating(b, x):
        return None
    affine = not draw.chance(4)
    gamma, beta = (weight(draw, b, (channels,)) if affine else None for _ in range(2))
    mean, var = weight(draw, b, (channels,)), weight(draw, b, (channels,), positive=True)
    return b.call("aten.batch_norm", x, gamma, beta, mean, var, False, 0.1, draw.of((1e-5, 1e-3)), True)


@family
def layer_norm(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A layer norm over at least four values."""
    width = static(b, x, -1)
    if width is None or width < 4 or not floating(b, x):
        return None
    affine = [weight(draw, b, (width,)), weight(draw, b, (width,))] if not draw.chance(3) else [None, None]
    return b.call("aten.layer_norm", x, [width], *affine, draw.of((1e-5, 1e-3)))


@family
def group_norm(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A group norm of an image."""
    channels = static(b, x, 1)
    if _image_rank(b, x) is None or channels is None:
        return None
    return b.call(
        "aten.group_norm",
        x,
        draw.of((1, channels)),
        weight(draw, b, (channels,)),
        weight(draw, b, (channels,)),
    )


@family
def pool(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Max or average pooling in 1 or 2 dimensions."""
    rank = _image_rank(b, x)
    if rank not in (1, 2):
        return None
    stride = [draw.of((1, 2))] * rank
    return b.call(
        f"aten.{draw.of(('max', 'avg'))}_pool{rank}d", x, [2] * rank, stride, [draw.of((0, 1))] * rank
    )


@family
def global_pool(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Adaptive average pooling to one value."""
    return b.call("aten.adaptive_avg_pool2d", x, [1, 1]) if _image_rank(b, x) == 2 else None


@family
def softmax(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Softmax or log-softmax along an axis."""
    axis = axis_of(draw, b, x)
    return (
        None
        if axis is None or not floating(b, x)
        else b.call(draw.of(("aten.softmax.int", "aten.log_softmax.int")), x, axis)
    )


@family
def attention(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Scaled dot-product attention of a value with itself, causal or not."""
    if b.value(x).dim() not in (3, 4) or not floating(b, x) or static(b, x, -1) is None:
        return None
    return b.call("aten.scaled_dot_product_attention", x, x, x, None, 0.0, draw.chance(2))


@family
def reduction(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A sum, mean, maximum or minimum along an axis."""
    axis = axis_of(draw, b, x)
    if axis is None or not floating(b, x):
        return None
    return b.call(
        f"aten.{draw.of(('mean.dim', 'sum.dim_IntList', 'amax', 'amin'))}", x, [axis], draw.chance(2)
    )


@family
def variance(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """The biased variance along an axis."""
    axis = axis_of(draw, b, x)
    if axis is None or not floating(b, x):
        return None
    return b.call("aten.var.correction", x, [axis], correction=0, keepdim=draw.chance(2))


@family
def cumulative(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A running sum."""
    axis = axis_of(draw, b, x)
    return None if axis is None or not floating(b, x) else b.call("aten.cumsum", x, axis)


@family
def recurrent(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A one-layer LSTM over [N, T, C], batch first, from zero states."""
    width = static(b, x, -1)
    value = b.value(x)
    if value.dim() != 3 or width is None or static(b, x, 1) is None or not floating(b, x):
        return None
    hidden = draw.of((2, 3))
    w = [
        b.weight(s, seed=draw.below(8))
        for s in ((4 * hidden, width), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,))
    ]
    rows = b.call("aten.sym_size.int", x, 0) if isinstance(value.shape[0], torch.SymInt) else value.shape[0]
    zero = b.call("aten.full", [1, rows, hidden], 0.0, dtype=torch.float32)
    result = b.call("aten.lstm.input", x, [zero, zero], w, True, 1, 0.0, False, False, True)
    import operator

    return b.call(operator.getitem, result, 0)
