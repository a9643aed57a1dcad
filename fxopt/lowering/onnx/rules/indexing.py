"""Gather and indexing with tensors, in and out.

`x[a, :, b]` with tensors a, b: the indexed axes come first, one GatherND reads them all, and the result's
axes go where torch puts them. A mask is the positions where it is true. Negative indices count from the end
in both.
"""

from collections.abc import Sequence

import torch
from torch.fx import Node

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.graph import Value
from fxopt.lowering.onnx.rules.quantization import block_rows, integer_rows
from fxopt.lowering.onnx.rules.scatter import scattered
from fxopt.lowering.onnx.sizes import broadcast
from fxopt.ops.sizes import Size, is_one

__all__: list[str] = []


@rule("aten.embedding")
def embedding(b: Builder, c: Call) -> Value:
    indices = c.tensor("indices")
    rows = integer_rows(b, c["weight"], indices) or block_rows(b, c["weight"], indices)
    return rows or b.op("Gather", c.tensor("weight"), c.tensor("indices"), axis=0)


@rule("aten.one_hot")
def one_hot(b: Builder, c: Call) -> Value:
    depth = c.out.shape[-1]
    return b.op("OneHot", c.x, b.scalar(depth), b.ints([0, 1]), axis=-1)


@rule("aten.index_select")
def index_select(b: Builder, c: Call) -> Value:
    if c.rank == 0:
        return c.x
    index = c.tensor("index")
    if c.fake("index").dim() == 0:
        index = b.unsqueeze(index, 0)
    return b.op("Gather", c.x, index, axis=c.dim())


@rule("aten.gather")
def gather(b: Builder, c: Call) -> Value:
    if c.rank == 0:
        return c.x
    return b.op("GatherElements", c.x, c.tensor("index", torch.int64), axis=c.dim())


@rule("aten.take_along_dim")
def take_along_dim(b: Builder, c: Call) -> Value:
    if not c.has("dim"):
        flat = b.ints([-1])
        index = b.op("Reshape", c.tensor("indices"), flat)
        return b.op("Gather", b.op("Reshape", c.x, flat), index, axis=0)
    return _along_dim(b, c)


def _along_dim(b: Builder, c: Call) -> Value:
    axis, index = c.dim(), c.fake("indices")
    target = broadcast(_without(c.shape, axis), _without(index.shape, axis))
    wide, many = ([*target[:axis], s, *target[axis:]] for s in (c.shape[axis], index.shape[axis]))
    x = b.expand(c.x, c.shape, wide)
    return b.op("GatherElements", x, b.expand(c.tensor("indices"), tuple(index.shape), many), axis=axis)


def _without(shape: Sequence[Size], axis: int) -> list[Size]:
    return [*shape[:axis], *shape[axis + 1 :]]


@rule("aten.take")
def take(b: Builder, c: Call) -> Value:
    return b.op("Gather", b.op("Reshape", c.x, b.ints([-1])), c.tensor("index"), axis=0)


@rule("aten.nonzero")
def nonzero(b: Builder, c: Call) -> Value:
    if c.rank == 0:  # one row, or none, of no position
        rows = b.op("Transpose", _places(b, b.unsqueeze(c.x, 0)), perm=[1, 0])
        return b.slice(rows, 1, 0, 0)
    return b.op("Transpose", _places(b, c.x), perm=[1, 0])


def _places(b: Builder, x: Value) -> Value:
    """NonZero, which onnxruntime has not for float64."""
    return b.op("NonZero", b.cast(x, torch.bool) if b.dtype(x) is torch.float64 else x)


@rule("aten.where.default", "aten.nonzero_numpy")
def positions(b: Builder, c: Call) -> tuple[Value, ...]:
    rows = _places(b, c.x)
    return tuple(b.op("Gather", rows, b.constant(i, torch.int64), axis=0) for i in range(c.rank))


@rule("aten.masked_select")
def masked_select(b: Builder, c: Call) -> Value:
    shape = broadcast(c.shape, tuple(c.fake("mask").shape))
    x, mask = (b.expand(c.tensor(n), tuple(c.fake(n).shape), shape) for n in ("self", "mask"))
    flat = b.ints([-1])
    return b.op("Compress", b.op("Reshape", x, flat), b.op("Reshape", mask, flat), axis=0)


@rule("aten.masked_scatter")
def masked_scatter(b: Builder, c: Call) -> Value:
    """The source's elements in order at the true positions: their rank among these is a running count."""
    shape = tuple(c.out.shape)
    mask = b.expand(c.tensor("mask", torch.bool), tuple(c.fake("mask").shape), shape)
    flat = b.ints([-1])
    count = b.op("CumSum", b.cast(b.op("Reshape", mask, flat), torch.int64), b.constant(0, torch.int64))
    rank = b.op("Max", b.op("Sub", count, b.constant(1, torch.int64)), b.constant(0, torch.int64))
    chosen = b.op("Gather", b.op("Reshape", c.tensor("source"), flat), rank, axis=0)
    return b.op("Where", mask, b.reshape(chosen, (), shape), b.expand(c.x, c.shape, shape))


