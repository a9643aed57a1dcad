"""More families: shape algebra, indexing, comparisons, integers, casts."""

import operator
from collections.abc import Sequence

import torch
from torch.fx import Node

from fxopt.testing.builder import ProgramBuilder
from fxopt.testing.choice import Choose
from fxopt.testing.families import axis_of, family, floating, static

__all__: list[str] = []


@family
def permute(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A permutation, often of the last two axes."""
    rank = b.value(x).dim()
    if rank < 2:
        return None
    order = list(range(rank))
    first, second = draw.of(((-1, -2), (0, -1), (0, 0)))
    order[first], order[second] = order[second], order[first]
    return b.call("aten.permute", x, order)


@family
def flatten(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """All but the first axis as one."""
    return b.call("aten.flatten.using_ints", x, draw.of((1, 0))) if b.value(x).dim() > 1 else None


@family
def reshape(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """The last axis split in two or merged with the one before it; the first axis may be dynamic."""
    shape = list(b.value(x).shape)
    if len(shape) < 2 or not all(isinstance(d, int) for d in shape[1:]):
        return None
    head = [-1] if isinstance(shape[0], torch.SymInt) else [shape[0]]
    tail = [int(d) for d in shape[1:]]
    total = 1
    for d in tail:
        total *= d
    if total == 0:
        return None
    choices = [[total], [total, 1], [1, total], *([[2, total // 2]] if total % 2 == 0 else []), tail]
    return b.call("aten.reshape", x, [*head, *draw.of(choices)])


@family
def squeeze(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """An axis of size 1 removed."""
    ones = [i for i in range(b.value(x).dim()) if static(b, x, i) == 1]
    return b.call("aten.squeeze.dim", x, draw.of(ones)) if ones else None


@family
def unsqueeze(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """An axis of size 1 added."""
    rank = b.value(x).dim()
    return b.call("aten.unsqueeze", x, draw.below(rank + 1)) if rank < 5 else None


@family
def expand(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Axes of size 1 repeated."""
    shape = b.value(x).shape
    if len(shape) == 0:
        return None
    sizes = [draw.of((3, 1, 2)) if isinstance(d, int) and d == 1 else -1 for d in shape]
    return b.call("aten.expand", x, sizes)


@family
def repeat(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """The last axis repeated."""
    rank = b.value(x).dim()
    return b.call("aten.repeat", x, [*([1] * (rank - 1)), draw.of((2, 1))]) if rank else None


@family
def cat(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Concatenation with itself or another value of the same shape; sometimes of one value alone."""
    axis = axis_of(draw, b, x)
    if axis is None:
        return None
    key = list(map(str, b.value(x).shape))
    same = [
        p for p in pool if list(map(str, b.value(p).shape)) == key and b.value(p).dtype == b.value(x).dtype
    ]
    others = [draw.latest(same)] if same and not draw.chance(4) else []
    return b.call("aten.cat", [x, *others], axis)


@family
def stack(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A value stacked with itself."""
    rank = b.value(x).dim()
    return b.call("aten.stack", [x, x], draw.below(rank + 1)) if rank < 4 else None


@family
def slicing(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """A slice with a start, end and step, the whole range among them."""
    axis = axis_of(draw, b, x)
    size = static(b, x, axis) if axis is not None else None
    if axis is None or size is None or size < 1:
        return None
    start, end, step = draw.of(
        ((0, 2**63 - 1, 1), (0, size, 1), (size - 1, size, 1), (0, size, 2), (-1, 2**63 - 1, 1))
    )
    return b.call("aten.slice.Tensor", x, axis, start, end, step)


@family
def select(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """One index of an axis."""
    axis = axis_of(draw, b, x)
    size = static(b, x, axis) if axis is not None else None
    return b.call("aten.select.int", x, axis, draw.of((0, -1))) if size and b.value(x).dim() > 1 else None


@family
def split(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """One part of a split or chunk, or both parts joined again."""
    axis = axis_of(draw, b, x)
    size = static(b, x, axis) if axis is not None else None
    if axis is None or size is None or size < 2:
        return None
    parts = (
        b.call("aten.split.Tensor", x, (size + 1) // 2, axis)
        if draw.chance(2)
        else b.call("aten.chunk", x, 2, axis)
    )
    first, second = b.call(operator.getitem, parts, 0), b.call(operator.getitem, parts, 1)
    return b.call("aten.cat", [first, second], axis) if draw.chance(3) else draw.of((first, second))


@family
def pad(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Constant padding of the last axis, none among them."""
    if b.value(x).dim() == 0 or not floating(b, x):
        return None
    return b.call("aten.constant_pad_nd", x, draw.of(([1, 0], [0, 0], [1, 2])), draw.of((0.0, 1.0)))


@family
def roll(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """An axis rolled or flipped."""
    axis = axis_of(draw, b, x)
    if axis is None:
        return None
    return b.call("aten.roll", x, [1], [axis]) if draw.chance(2) else b.call("aten.flip", x, [axis])


@family
def triangle(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """The lower or upper triangle."""
    return b.call(draw.of(("aten.tril", "aten.triu")), x, draw.of((0, 1))) if b.value(x).dim() >= 2 else None


@family
def gather(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Rows picked by a constant index."""
    axis = axis_of(draw, b, x)
    size = static(b, x, axis) if axis is not None else None
    if axis is None or size is None or size < 3:
        return None
    index = b.weight((draw.of((2, 4)),), kind="index", seed=draw.below(4), dtype=torch.int64)
    return b.call("aten.index_select", x, axis, index)


@family
def embedding(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Rows of a table by an integer input."""
    rows = draw.of((5, 3))
    ids = b.input((b.batch, 3), dtype=torch.int64, low=0, high=rows - 1)
    return b.call("aten.embedding", b.weight((rows, 4), seed=draw.below(8)), ids)


@family
def masked(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Values replaced where a smooth comparison holds: both sides agree where it flips."""
    if not floating(b, x):
        return None
    mask = b.call(draw.of(("aten.gt.Scalar", "aten.le.Scalar")), x, 0.0)
    if draw.chance(2):
        return b.call("aten.mul.Tensor", x, b.call("aten.to.dtype", mask, torch.float32))
    return b.call("aten.where.self", mask, x, b.call("aten.mul.Tensor", x, 0.5))


@family
def logic(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Boolean algebra on a mask given as an input, applied to a value."""
    if not floating(b, x) or b.value(x).dim() == 0:
        return None
    width = static(b, x, -1)
    if width is None:
        return None
    mask = b.input((width,), dtype=torch.bool)
    other = (
        b.call("aten.logical_not", mask) if draw.chance(2) else b.call("aten.bitwise_or.Tensor", mask, mask)
    )
    return b.call("aten.masked_fill.Scalar", x, other, 0.0)


@family
def integers(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Integer arithmetic that is promoted when it meets floats."""
    counted = b.call("aten.arange.start_step", 0, draw.of((4, 3)), 1, dtype=torch.int64)
    scaled = b.call(draw.of(("aten.mul.Tensor", "aten.add.Tensor")), counted, draw.of((2, 1)))
    width = static(b, x, -1) if b.value(x).dim() else None
    if width is None or width != static(b, scaled, 0) or not floating(b, x):
        return b.call("aten.mul.Tensor", scaled, draw.of((0.5, 1.0)))
    return b.call("aten.add.Tensor", x, scaled)


@family
def cast(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """To float64 and back, or to the dtype that it has."""
    if b.value(x).dtype is not torch.float32:
        return None
    wide = b.call("aten.to.dtype", x, torch.float64)
    return b.call("aten.to.dtype", wide, torch.float32)


@family
def created(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Ones or zeros like a value, added or multiplied."""
    if not floating(b, x):
        return None
    like = b.call(draw.of(("aten.ones_like", "aten.zeros_like")), x)
    return b.call(draw.of(("aten.mul.Tensor", "aten.add.Tensor")), x, like)


@family
def dropout(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Dropout in eval mode."""
    return b.call("aten.dropout", x, draw.of((0.1, 0.5)), False) if floating(b, x) else None


@family
def twice(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """Something undone or repeated: double negation, transposes, relu of relu, a residual of itself."""
    if not floating(b, x):
        return None
    kind = draw.below(4)
    if kind == 0:
        return b.call("aten.relu", b.call("aten.relu", x))
    if kind == 1:
        return b.call("aten.neg", b.call("aten.neg", x))
    if kind == 2 and b.value(x).dim() >= 2:
        order = [*range(b.value(x).dim() - 2), b.value(x).dim() - 1, b.value(x).dim() - 2]
        return b.call("aten.permute", b.call("aten.permute", x, order), order)
    return b.call("aten.add.Tensor", x, b.call("aten.relu", x))


@family
def repeated(draw: Choose, b: ProgramBuilder, x: Node, pool: Sequence[Node]) -> Node | None:
    """The same call made twice and joined, or nearly the same: keyword arguments differ."""
    axis = axis_of(draw, b, x)
    if axis is None or not floating(b, x):
        return None
    first = b.call("aten.softmax.int", x, axis)
    second = b.call("aten.softmax.int", x, axis if draw.chance(2) else 0)
    return b.call("aten.add.Tensor", first, second)
