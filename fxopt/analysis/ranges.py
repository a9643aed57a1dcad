"""The range of a stream of values, for numbers of few bits: what was seen is kept as a histogram of fixed size.

>>> values = Histogram()
>>> values.update(torch.tensor([-1.0, 0.0, 3.0]))
>>> values.range("minmax", Grid(8, signed=False))
(-1.0, 3.0)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from fxopt.errors import InputError

__all__ = ["METHODS", "Grid", "Histogram", "Method", "affine", "symmetric"]

Method = Literal["mse", "minmax", "moving-average", "percentile", "entropy"]
METHODS: tuple[str, ...] = get_args(Method)

_HALF = 2048
"""Bins on each side of zero."""
_DECAY = 0.01
_MASK = -1e4
"""Values from here down hide others in a softmax."""
_FAR = 64
"""How many times as far from 0 as all else."""
_PERCENTILE = 0.9999
_SMALLEST_SCALE = 2.0**-60
"""Products of two scales, and their reciprocals, stay normal float32 numbers."""


@dataclass(frozen=True)
class Grid:
    """Integers of some bits; `narrow` leaves the lowest out, so that they are as many on each side of zero."""

    bits: int
    signed: bool
    narrow: bool = False

    @property
    def low(self) -> int:
        """The lowest integer."""
        return self.lowest + self.narrow

    @property
    def high(self) -> int:
        """The highest integer."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def largest(self) -> int:
        """The largest magnitude of an integer of the type."""
        return max(-self.lowest, self.high)

    @property
    def lowest(self) -> int:
        """The lowest integer of the type, which a narrow grid leaves out."""
        return -(1 << (self.bits - 1)) if self.signed else 0


