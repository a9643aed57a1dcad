"""Gathers and scatters by index tensors.

What is read depends on data, so the indexed dimension is mixed as a whole.
"""

from collections.abc import Callable

import torch

from fxopt.ops.info import QuantRole
from fxopt.ops.sizes import shape_of
from fxopt.ops.table.entry import Bound, Facts, call, entry, no_flops
from fxopt.ops.table.maps import dims_of, first_shape, indices, statement

_READ = Facts(
    linear_in=("self",), zero_preserving=True, role=QuantRole.SAME_SCALE, flops=no_flops, picks=("self",)
)
_WRITE = Facts(affine_in=("self", "src", "source", "value"), flops=no_flops)


def _mark(dims: list[str], at: int, mark: str) -> list[str]:
    return [f"{mark}{d}" if i == at else d for i, d in enumerate(dims)]


def _indexed(bound: Bound) -> str | None:
    """Advanced indexing by integers: the indexed dimensions give way to those of the indices."""
    positions = bound["indices"]
    assert isinstance(positions, (list, tuple))
    if any(isinstance(p, torch.Tensor) and p.dtype in (torch.bool, torch.uint8) for p in positions):
        return None
    x = indices(len(first_shape(bound)))
    used = [i for i, p in enumerate(positions) if p is not None]
    adjacent = used == list(range(used[0], used[-1] + 1)) if used else False
    if not used:
        return None
    start = used[0] if adjacent else 0
    rest = [d for i, d in enumerate(x) if i not in used]
    return statement([x, *[["*"]] * len(used)], [[*rest[:start], "*", *rest[start:]]])


def _index_select(bound: Bound) -> str | None:
    x = indices(len(first_shape(bound)))
    if not x or len(shape_of(bound["index"])) != 1:
        return None
    (dim,) = dims_of(bound["dim"], len(x))
    mixed = _mark(x, dim, "!")
    return statement([mixed, [x[dim]]], [mixed])


def _gather(index: str) -> Callable[[Bound], str | None]:
    def index_map(bound: Bound) -> str | None:
        x = indices(len(first_shape(bound)))
        if bound["dim"] is None:
            return None
        (dim,) = dims_of(bound["dim"], len(x))
        mixed = _mark(x, dim, "!")
        return statement([mixed, x], [mixed]) if len(shape_of(bound[index])) == len(x) else None

    return index_map


def _scatter(bound: Bound) -> str:
    x = indices(len(first_shape(bound)))
    (dim,) = dims_of(bound["dim"], len(x))
    mixed = _mark(x, dim, "!")
    sources = [mixed] * (isinstance(bound.get("src"), torch.Tensor))
    return statement([x, mixed, *sources], [mixed])


def _index_write(source: str) -> Callable[[Bound], str | None]:
    """A one-dimensional index into `dim`; what is written has the input's rank, or is one number."""

    def index_map(bound: Bound) -> str | None:
        x = indices(len(first_shape(bound)))
        if not x or len(shape_of(bound["index"])) != 1:
            return None
        (dim,) = dims_of(bound["dim"], len(x))
        mixed = _mark(x, dim, "!")
        written = bound.get(source)
        sources = [mixed if len(shape_of(written)) else []] if isinstance(written, torch.Tensor) else []
        return statement([x, [f"!{x[dim]}"], *sources], [mixed])

    return index_map


def _take(bound: Bound) -> str:
    """A gather from the flattened tensor."""
    x = [f"!{d}" for d in indices(len(first_shape(bound)))]
    places = [f"p{i}" for i in range(len(shape_of(bound["index"])))]
    return statement([x, places], [places])


def _select_scatter(bound: Bound) -> str:
    x = indices(len(first_shape(bound)))
    (dim,) = dims_of(bound["dim"], len(x))
    return statement([x, x[:dim] + x[dim + 1 :]], [x])


def _slice_scatter(bound: Bound) -> str:
    x = indices(len(first_shape(bound)))
    (dim,) = dims_of(bound["dim"], len(x))
    return statement([x, _mark(x, dim, "!")], [x])