class _Indices:
    """The tensors of `x[...]` by axis, masks turned to positions, and the shape they broadcast to.

    How many elements of a mask are true is known to the file only when it runs: the shape is `[None]` then.
    """

    def __init__(self, b: Builder, c: Call) -> None:
        given = c["indices"]
        assert isinstance(given, (list, tuple))
        self.axes: list[int] = []
        self.tensors: list[tuple[Value, Sequence[Size]]] = []
        self.mask: Value = ""
        axis = 0
        for item in given:
            axis += self._add(b, item, axis)
        self.shape: list[Size | None] = [None]
        if not self.mask:
            self.shape = [*broadcast(*(shape for _, shape in self.tensors))]
        elif any(len(shape) > 1 for _, shape in self.tensors):
            raise c.error("a mask beside an index tensor of several dimensions")
        self.adjacent = self.axes == list(range(self.axes[0], self.axes[0] + len(self.axes)))

    def _add(self, b: Builder, item: object, axis: int) -> int:
        """Notes one entry of the index; returns how many axes it stands for."""
        if not isinstance(item, Node):
            return 1
        fake = item.meta["val"]
        if fake.dtype not in (torch.bool, torch.uint8):
            self.tensors.append((b.cast(b.value(item), torch.int64), tuple(fake.shape)))
            self.axes.append(axis)
            return 1
        rows = b.op("NonZero", b.cast(b.value(item), torch.bool))
        for i in range(fake.dim()):
            self.mask = b.op("Gather", rows, b.constant(i, torch.int64), axis=0)
            self.tensors.append((self.mask, ()))
            self.axes.append(axis + i)
        return int(fake.dim())

    def shape_value(self, b: Builder, shape: Sequence[Size | None]) -> Value:
        """A shape, i64[len(shape)], where None is the number of true elements."""
        count = b.op("Shape", self.mask) if self.mask else ""
        parts = [count if size is None else b.size(size) for size in shape]
        return b.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def columns(self, b: Builder) -> Value:
        """The indices beside each other, i64[*shape, axes]."""
        wide: list[Value] = []
        for value, shape in self.tensors:
            if not self.mask:
                value = b.expand(value, shape, [s for s in self.shape if s is not None])
            elif value != self.mask:
                value = b.op("Expand", value, self.shape_value(b, self.shape))
            wide.append(b.unsqueeze(value, len(self.shape)))
        return wide[0] if len(wide) == 1 else b.op("Concat", *wide, axis=len(self.shape))

    def order(self, rank: int) -> list[int]:
        """The axes with the indexed ones first."""
        return [*self.axes, *(d for d in range(rank) if d not in self.axes)]

    def result_order(self, rank: int) -> list[int]:
        """From (indexed axes, rest) to torch's order: in place if they were neighbours, else in front."""
        count, before = len(self.shape), self.axes[0] if self.adjacent else 0
        rest = list(range(count, count + rank - len(self.axes)))
        return [*rest[:before], *range(count), *rest[before:]]


@rule("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index(b: Builder, c: Call) -> Value:
    indices = _Indices(b, c)
    if len(indices.axes) == 1:
        return b.op("Gather", c.x, indices.tensors[0][0], axis=indices.axes[0])
    x = b.transpose(c.x, indices.order(c.rank))
    return b.transpose(b.op("GatherND", x, indices.columns(b)), indices.result_order(c.rank))


@rule("aten.index_put", "aten._unsafe_index_put")
def index_put(b: Builder, c: Call) -> Value:
    values, fake = c.tensor("values", c.out.dtype), c.fake("values")
    given = c["indices"]
    assert isinstance(given, (list, tuple))
    accumulate = c.flag("accumulate")
    mask = given[0] if len(given) == 1 and isinstance(given[0], Node) else None
    if mask is not None and mask.meta["val"].dtype is torch.bool and all(is_one(s) for s in fake.shape):
        return _fill_masked(b, c, mask, values, fake, accumulate)
    indices = _Indices(b, c)
    order = indices.order(c.rank)
    x = b.transpose(c.x, order)
    shape = [*indices.shape, *(c.shape[d] for d in order[len(indices.axes) :])]
    back = indices.result_order(c.rank)
    updates = b.op("Expand", values, indices.shape_value(b, [shape[d] for d in back]))
    updates = b.transpose(updates, _inverse(back))
    reduction = "add" if accumulate else "none"
    written = scattered(b, "ScatterND", (x, indices.columns(b), updates), reduction)
    return b.transpose(written, _inverse(order))


def _fill_masked(
    b: Builder, c: Call, mask: Node, value: Value, fake: torch.Tensor, accumulate: bool
) -> Value:
    """One number at all true positions: a choice, without positions."""
    number = b.reshape(value, (), []) if fake.dim() else value
    ones = [1] * (c.rank - mask.meta["val"].dim())
    condition = b.reshape(b.value(mask), (), [*mask.meta["val"].shape, *ones]) if ones else b.value(mask)
    return b.op("Where", condition, b.op("Add", c.x, number) if accumulate else number, c.x)


def _inverse(order: list[int]) -> list[int]:
    return [order.index(i) for i in range(len(order))]
