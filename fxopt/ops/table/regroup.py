"""The index map of a reshape: dimensions that are split and merged, in row-major order.

>>> regrouped([2, 12, 5], [2, 3, 4, 5])
'x[d0,(d1 d2),d3] -> y[d0,d1,d2,d3]'
>>> regrouped([4, 6], [2, 12])
'x[(d0 d1=2),d2=6] -> y[d0,(d1=2 d2=6)]'
>>> regrouped([4, 6], [3, 8])
'x[!d0,!d1] -> y[.,.]'
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from fxopt.ops.sizes import Size, is_one, product, same_size
from fxopt.ops.table.maps import statement

__all__ = ["regrouped"]


class _Names:
    """Index names in order."""

    def __init__(self) -> None:
        self.count = 0

    def take(self) -> str:
        self.count += 1
        return f"d{self.count - 1}"


def regrouped(source: Sequence[Size], target: Sequence[Size]) -> str:
    """The map of a reshape.

    Args:
        source: the input's sizes, int or SymInt.
        target: the output's sizes, none of them -1.

    Returns:
        The map; dimensions whose boundaries don't line up for every value of the symbols are mixed.
    """
    rows = [i for i, s in enumerate(source) if not is_one(s)]
    columns = [i for i, s in enumerate(target) if not is_one(s)]
    x, y = ["."] * len(source), ["."] * len(target)
    names = _Names()
    for ours, theirs in _groups([source[i] for i in rows], [target[i] for i in columns]):
        left, right = ([rows[i] for i in ours], [columns[i] for i in theirs])
        items = _items([source[i] for i in left], [target[i] for i in right], names)
        for i, item in zip([*left], items[0], strict=True):
            x[i] = item
        for i, item in zip([*right], items[1], strict=True):
            y[i] = item
    return statement([x], [y])


def _groups(source: Sequence[Size], target: Sequence[Size]) -> Iterator[tuple[range, range]]:
    """The smallest runs of dimensions with equal products, from the left."""
    i = j = 0
    for stop_i, stop_j in _cuts(source, target):
        yield range(i, stop_i), range(j, stop_j)
        i, j = stop_i, stop_j
    # What no cut from the left explains may still end in equal dimensions.
    tail = 0
    while tail < min(len(source) - i, len(target) - j) and same_size(source[-1 - tail], target[-1 - tail]):
        tail += 1
    if i < len(source) - tail or j < len(target) - tail:
        yield range(i, len(source) - tail), range(j, len(target) - tail)
    for k in range(tail, 0, -1):
        yield range(len(source) - k, len(source) - k + 1), range(len(target) - k, len(target) - k + 1)


def _cuts(source: Sequence[Size], target: Sequence[Size]) -> Iterator[tuple[int, int]]:
    i = j = 0
    while i < len(source) and j < len(target):
        found = next(
            (
                (a, b)
                for total in range(2, len(source) - i + len(target) - j + 1)
                for a in range(i + 1, min(len(source), i + total - 1) + 1)
                if (b := i + j + total - a) <= len(target)
                and same_size(product(source[i:a]), product(target[j:b]))
            ),
            None,
        )
        if found is None:
            return
        yield found
        i, j = found


def _items(source: Sequence[Size], target: Sequence[Size], names: _Names) -> tuple[list[str], list[str]]:
    """The brackets' items for one run."""
    if len(source) == len(target) == 1 and same_size(source[0], target[0]):
        name = names.take()
        return [name], [name]
    if len(source) == 1 and same_size(source[0], product(target)):
        parts = [names.take() for _ in target]
        return [f"({' '.join(parts)})"], parts
    if len(target) == 1 and same_size(target[0], product(source)):
        parts = [names.take() for _ in source]
        return parts, [f"({' '.join(parts)})"]
    return _factors(source, target, names) or ([f"!{names.take()}" for _ in source], ["."] * len(target))


def _factors(
    source: Sequence[Size], target: Sequence[Size], names: _Names
) -> tuple[list[str], list[str]] | None:
    """Common factors of both sides, if each boundary of one side divides the next of the other.

    Only the outermost sizes may be symbolic: what is left of them above the highest boundary is the outermost
    factor.
    """
    if not _all_fixed(source[1:]) or not _all_fixed(target[1:]):
        return None
    if not same_size(product(source), product(target)):
        return None
    ours, theirs = _boundaries(source[1:]), _boundaries(target[1:])
    boundaries = sorted({*ours, *theirs}, reverse=True)
    if any(outer % inner for outer, inner in pairwise(boundaries)):
        return None
    outermost = names.take()
    factors = {outer: f"{names.take()}={outer // inner}" for outer, inner in pairwise(boundaries)}

    def side(own: list[int]) -> list[str]:
        first = [outermost, *(name for boundary, name in factors.items() if boundary > own[0])]
        rest = [[name for b, name in factors.items() if high >= b > low] for high, low in pairwise(own)]
        return [f"({' '.join(parts)})" if len(parts) > 1 else parts[0] for parts in (first, *rest)]

    return side(ours), side(theirs)


def _all_fixed(sizes: Sequence[Size]) -> bool:
    return all(isinstance(s, int) and s > 0 for s in sizes)


def _boundaries(sizes: Sequence[Size]) -> list[int]:
    """The number of elements from each dimension on: 24, 6, 1 of (4, 6)."""
    return [int(product(sizes[i:])) for i in range(len(sizes) + 1)]