entry(
    "index",
    lambda d: [
        call(d(4, 3), [d.integers(4, 2)]),
        call(d(4, 3), [None, d.integers(3, 2, 2)]),
        call(d(2, 4, 3, 2), [None, d.integers(4, 2, 1), d.integers(3, 3)]),
        call(d(4, 2, 3), [d.integers(4, 2), None, d.integers(3, 2)]),
        call(d(2, 3), [d.mask(2, 3)]),
    ],
    _READ,
    index_map=_indexed,
)
entry(
    "index_select",
    lambda d: [
        call(d(2, 4), -1, d.integers(4, 3)),
        call(d(4), 0, d.integers(4, 2)),
        call(d(4, 2), 0, d.integers(4, 6)),
    ],
    _READ,
    index_map=_index_select,
    dims=("dim",),
)
entry(
    "gather",
    lambda d: [call(d(2, 4), -1, d.integers(4, 2, 3)), call(d(4, 3), 0, d.integers(4, 2, 2))],
    _READ,
    index_map=_gather("index"),
    dims=("dim",),
)
entry(
    "take_along_dim",
    lambda d: [call(d(2, 4), d.integers(4, 2, 3), -1), call(d(2, 3), d.integers(6, 4))],
    _READ,
    index_map=_gather("indices"),
    dims=("dim",),
)
entry("take", lambda d: [call(d(2, 4), d.integers(8, 3, 2))], _READ, index_map=_take)
entry("masked_select", lambda d: [call(d(2, 3), d.mask(2, 3))], _READ)
entry("nonzero argwhere", lambda d: [call(d.mask(2, 3))], flops=no_flops)
entry(
    "scatter",
    lambda d: [
        call(d(2, 4), -1, d.integers(4, 2, 3), d(2, 3)),
        call(d(4, 2), 0, d.integers(4, 3, 2), 2.5),
    ],
    _WRITE,
    index_map=_scatter,
    dims=("dim",),
)
entry(
    "scatter.reduce",
    lambda d: [call(d(2, 4), -1, d.integers(4, 2, 3), d(2, 3), reduce="multiply")],
    index_map=_scatter,
    dims=("dim",),
)
entry(
    "scatter.value_reduce",
    lambda d: [call(d(2, 4), -1, d.integers(4, 2, 3), 2.5, reduce="multiply")],
    index_map=_scatter,
    dims=("dim",),
)
entry(
    "scatter_add",
    lambda d: [call(d(2, 4), -1, d.integers(4, 2, 3), d(2, 3))],
    affine_in=("self", "src"),
    index_map=_scatter,
    dims=("dim",),
)
entry(
    "scatter_reduce",
    lambda d: [call(d(2, 4), -1, d.integers(4, 2, 3), d(2, 3), m) for m in ("amax", "prod", "mean")],
    index_map=_scatter,
    dims=("dim",),
)
entry(
    "index_add",
    lambda d: [call(d(2, 4), -1, d.integers(4, 3), d(2, 3)), call(d(4), 0, d.integers(4, 2), d(2), alpha=2)],
    affine_in=("self", "source"),
    index_map=_index_write("source"),
    dims=("dim",),
)
entry(
    "index_copy",
    lambda d: [call(d(2, 4), -1, d.integers(4, 3), d(2, 3)), call(d(4), 0, d.integers(4, 2), d(2))],
    _WRITE,
    index_map=_index_write("source"),
    dims=("dim",),
)
entry(
    "index_fill",
    lambda d: [call(d(2, 4), -1, d.integers(4, 2), 1.5), call(d(4, 2), 0, d.integers(4, 2), d())],
    _WRITE,
    index_map=_index_write("value"),
    dims=("dim",),
)
entry(
    "index_put",
    lambda d: [
        call(d(4, 3), [d.integers(4, 2)], d(3)),
        call(d(4, 3), [None, d.integers(3, 3)], d(4, 3), True),
        call(d(2, 3), [d.mask(2, 3)], d()),
    ],
    affine_in=("self", "values"),
    flops=no_flops,
)
entry("masked_scatter", lambda d: [call(d(2, 3), d.mask(2, 3), d(6))], _WRITE)
entry(
    "select_scatter",
    lambda d: [call(d(2, 3), d(2), -1, 1), call(d(3), d(), 0, -1)],
    _WRITE,
    index_map=_select_scatter,
    uncut=lambda bound: [f"d{bound['dim']}"],
    dims=("dim",),
)
entry(
    "slice_scatter",
    lambda d: [call(d(2, 5), d(2, 2), -1, 1, 5, 2)],
    _WRITE,
    index_map=_slice_scatter,
    dims=("dim",),
)
