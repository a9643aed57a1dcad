"""What moves elements without looking at them: reshape, permute, expand, slices, joins.

Target shapes come from the fake result, so that sizes which do not vary are constants whatever the call says.
"""

import torch
from torch.fx import Node

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.graph import Value
from fxopt.ops.sizes import Size, is_one, same_size

__all__: list[str] = []


@rule("aten.reshape", "aten.view", "aten._unsafe_view", "aten.flatten", "aten.unflatten", "aten.view_copy",
      "aten._reshape_alias")  # fmt: skip
def reshape(b: Builder, c: Call) -> Value:
    if c.out.dtype is not c.fake().dtype:
        raise c.error("a view as another dtype")
    return b.reshape(c.x, c.shape, tuple(c.out.shape))


@rule("aten.permute", "aten.permute_copy")
def permute(b: Builder, c: Call) -> Value:
    return b.transpose(c.x, [d % max(c.rank, 1) for d in c.integers("dims")])


@rule("aten.transpose.int", "aten.swapaxes", "aten.t")
def transpose(b: Builder, c: Call) -> Value:
    order = list(range(c.rank))
    if c.rank > 1:
        names = list(c.arguments)[1:3]
        first, second = (c.dim(n) for n in names) if names else (0, 1)
        order[first], order[second] = order[second], order[first]
    return b.transpose(c.x, order)


@rule("aten.unsqueeze")
def unsqueeze(b: Builder, c: Call) -> Value:
    return b.unsqueeze(c.x, c.dim(rank=c.rank + 1))


@rule("aten.squeeze", "aten.squeeze_copy")
def squeeze(b: Builder, c: Call) -> Value:
    """Axes of size 1 go; an axis whose size varies stays, as the trace says."""
    dims = c.dims() if c.arguments.get("dim", None) != [] else []
    ones = [d for d in dims if c.rank and is_one(c.shape[d])]
    return b.squeeze(c.x, *ones)


@rule("aten.expand", "aten.expand_as", "aten.broadcast_to", "aten.expand_copy")
def expand(b: Builder, c: Call) -> Value:
    return b.expand(c.x, c.shape, tuple(c.out.shape))


@rule("aten.broadcast_tensors", "aten.meshgrid")
def broadcast_tensors(b: Builder, c: Call) -> tuple[Value, ...]:
    tensors = c.nodes("tensors")
    values: list[Value] = []
    mesh = "meshgrid" in c.name
    swap = mesh and c.arguments.get("indexing") == "xy" and len(tensors) > 1
    for i, (tensor, fake) in enumerate(zip(tensors, c.outs, strict=True)):
        old: list[Size] = list(tensor.meta["val"].shape)
        value = b.value(tensor)
        if mesh:
            axis = (1 - i) if swap and i < 2 else i
            old = [1] * axis + [*(old or [1])] + [1] * (len(tensors) - 1 - axis)
            value = b.reshape(value, (), old) if len(tensors) > 1 or not tensor.meta["val"].dim() else value
        values.append(b.expand(value, old, tuple(fake.shape)))
    return tuple(values)


@rule("aten.repeat", "aten.tile")
def repeat(b: Builder, c: Call) -> Value:
    name = list(c.arguments)[1]
    times = c[name]
    assert isinstance(times, (list, tuple))
    counts = [1] * (c.rank - len(times)) + list(times)
    x = b.reshape(c.x, (), [1] * (len(counts) - c.rank) + list(c.shape)) if len(counts) > c.rank else c.x
    if all(t == 1 for t in counts):
        return x
    return b.op("Tile", x, b.shape([t.meta["val"] if isinstance(t, Node) else t for t in counts]))


@rule("aten.repeat_interleave.self_int")
def repeat_interleave(b: Builder, c: Call) -> Value:
    """Each element of an axis several times: a new axis, broadcast, folded in."""
    shape: list[Size] = list(c.shape)
    x, times = c.x, c.integer("repeats")
    if not c.has("dim"):
        x, shape = b.op("Reshape", x, b.ints([-1])), [c.fake().numel()]
    axis = c.dim(rank=len(shape)) if c.has("dim") else 0
    wide = [*shape[: axis + 1], times, *shape[axis + 1 :]]
    spread = b.expand(b.unsqueeze(x, axis + 1), [*shape[: axis + 1], 1, *shape[axis + 1 :]], wide)
    return b.reshape(spread, (), tuple(c.out.shape))


@rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(b: Builder, c: Call) -> Value:
    """Empty one-dimensional tensors beside others count for nothing, in torch."""
    rank = c.out.dim()
    tensors = [n for n in c.nodes("tensors") if n.meta["val"].dim() == rank]
    values = [b.operand(n, c.out.dtype) for n in tensors]
    return values[0] if len(values) == 1 else b.op("Concat", *values, axis=c.dim(rank=rank))


@rule("aten.stack")
def stack(b: Builder, c: Call) -> Value:
    axis = c.dim(rank=c.out.dim())
    values = [b.unsqueeze(b.operand(n, c.out.dtype), axis) for n in c.nodes("tensors")]
    return values[0] if len(values) == 1 else b.op("Concat", *values, axis=axis)


@rule("aten.split", "aten.split_with_sizes", "aten.unsafe_split", "aten.chunk", "aten.unsafe_chunk",
      "aten.tensor_split", "aten.split_copy", "aten.split_with_sizes_copy")  # fmt: skip
