"""What a series of times comes to: a median with its spread, and a ratio with an interval of confidence.

>>> spread([3.0, 1.0, 2.0]).median
2.0
>>> speed_ratio([[2.0] * 15], [[1.0] * 15]).value
2.0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxopt.report import JsonData

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

__all__ = ["Ratio", "Spread", "speed_ratio", "spread"]

_RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread(JsonData):
    """The typical value of a series, seconds, and how far its values lie apart."""

    median: float
    mad: float
    """The median absolute deviation from the median."""
    low: float
    """The lower quartile."""
    high: float
    """The upper quartile."""
    least: float


@dataclass(frozen=True)
class Ratio(JsonData):
    """How many times as fast, and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 1, that is, whether one is faster at all."""
        return self.low > 1 or self.high < 1


def spread(values: Sequence[float]) -> Spread:
    """The spread of a series that is not empty."""
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    low, median, high = np.quantile(array, (0.25, 0.5, 0.75))
    mad = np.median(np.abs(array - median))
    return Spread(float(median), float(mad), float(low), float(high), float(array.min()))


def speed_ratio(baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]]) -> Ratio:
    """How many times as fast as the baseline the candidate is.

    Ratios are taken within a round, where both sides met the same load; a start's is the median of its
    rounds, the value the geometric mean over starts. The interval is the percentile bootstrap's (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13) over starts and, within each, over rounds,
    as in Kalibera and Jones, Rigorous benchmarking in reasonable time, 2013: where a process happens to lie in
    memory can make it faster or slower than the next by several percent.

    Args:
        baseline: seconds, a series of rounds for each start of the processes.
        candidate: seconds in the same rounds.
    """
    import numpy as np

    starts = [np.log(b) - np.log(c) for b, c in zip(baseline, candidate, strict=True)]
    generator = np.random.default_rng(0)
    # The medians of resampled rounds; which starts they come from is drawn below.
    medians = np.array([_resampled_medians(ratios, generator) for ratios in starts])
    drawn = generator.integers(0, len(starts), size=(len(starts), _RESAMPLES))
    means = np.take_along_axis(medians, drawn, axis=0).mean(axis=0)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    value = np.mean([np.median(ratios) for ratios in starts])
    return Ratio(*(float(x) for x in np.exp([value, low, high])))


def _resampled_medians(values: "Floats", generator: "np.random.Generator") -> "Floats":
    import numpy as np

    return np.array([np.median(generator.choice(values, len(values))) for _ in range(_RESAMPLES)])
