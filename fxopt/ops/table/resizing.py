"""What the literals of a call become when only some of the positions are wanted: `OpInfo.resize`.

>>> import torch
>>> op = torch.ops.aten.reshape.default
>>> bound = {"self": torch.ones(2, 6), "shape": [2, 3, 2]}
>>> cut = Cut(op, bound, {"self": ((None, (0, 1)),)}, ((None, (0,), None),), ((2, 3, 2),))
>>> sizes("shape")(cut)[1]
{'shape': [None, 1, None]}
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from fxopt.ops.info import Cut, Kept, Resized
from fxopt.ops.sizes import shape_of
from fxopt.ops.table.maps import dims_of

Resize = Callable[[Cut], Resized | None]


def unchanged(cut: Cut) -> Resized:
    """The literals say nothing of sizes."""
    return cut.op, {}


def sizes(name: str) -> Resize:
    """A list with the size of each output dimension."""

    def resize(cut: Cut) -> Resized:
        return cut.op, {name: [None if kept is None else len(kept) for kept in cut.outputs[0]]}

    return resize


def parts(name: str, dim: str) -> Resize:
    """A list with the sizes that one dimension is split into."""

    def resize(cut: Cut) -> Resized:
        (at,) = dims_of(cut.bound[dim], len(_only(cut)))
        count = len(_list(cut.bound[name]))
        made = cut.outputs[0][at : at + count]
        return cut.op, {name: [None if kept is None else len(kept) for kept in made]}

    return resize


def groups(name: str) -> Resize:
    """A number of groups of channels: as many as keep some, all of them the same number."""

    def resize(cut: Cut) -> Resized | None:
        (first, *_), (kept, *_) = cut.bound.values(), cut.inputs.values()
        shape = shape_of(first)
        space = (
            len(shape_of(cut.bound["weight"])) - 2
            if name == "groups" and "weight" in cut.bound
            else len(shape) - 2
        )
        channel = len(shape) - space - 1
        count, total, stay = cut.bound[name], shape[channel], kept[0][channel]
        assert isinstance(count, int) and isinstance(total, int)
        if count == 1 or stay is None:
            return cut.op, {}
        sizes = Counter(p // (total // count) for p in stay)
        return (cut.op, {name: len(sizes)}) if len(set(sizes.values())) == 1 else None

    return resize


def scale(name: str) -> Resize:
    """Attention's scale is by default that of the width before the cut."""

    def resize(cut: Cut) -> Resized:
        width = shape_of(cut.bound[name])[-1]
        if cut.bound["scale"] is not None or cut.inputs[name][0][-1] is None:
            return cut.op, {}
        return cut.op, {"scale": 1 / math.sqrt(width)}

    return resize


def selected(cut: Cut) -> Resized | None:
    """The index of what is selected among what stays."""
    shape = shape_of(cut.bound["self"])
    (dim,) = dims_of(cut.bound["dim"], len(shape))
    kept, index, size = _only(cut)[dim], cut.bound["index"], shape[dim]
    if kept is None:
        return cut.op, {}
    if not isinstance(index, int) or not isinstance(size, int) or index % size not in kept:
        return None
    return cut.op, {"index": kept.index(index % size)}


def sliced(cut: Cut) -> Resized | None:
    """The bounds of a slice among what stays, if it is a run of it."""
    shape = shape_of(cut.bound["self"])
    (dim,) = dims_of(cut.bound["dim"], len(shape))
    kept, made, size = _only(cut)[dim], cut.outputs[0][dim], shape[dim]
    if kept is None and made is None:
        return cut.op, {}
    start, end, step = (cut.bound[k] for k in ("start", "end", "step"))
    if not isinstance(size, int):
        return None
    chosen = range(size)[slice(start, end, step)]  # type: ignore[arg-type]
    left = range(size) if kept is None else kept
    wanted = [chosen[p] for p in (range(len(chosen)) if made is None else made)]
    places = [i for i, p in enumerate(left) if p in set(wanted)]
    first = places[0] if places else 0
    if len(places) != len(wanted) or places != list(range(first, first + len(places))):
        return None
    return cut.op, {"start": first, "end": first + len(places), "step": 1}


def split(cut: Cut) -> Resized:
    """Parts of other sizes: whatever the op, a split with sizes."""
    (dim,) = dims_of(cut.bound["dim"], len(_only(cut)))
    if all(made[dim] is None for made in cut.outputs) and _only(cut)[dim] is None:
        return cut.op, {}
    made_sizes = [_left(cut, i, dim) for i in range(len(cut.outputs))]
    return torch.ops.aten.split_with_sizes.default, {"split_sizes": made_sizes}


def _left(cut: Cut, part: int, dim: int) -> int:
    """How much stays of one part of a split."""
    made, size = cut.outputs[part][dim], cut.shapes[part][dim]
    assert isinstance(size, int)
    return size if made is None else len(made)


def _only(cut: Cut) -> Kept:
    return next(iter(cut.inputs.values()))[0]


def _list(value: object) -> Sequence[object]:
    assert isinstance(value, (list, tuple))
    return value
