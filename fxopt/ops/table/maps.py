"""Index maps that depend on literal arguments, as functions of a call's bound arguments.

>>> import torch
>>> along("dim")({"self": torch.ones(2, 3, 4), "dim": -1})
'x[d0,d1,!d2] -> y[d0,d1,!d2]'
>>> reduced("dim")({"self": torch.ones(2, 3, 4), "dim": [1], "keepdim": False})
'x[d0,d1,d2] -> y[d0,d2]'
"""

from collections.abc import Callable, Iterable

from fxopt.ops.sizes import Size, shape_of
from fxopt.ops.table.entry import Bound

__all__ = [
    "along",
    "dims_of",
    "first_shape",
    "indices",
    "operand",
    "per_channel",
    "reduced",
    "statement",
    "trailing",
]

MapFunction = Callable[[Bound], str | None]


def indices(rank: int) -> list[str]:
    """`rank` different index names."""
    return [f"d{i}" for i in range(rank)]


def operand(name: str, dims: Iterable[str]) -> str:
    """One bracket."""
    return f"{name}[{','.join(dims)}]"


def statement(inputs: Iterable[Iterable[str]], outputs: Iterable[Iterable[str]]) -> str:
    """The text of a whole map, tensors named x, x1, x2 ... -> y, y1 ..."""
    sides = [
        ", ".join(operand(f"{name}{i or ''}", dims) for i, dims in enumerate(operands))
        for name, operands in (("x", inputs), ("y", outputs))
    ]
    return " -> ".join(sides)


def first_shape(bound: Bound) -> tuple[Size, ...]:
    """The shape of the first argument, or of its first tensor if it is a list."""
    first = next(iter(bound.values()))
    return shape_of(first[0] if isinstance(first, (list, tuple)) else first)


def dims_of(value: object, rank: int) -> list[int]:
    """The dimensions that an argument names, non-negative; None and an empty list mean all of them."""
    if value is None or value == []:
        return list(range(rank))
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v % max(rank, 1) for v in values if isinstance(v, int)]


def along(*names: str, outputs: int = 1) -> MapFunction:
    """Mixed along the named dimensions (all of them where the argument is None), carried along the others."""

    def index_map(bound: Bound) -> str:
        dims = indices(len(first_shape(bound)))
        mixed = (
            {d for name in names for d in dims_of(bound.get(name), len(dims))}
            if names
            else set(range(len(dims)))
        )
        marked = [f"!{name}" if i in mixed else name for i, name in enumerate(dims)]
        return statement([marked], [marked] * outputs)

    return index_map


def reduced(name: str | None = None, *, outputs: int = 1) -> MapFunction:
    """Contracted over the named dimensions; of an absent argument over all of them."""

    def index_map(bound: Bound) -> str:
        dims = indices(len(first_shape(bound)))
        gone = set(dims_of(bound.get(name) if name else None, len(dims)))
        keep = bool(bound.get("keepdim", False))
        left = ["." if i in gone else d for i, d in enumerate(dims) if keep or i not in gone]
        return statement([dims], [left] * outputs)

    return index_map


def per_channel(*names: str) -> MapFunction:
    """Elementwise, with vectors that belong to dimension 1 (or single numbers) in the named arguments."""

    def index_map(bound: Bound) -> str:
        x = ["n", "c", "*"] if len(first_shape(bound)) > 1 else ["*"]
        channel = ["c"] if len(x) > 1 else ["."]
        vectors = [[] if bound[n] is not None and not shape_of(bound[n]) else channel for n in names]
        return statement([x, *vectors], [x])

    return index_map


def trailing(name: str, vectors: int) -> MapFunction:
    """Mixed over the last dimensions, as many as the argument has sizes; weights have just these."""

    def index_map(bound: Bound) -> str:
        sizes = bound[name]
        dims = indices(len(sizes) if isinstance(sizes, (list, tuple)) else 1)
        mixed = ["*", *(f"!{d}" for d in dims)]
        return statement([mixed, *[dims] * vectors], [mixed])

    return index_map
