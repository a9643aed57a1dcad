"""A product with a known weight, as the matrix of which input channel reaches which output channel.

What stands in the window (or any other index of the weight alone) is summed, so a convolution is a matrix too:
that is what constant channels see, and whether a channel reaches another at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.fx import Node

from fxopt.analysis.channels.reading import Names, Reading, Reduce, Side, some, total
from fxopt.analysis.channels.space import Axis
from fxopt.ops import Mark, QuantRole

__all__ = ["Product", "products_of"]


@dataclass(frozen=True, eq=False)
class Product:
    """One input of a call that meets a known weight.

    Attributes:
        x: the input, `channel` the dimension that meets the weight, with the indices `channels`; it has none where
            that dimension is of size one.
        weight: the other operand.
        out: the dimension of the result that the weight's rows make, with the indices `rows`.
        bias: what is added by row; None where the call has none.
        grid: the weight's indices among those two, in its own order.
    """

    reading: Reading
    x: Side
    channel: Axis | None
    channels: Names
    weight: Side
    out: Axis
    rows: Names
    bias: Side | None
    grid: Names
    tensor: torch.Tensor

    @property
    def pads(self) -> bool:
        """Whether some results see zeros in the place of input elements."""
        pads = self.reading.info.pads
        return pads(self.reading.bound) if callable(pads) else pads

    @property
    def is_plain(self) -> bool:
        """Whether it is all that the call computes, y = x w + b, without factors."""
        is_all = self.reading.info.role is QuantRole.CONTRACTION
        return is_all and all(self.reading.bound.get(k, 1) == 1 for k in ("alpha", "beta"))

    @property
    def takes_bias(self) -> bool:
        """Whether a bias by row is added, or could be."""
        if self.bias is not None:
            return self.rows in self.bias.dims
        return set(self.rows) <= self.reading.indices_of(self.reading.info.shifted_by)

    @cached_property
    def reaches(self) -> np.ndarray:
        """Whether any element of the weight stands between two channels: bool over `grid`. On `meta`: yes, of size one."""
        if self.tensor.is_meta:
            return np.ones([1] * len(self.grid), dtype=bool)
        return self._reduced((self.tensor != 0).cpu().numpy(), some)

    @cached_property
    def sums(self) -> np.ndarray:
        """Sums of the weight over what is not in `grid`: float64."""
        return self._reduced(self.tensor.detach().double().cpu().numpy(), total)

    def _reduced(self, array: np.ndarray, reduce: Reduce) -> np.ndarray:
        names = [n for d in self.weight.dims for n in d]
        array = array.reshape([self.reading.extents[n] for n in names])
        gone = tuple(i for i, n in enumerate(names) if n not in self.grid)
        return reduce(array, gone) if gone else array

    def over_grid(self, vector: np.ndarray, names: Names) -> np.ndarray:
        """A vector by channels or rows, to be broadcast over `grid`."""
        array = vector.reshape([self.reading.extents[n] for n in names])
        array = array.transpose([names.index(n) for n in self.grid if n in names])
        return array.reshape([self.reading.extents[n] if n in names else 1 for n in self.grid])

    def from_grid(self, array: np.ndarray, names: Names, reduce: Reduce) -> np.ndarray:
        """What lies over `grid`, as a vector by channels or rows."""
        gone = tuple(i for i, n in enumerate(self.grid) if n not in names)
        if reduce is not some:  # of equal elements one says what some do
            sizes = [
                self.reading.extents[n] if n not in names else s
                for n, s in zip(self.grid, array.shape, strict=True)
            ]
            array = np.broadcast_to(array, sizes)
        array = reduce(array, gone) if gone else array
        left = [n for n in self.grid if n in names]
        array = np.broadcast_to(array, [self.reading.extents[n] for n in left])
        return array.transpose([left.index(n) for n in names]).reshape(-1)

    def response(self, constants: np.ndarray) -> np.ndarray:
        """What constant channels add to each row where none of them is cut off by padding: float64."""
        terms = self.sums * self.over_grid(constants, self.channels)
        return self.from_grid(terms, self.rows, total)


def products_of(reading: Reading, known: Mapping[Node, torch.Tensor]) -> list[Product]:
    """The inputs of a call that meet known weights, as far as they can be put as matrices."""
    is_product = reading.info.role is QuantRole.CONTRACTION and len(reading.outputs) == 1
    if not reading.is_known or not (is_product or reading.info.units):
        return []
    found = []
    for x in reading.inputs:
        for weight in reading.inputs:
            if x is not weight and weight.node in known and known[weight.node].is_floating_point():
                product = _product(reading, x, weight, known[weight.node])
                found += [] if product is None else [product]
    return found


def _product(reading: Reading, x: Side, weight: Side, tensor: torch.Tensor) -> Product | None:
    contracted = reading.contracted
    kept = {i for s in reading.outputs for i in s.indices}
    shared = (x.indices & weight.indices) - kept
    units = bool(reading.info.units)
    if not shared or (units and not any(map(reading.skips_zeros, shared))):  # gates are no sums
        return None
    own = {n for d in weight.dims for n in d}
    channels: list[tuple[Axis | None, Names]] = [(a, d) for _, a, d in x.places() if own & set(d)]
    rows = [(a, d) for _, a, d in reading.outputs[0].places() if own & set(d)]
    others = [] if units else [s for s in reading.inputs if s is not x and s is not weight]
    if len(channels) > 1 or len(rows) != 1 or any(s.name != reading.info.shifted_by for s in others):
        return None  # a third factor is no bias
    channel, names = channels[0] if channels else (None, ())
    ((out, row_names),) = rows
    if not {*names, *row_names} <= own or reading.carried(names) != names:
        return None
    if sum(len(contracted & own & set(d)) for d in x.dims) > 1:
        return None
    bias = others[0] if others else None
    if bias is not None and not ({n for d in bias.dims for n in d} <= set(row_names)):
        return None
    if any(reading.marks.get(n, Mark.CARRIED) is not Mark.CARRIED for n in own):
        return None  # an image that is known stands in no fixed place to what it meets
    if any(size != 1 and not names for size, names in zip(tensor.shape, weight.dims, strict=False)):
        return None
    grid = tuple(n for d in weight.dims for n in d if n in names or n in row_names)
    return Product(reading, x, channel, names, weight, out, row_names, bias, grid, tensor)