def split(b: Builder, c: Call) -> tuple[Value, ...]:
    """The parts' sizes as the trace found them."""
    axis = c.dim()
    sizes = [fake.shape[axis] for fake in c.outs]
    if len(sizes) == 1:
        return (c.x,)
    return b.ops("Split", c.x, b.shape(sizes), outputs=len(sizes), axis=axis)


@rule("aten.unbind")
def unbind(b: Builder, c: Call) -> tuple[Value, ...]:
    axis = c.dim()
    return tuple(b.op("Gather", c.x, b.constant(i, torch.int64), axis=axis) for i in range(len(c.outs)))


@rule("aten.slice", "aten.slice_copy", "aten.narrow")
def slice_(b: Builder, c: Call) -> Value:
    axis = c.dim()
    if "length" in c.arguments:
        start, step = c["start"], 1
        length = c["length"]
        if isinstance(start, int) and isinstance(length, int) and start >= 0:
            return b.slice(c.x, axis, start, start + length)
        begin = _vector(b, start)
        return b.op("Slice", c.x, begin, b.op("Add", begin, _vector(b, length)), b.ints([axis]))
    start, end, step = c.arguments.get("start"), c.arguments.get("end"), c.integer("step")
    if same_size(c.shape[axis], c.out.shape[axis]) and start in (None, 0) and step == 1:
        return c.x
    start, end = 0 if start is None else start, torch.iinfo(torch.int64).max if end is None else end
    if isinstance(start, int) and isinstance(end, int):
        return b.slice(c.x, axis, start, end, step)
    steps = [b.ints([step])] if step != 1 else []
    return b.op("Slice", c.x, _vector(b, start), _vector(b, end), b.ints([axis]), *steps)


def _vector(b: Builder, number: object) -> Value:
    """A literal or computed number as i64[1]."""
    if isinstance(number, Node):
        return b.value(number)
    assert isinstance(number, int)
    return b.ints([number])


@rule("aten.select.int", "aten.select_copy.int")
def select(b: Builder, c: Call) -> Value:
    index = c["index"]
    place = b.number(index) if isinstance(index, Node) else b.constant(c.integer("index"), torch.int64)
    return b.op("Gather", c.x, place, axis=c.dim())


@rule("aten.select_scatter", "aten.slice_scatter")
def scatter_back(b: Builder, c: Call) -> Value:
    """The tensor with a slice replaced: its positions along the axis, scattered."""
    axis, shape = c.dim(), c.shape
    source = c.tensor("src", c.out.dtype)
    if "index" in c.arguments:
        source = b.unsqueeze(source, axis)
        positions = b.slice(b.places(c.shape[axis]), 0, *_one(c.integer("index")))
    else:
        start, end, step = c.arguments.get("start"), c.arguments.get("end"), c.integer("step")
        begin = _vector(b, 0 if start is None else start)
        finish = _vector(b, torch.iinfo(torch.int64).max if end is None else end)
        positions = b.op("Slice", b.places(c.shape[axis]), begin, finish, b.ints([0]), b.ints([step]))
    column = b.op("Reshape", positions, b.ints([1] * axis + [-1] + [1] * (len(shape) - axis - 1)))
    where = b.op("Expand", column, b.op("Shape", source))
    return b.op("ScatterElements", c.x, where, source, axis=axis)


def _one(index: int) -> tuple[int, int]:
    return index, (index + 1 if index != -1 else torch.iinfo(torch.int64).max)


@rule("aten.flip")
def flip(b: Builder, c: Call) -> Value:
    dims = c.dims("dims") if c["dims"] else []
    if not dims:
        return c.x
    ends, steps = [torch.iinfo(torch.int64).min] * len(dims), [-1] * len(dims)
    return b.op("Slice", c.x, b.ints([-1] * len(dims)), b.ints(ends), b.ints(dims), b.ints(steps))


@rule("aten.roll")
def roll(b: Builder, c: Call) -> Value:
    """The end of each axis before its start."""
    x, shifts, dims = c.x, c.integers("shifts"), c.integers("dims")
    if not dims:
        x, dims = b.op("Reshape", x, b.ints([-1])), [0]
        return b.reshape(_rolled(b, x, shifts[0], 0, c.fake().numel()), (), c.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        axis = dim % c.rank
        x = _rolled(b, x, shift, axis, c.shape[axis])
    return x


def _rolled(b: Builder, x: Value, shift: int, axis: int, size: Size) -> Value:
    if isinstance(size, int):
        shift %= max(size, 1)
        if shift == 0:
            return x
        cut = b.ints([-shift])
    else:
        length = b.size(size)
        cut = b.op("Sub", length, b.op("Mod", b.ints([shift]), length))
    axes, first, last = b.ints([axis]), b.ints([0]), b.ints([torch.iinfo(torch.int64).max])
    return b.op("Concat", b.op("Slice", x, cut, last, axes), b.op("Slice", x, first, cut, axes), axis=axis)


@rule("aten.tril", "aten.triu")
def triangle(b: Builder, c: Call) -> Value:
    upper = int("triu" in c.name)
    return b.op("Trilu", c.x, b.constant(c.integer("diagonal"), torch.int64), upper=upper)
