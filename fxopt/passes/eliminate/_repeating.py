"""Dead rows whose places are needed: one of them is computed, and repeated in the places of all.

A norm counts channels that are zero, and a residual sum has them; their rows of the weight before need not be there
more than once for that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node
from torch.fx.node import map_arg

from fxopt.analysis.channels import Constants, Product
from fxopt.analysis.channels.reading import Side, some
from fxopt.rewriting import Rewriter

__all__ = ["repeat_dead_rows"]

_WORTH = 16
"""Multiplications that have to be saved for each element that is copied into its place."""


@dataclass(frozen=True)
class _Rows:
    """A product's rows, those that give one and the same number made once.

    Attributes:
        dim: of the result, along which the rows lie.
        kept: the rows that stay.
        places: for each row of before, which of them stands for it.
    """

    product: Product
    dim: int
    kept: tuple[int, ...]
    places: tuple[int, ...]


def repeat_dead_rows(rewriter: Rewriter, constants: Constants, rule: str) -> None:
    """Makes rows that give a constant once for each constant, where that saves more than the copy costs."""
    for rows in list(_found(constants)):
        with rewriter.rewrite(rule, rows.product.reading.node):
            _repeat(rewriter, rows)


def _repeat(rewriter: Rewriter, rows: _Rows) -> None:
    product, node = rows.product, rows.product.reading.node
    own = [s for s in (product.weight, product.bias) if s is not None]
    cut = {s.node: _cut(rewriter, s, product, rows.kept) for s in own}
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda n: cut.get(n, n))
    small = rewriter.call(product.reading.op, *args, **kwargs)
    index = rewriter.constant(torch.tensor(rows.places, device=product.tensor.device), name="places")
    rewriter.replace(node, rewriter.call("aten.index_select", small, rows.dim, index))


def _cut(rewriter: Rewriter, side: Side, product: Product, kept: tuple[int, ...]) -> Node:
    tensor = product.tensor if side is product.weight else rewriter.value(side.node)
    assert tensor is not None
    index = torch.tensor(kept, device=tensor.device)
    cut = tensor.detach().index_select(side.dims.index(product.rows), index)
    return rewriter.constant(cut, name=str(side.node.target), successor_of=side.node)


def _found(constants: Constants) -> Iterator[_Rows]:
    for products in constants.products.values():
        for product in products:
            varies = product.x.node not in constants.known  # of two known factors each would be cut
            rows = _rows(constants, product) if varies and _can_lose_rows(product) else None
            if rows is not None:
                gone, count = len(rows.places) - len(rows.kept), len(rows.places)
                if gone * product.tensor.numel() >= _WORTH * count * count:
                    yield rows


def _can_lose_rows(product: Product) -> bool:
    """Whether weight and bias have the rows along a dimension of theirs, and are nobody else's."""
    own = [s for s in (product.weight, product.bias) if s is not None]
    return (
        product.is_plain
        and len(product.rows) == 1
        and not product.x.indices & set(product.rows)
        and all(s.node.op == "get_attr" and len(s.node.users) == 1 and product.rows in s.dims for s in own)
    )


def _rows(constants: Constants, product: Product) -> _Rows | None:
    """The rows of which the first that gives a number stands for all that give it; None if nothing goes."""
    reached = product.from_grid(product.reaches, product.rows, some)
    values = np.zeros(reached.size)
    if product.bias is not None:
        values = constants.along(product.reading, product.bias, product.rows)
    first: dict[float, int] = {}
    kept: list[int] = []
    places: list[int] = []
    for row, (alive, value) in enumerate(zip(reached.tolist(), values.tolist(), strict=True)):
        if alive or first.setdefault(value, len(kept)) == len(kept):
            kept.append(row)
            places.append(len(kept) - 1)
        else:
            places.append(first[value])
    if len(kept) == len(places):
        return None
    dim = next(d for d, _, names in product.reading.outputs[0].places() if names == product.rows)
    return _Rows(product, dim, tuple(kept), tuple(places))