def affine(low: float, high: float, grid: Grid) -> tuple[float, int]:
    """Scale and zero point by which a grid covers a range, zero included: 0 is a multiple of the scale.

    Returns:
        A float32 number and an integer of the grid.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _rounded(max((high - low) / (grid.high - grid.low), _SMALLEST_SCALE))
    zero_point = min(max(round(grid.low - low / scale), grid.low), grid.high)
    return scale, zero_point


def symmetric(bound: float, grid: Grid) -> float:
    """The scale by which a signed grid covers -bound to bound, its zero point at 0; a float32 number."""
    return _rounded(max(bound / grid.high, _SMALLEST_SCALE))


def _rounded(scale: float) -> float:
    return float(torch.tensor(scale, dtype=torch.float32))


_Cost = Callable[[torch.Tensor, torch.Tensor, Grid], torch.Tensor]


class Histogram:
    """Counts of values in bins around zero, whose width is a power of two that doubles as values grow.

    Bins are merged in pairs, so that the result does not depend on the order of the batches, and memory not on
    their number.
    """

    def __init__(self) -> None:
        self.count = 0
        self.minimum, self.maximum = math.inf, -math.inf
        self._hidden = False
        """-inf was among the values."""
        self._average: tuple[float, float] | None = None
        self._width = 0.0
        """0 while nothing but zeros was seen."""
        self._bins = torch.zeros(2 * _HALF, dtype=torch.float64)

    def update_hidden(self, values: torch.Tensor) -> None:
        """As `update`, but values of -inf are a mask's, and no part of a range.

        Raises:
            InputError: NaN or inf are among them.
        """
        hidden = values == -math.inf
        if bool(hidden.any()):
            self._hidden, values = True, values[~hidden]
        self.update(values)

    @property
    def masks(self) -> bool:
        """Whether it holds an additive mask: values of -1e4 or below, and others so near 0 that they would be rounded to it."""
        if self._hidden:
            return True
        if self.minimum > _MASK or self.maximum * _FAR > -self.minimum:
            return False
        # The lowest value lies in the outer half of the bins: from there up to half of it, and near 0.
        between = self._bins[_HALF - _HALF // 4 : _HALF - _HALF // 2 // _FAR]
        return not bool(between.any())

    def update(self, values: torch.Tensor) -> None:
        """Adds values.

        Args:
            values: floating-point, any shape; none for an empty tensor.

        Raises:
            InputError: NaN or infinite ones are among them.
        """
        if not values.numel():
            return
        values = values.detach().float().flatten()
        low, high = (float(v) for v in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int((~torch.isfinite(values)).sum())
            raise InputError(f"{bad} of {values.numel()} values are NaN or infinite")
        self.count += values.numel()
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        old = self._average or (low, high)
        self._average = (old[0] + _DECAY * (low - old[0]), old[1] + _DECAY * (high - old[1]))
        self._widen(max(-low, high))
        if self._width:
            index = torch.floor(values / self._width).clamp_(-_HALF, _HALF - 1) + _HALF
            self._bins += torch.bincount(index.long(), minlength=2 * _HALF)
        else:
            self._bins[_HALF] += values.numel()

    def _widen(self, bound: float) -> None:
        """Merges bins until the bound lies within."""
        if bound == 0:
            return
        wanted = 2.0 ** (math.frexp(bound)[1] - int(math.log2(_HALF)))
        if not self._width:
            self._width = wanted
        while self._width < wanted:
            quarter = torch.zeros(_HALF // 2, dtype=torch.float64)
            self._bins = torch.cat([quarter, self._bins.view(-1, 2).sum(1), quarter])
            self._width *= 2

    def range(self, method: str, grid: Grid, *, even: bool = False) -> tuple[float, float]:
        """The range to cover.

        Args:
            method: "mse" searches for the least mean squared error of the rounded and clipped values; "minmax"
                covers all; "moving-average" weighs the batches' minima and maxima, new ones by 0.01;
                "percentile" covers all but one in 10,000; "entropy" the least Kullback-Leibler divergence.
            grid: what the values are rounded to.
            even: the range is -bound to bound.

        Raises:
            InputError: no values were seen, or there is no such method.
        """
        if method not in METHODS:
            raise InputError(f"no method {method!r} to choose ranges; they are {', '.join(METHODS)}")
        if not self.count:
            raise InputError("no values were seen")
        low, high = self.minimum, self.maximum
        if method == "moving-average":
            assert self._average is not None
            low, high = self._average
        if even:
            low, high = -max(-low, high), max(-low, high)
        low, high = min(low, 0.0), max(high, 0.0)
        if not self._width or method in ("minmax", "moving-average"):
            return low, high
        if method == "percentile":
            return self._by_percentile(low, high, even)
        cost = self._mse if method == "mse" else self._divergence
        return _searched(low, high, grid, even, cost)

    @property
    def _centers(self) -> torch.Tensor:
        return (torch.arange(-_HALF, _HALF, dtype=torch.float64) + 0.5) * self._width

    def _by_percentile(self, low: float, high: float, even: bool) -> tuple[float, float]:
        """Covers the share on each side; on both at once where the range is even."""
        if even:
            sides = (self._bins + self._bins.flip(0))[_HALF:].cumsum(0)
            bound = (int((sides < _PERCENTILE * self.count).sum()) + 1) * self._width
            return max(low, -bound), min(high, bound)
        total = self._bins.cumsum(0)
        first = int((total <= (1 - _PERCENTILE) * self.count).sum()) - _HALF
        last = int((total < _PERCENTILE * self.count).sum()) + 1 - _HALF
        return max(low, min(first * self._width, 0.0)), min(high, max(last * self._width, 0.0))

    def _mse(self, scale: torch.Tensor, zero_point: torch.Tensor, grid: Grid) -> torch.Tensor:
        """The summed squared error for each of several scales and zero points."""
        used = self._bins > 0
        centers, counts = self._centers[used], self._bins[used]
        q = torch.round(centers / scale[:, None]) + zero_point[:, None]
        values = (q.clamp(grid.low, grid.high) - zero_point[:, None]) * scale[:, None]
        return ((values - centers).square() * counts).sum(1)

    def _divergence(self, scale: torch.Tensor, zero_point: torch.Tensor, grid: Grid) -> torch.Tensor:
        """The Kullback-Leibler divergence of the histogram from what the integers leave of it, for each scale."""
        return torch.stack([self._divergence_of(s, z, grid) for s, z in zip(scale, zero_point, strict=True)])

    def _divergence_of(self, scale: torch.Tensor, zero_point: torch.Tensor, grid: Grid) -> torch.Tensor:
        # As TensorRT's calibration: what is clipped counts at the ends of the one, not of the other distribution.
        used = self._bins > 0
        q = torch.round(self._centers[used] / scale) + zero_point
        inside = (q >= grid.low) & (q <= grid.high)
        if not bool(inside.any()):
            return torch.tensor(math.inf, dtype=torch.float64)
        counts, level = self._bins[used][inside], (q[inside] - grid.low).long()
        p = counts.clone()
        p[0] += self._bins[used][q < grid.low].sum()
        p[-1] += self._bins[used][q > grid.high].sum()
        levels = torch.zeros(grid.high - grid.low + 1, dtype=torch.float64)
        mass = levels.index_add(0, level, counts)
        spread = (mass / levels.index_add(0, level, torch.ones_like(counts)).clamp(min=1))[level]
        return (p / p.sum() * ((p / p.sum()) / (spread / spread.sum())).log()).sum()


def _searched(low: float, high: float, grid: Grid, even: bool, cost: _Cost) -> tuple[float, float]:
    """Shrinks a range, both ends alike and then each by itself, to the least cost."""
    shares = torch.linspace(0.1, 1.0, 91, dtype=torch.float64).tolist()
    best = _least([(low * s, high * s) for s in shares], grid, even, cost)
    if even or low == 0 or high == 0:
        return best
    best = _least([(low * s, best[1]) for s in shares] + [best], grid, even, cost)
    return _least([(best[0], high * s) for s in shares] + [best], grid, even, cost)


def _least(ranges: list[tuple[float, float]], grid: Grid, even: bool, cost: _Cost) -> tuple[float, float]:
    numbers = [(symmetric(high, grid), 0) if even else affine(low, high, grid) for low, high in ranges]
    scales, zero_points = (torch.tensor(column, dtype=torch.float64) for column in zip(*numbers, strict=True))
    return ranges[int(cost(scales, zero_points, grid).argmin())]
