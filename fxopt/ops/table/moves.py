"""Index maps of ops that only move elements, as functions of a call's bound arguments.

>>> import torch
>>> permuted(given)({"self": torch.ones(2, 3, 4), "dims": [2, 0, 1]})
'x[d0,d1,d2] -> y[d2,d0,d1]'
"""

from collections.abc import Callable

from fxopt.ops.sizes import Size, is_one, product, same_size, shape_of
from fxopt.ops.table.entry import Bound
from fxopt.ops.table.maps import along, dims_of, first_shape, indices, operand, statement
from fxopt.ops.table.regroup import regrouped


def target(name: str) -> Callable[[Bound], str]:
    """A reshape to the sizes in the named argument."""

    def index_map(bound: Bound) -> str:
        source, sizes = first_shape(bound), _sizes(bound[name])
        if any(_is_minus_one(s) for s in sizes):
            rest = product(s for s in sizes if not _is_minus_one(s))
            if same_size(rest, 0):
                return statement([[f"!{d}" for d in indices(len(source))]], [["."] * len(sizes)])
            sizes = [product(source) // rest if _is_minus_one(s) else s for s in sizes]
        return regrouped(source, sizes)

    return index_map


def _sizes(value: object) -> list[Size]:
    assert isinstance(value, (list, tuple))
    return list(value)


def _is_minus_one(size: Size) -> bool:
    return isinstance(size, int) and size == -1


def like(bound: Bound) -> str:
    """A reshape to the sizes of another tensor."""
    other = shape_of(bound["other"])
    return regrouped(first_shape(bound), other).replace(" ->", f", {operand('like', ['.'] * len(other))} ->")


def flatten(bound: Bound) -> str:
    """A run of dimensions merged into one."""
    x = indices(len(first_shape(bound)))
    if not x:
        return "x[] -> y[.]"
    start, end = (dims_of(bound[k], len(x))[0] for k in ("start_dim", "end_dim"))
    merged = x[start] if start == end else f"({' '.join(x[start : end + 1])})"
    return statement([x], [[*x[:start], merged, *x[end + 1 :]]])


def unflatten(bound: Bound) -> str:
    """One dimension split."""
    x = indices(len(first_shape(bound)))
    (dim,) = dims_of(bound["dim"], len(x))
    parts = [f"p{i}" for i in range(len(_sizes(bound["sizes"])))]
    merged = parts[0] if len(parts) == 1 else f"({' '.join(parts)})"
    return statement([[*x[:dim], merged, *x[dim + 1 :]]], [[*x[:dim], *parts, *x[dim + 1 :]]])


def permuted(order: Callable[[Bound, int], list[int]]) -> Callable[[Bound], str]:
    """Dimensions in the order that a function of the arguments gives."""

    def index_map(bound: Bound) -> str:
        x = indices(len(first_shape(bound)))
        return statement([x], [[x[i] for i in order(bound, len(x))]])

    return index_map


def given(bound: Bound, rank: int) -> list[int]:
    """The order that `dims` gives."""
    return dims_of(bound["dims"], rank) if rank else []


def reverse(bound: Bound, rank: int) -> list[int]:
    """All dimensions backwards."""
    return list(range(rank))[::-1]


def matrix(bound: Bound, rank: int) -> list[int]:
    """The last two dimensions swapped."""
    return [*range(rank - 2), *reversed(range(max(rank - 2, 0), rank))]


def swapped(first: str, second: str) -> Callable[[Bound, int], list[int]]:
    """Two dimensions swapped, the ones that the arguments name."""

    def order(bound: Bound, rank: int) -> list[int]:
        dims = list(range(rank))
        if rank:
            a, b = (dims_of(bound[k], rank)[0] for k in (first, second))
            dims[a], dims[b] = dims[b], dims[a]
        return dims

    return order


def moved(bound: Bound, rank: int) -> list[int]:
    """Dimensions `source` at the places `destination`, the rest in order."""
    source, target = (dims_of(bound[k], rank) for k in ("source", "destination"))
    placed = dict(zip(target, source, strict=True))
    rest = iter(i for i in range(rank) if i not in source)
    return [placed[i] if i in placed else next(rest) for i in range(rank)]


def expand(bound: Bound) -> str:
    """Dimensions of size one repeated, new ones in front; to the sizes of `size` or of the tensor `other`."""
    shape = first_shape(bound)
    others = [] if "size" in bound else [["."] * len(shape_of(bound["other"]))]
    sizes = _sizes(bound["size"]) if "size" in bound else list(shape_of(bound["other"]))
    x = indices(len(shape))
    new = len(sizes) - len(x)
    kept = [_is_minus_one(s) or same_size(s, old) for s, old in zip(sizes[new:], shape, strict=True)]
    y = [d if k or not is_one(old) else f"r{d}" for d, k, old in zip(x, kept, shape, strict=True)]
    x = [d if d == e else "." for d, e in zip(x, y, strict=True)]
    return statement([x, *others], [[*(f"n{i}" for i in range(new)), *y]])


def squeeze(bound: Bound) -> str:
    """Dimensions of size one dropped; a named one of another size stays."""
    shape = first_shape(bound)
    named = bound.get("dim", list(range(len(shape))))
    dims = [] if named == [] else dims_of(named, len(shape))
    gone = {i for i in dims if i < len(shape) and is_one(shape[i])}
    x = ["." if i in gone else d for i, d in enumerate(indices(len(shape)))]
    return statement([x], [[d for i, d in enumerate(x) if i not in gone]])


def inserted(bound: Bound) -> str:
    """A new dimension of size one, or of the tensors of a stack."""
    x = indices(len(first_shape(bound)))
    (dim,) = dims_of(bound["dim"], len(x) + 1)
    return statement([x], [[*x[:dim], ".", *x[dim:]]])


def select(bound: Bound) -> str:
    """One position of a dimension, which is gone."""
    x = indices(len(first_shape(bound)))
    (dim,) = dims_of(bound["dim"], len(x))
    return statement([x], [x[:dim] + x[dim + 1 :]])


def padded(bound: Bound) -> str:
    """More or fewer elements at the ends, or wrapped around: only padded dimensions are mixed."""
    x = indices(len(first_shape(bound)))
    amounts = _sizes(bound["pad"])
    for i in range(0, len(amounts), 2):
        at = len(x) - 1 - i // 2
        if not all(same_size(a, 0) for a in amounts[i : i + 2]):
            x[at] = f"!{x[at]}"
    return statement([x], [x])


def repeat(name: str) -> Callable[[Bound], str]:
    """Copies side by side: the copy is the outer index."""

    def index_map(bound: Bound) -> str:
        x = indices(len(first_shape(bound)))
        count = max(len(_sizes(bound[name])), len(x))
        y = [f"r{i}" for i in range(count - len(x))] + [
            f"(r{count - len(x) + i} {d})" for i, d in enumerate(x)
        ]
        return statement([x], [y])

    return index_map


def copies(bound: Bound) -> list[str]:
    """The indices of a repeat's copies."""
    return [f"r{i}" for i in range(len(_sizes(bound["repeats"])))]


def interleaved(bound: Bound) -> str:
    """Copies of each element side by side: the copy is the inner index."""
    x = indices(len(first_shape(bound)))
    if bound["dim"] is None:
        return statement([x], [[f"({' '.join([*x, 'r'])})"]]) if x else "x[] -> y[.]"
    (dim,) = dims_of(bound["dim"], len(x))
    return statement([x], [[*x[:dim], f"({x[dim]} r)", *x[dim + 1 :]]])


def diagonal(bound: Bound) -> str:
    """Two dimensions become their diagonal, the last."""
    x = indices(len(first_shape(bound)))
    gone = {dims_of(bound[k], len(x))[0] for k in ("dim1", "dim2")}
    return statement([x], [[*(d for i, d in enumerate(x) if i not in gone), "."]])


def diag_embed(bound: Bound) -> str:
    """The last dimension on the diagonal of two new ones."""
    x = indices(len(first_shape(bound)))
    new = {dims_of(bound[k], len(x) + 1)[0] for k in ("dim1", "dim2")}
    rest = iter(x[:-1])
    return statement([[*x[:-1], f"!{x[-1]}"]], [["." if i in new else next(rest) for i in range(len(x) + 1)]])


def unfold(bound: Bound) -> str:
    """Windows of a dimension, their elements in a new last one."""
    rank = len(first_shape(bound))
    x = [f"!{d}" if i in dims_of(bound["dimension"], rank) else d for i, d in enumerate(indices(rank))]
    return statement([x], [[*x, "."]])


def rotated(bound: Bound) -> str:
    """A quarter turn, or several, of two dimensions."""
    x = indices(len(first_shape(bound)))
    turned = dims_of(bound["dims"], len(x))
    y = ["." if i in turned else d for i, d in enumerate(x)]
    return statement([x], [y])


def joined(bound: Bound) -> str | None:
    """Tensors one after the other along `dim`; one bracket for all (none where torch lets ranks differ)."""
    tensors = bound["tensors"]
    assert isinstance(tensors, (list, tuple))
    ranks = {len(shape_of(t)) for t in tensors}
    return along("dim")(bound) if len(ranks) == 1 else None
