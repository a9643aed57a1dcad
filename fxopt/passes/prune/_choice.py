"""Which groups go: by threshold, by ratio, or by the least ratio that meets a budget."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Choice", "Limits", "Ranked", "by_budget", "by_ratio", "by_threshold"]

_LEVELS = 1024
"""How finely a budget's ratio is looked for."""


@dataclass(frozen=True)
class Limits:
    """What must stay of a layer.

    Attributes:
        min_width: least channels.
        min_share: least share of its groups.
        multiple: of which the channels that stay are a number.
    """

    min_width: int = 1
    min_share: float = 0.0
    multiple: int = 1

    def removable(self, asked: int, groups: int, width: int) -> int:
        """How many of a layer's groups may go if so many are asked for."""
        floor = max(1, math.ceil(self.min_width / width), math.ceil(self.min_share * groups - 1e-9))
        kept = max(groups - asked, floor)
        step = self.multiple // math.gcd(self.multiple, width)
        return max(groups - math.ceil(kept / step) * step, 0)


@dataclass(frozen=True)
class Ranked:
    """A layer's groups by importance."""

    importance: np.ndarray
    width: int

    def least(self, count: int) -> np.ndarray:
        """The groups of least importance, sorted by number; of equal ones the first."""
        return np.sort(np.argsort(self.importance, kind="stable")[:count])


Choice = list[np.ndarray]


def by_threshold(layers: Sequence[Ranked], threshold: float, limits: Limits) -> Choice:
    """What lies below a threshold."""
    return _limited(layers, [int((x.importance < threshold).sum()) for x in layers], limits)


def by_ratio(layers: Sequence[Ranked], ratio: float, limits: Limits, *, everywhere: bool) -> Choice:
    """A share of all groups.

    Args:
        layers: `importance` comparable between layers, if `everywhere`.
        ratio: 0 to 1.
        limits: what must stay.
        everywhere: rank the groups of all layers among each other, else a share of each layer.
    """
    sizes = [len(x.importance) for x in layers]
    if not everywhere:
        return _limited(layers, [math.floor(ratio * n + 1e-9) for n in sizes], limits)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    order = np.argsort(np.concatenate([x.importance for x in layers]), kind="stable")
    gone = owner[order[: math.floor(ratio * len(order) + 1e-9)]]
    return _limited(layers, np.bincount(gone, minlength=len(sizes)).tolist(), limits)


def _limited(layers: Sequence[Ranked], asked: Sequence[int], limits: Limits) -> Choice:
    return [
        x.least(limits.removable(count, len(x.importance), x.width))
        for x, count in zip(layers, asked, strict=True)
    ]


def by_budget(
    choose: Callable[[float], Choice], cost: Callable[[Choice], float], budget: float, levels: int = _LEVELS
) -> tuple[Choice | None, float]:
    """The choice of the least ratio whose cost is within a budget.

    Args:
        choose: from a ratio; more goes at a larger one.
        cost: of a choice.
        budget: what the cost may be.
        levels: ratios that are told apart.

    Returns:
        The choice, None if no ratio meets the budget; its cost, or the least possible.
    """
    found = choose(1.0)
    best = cost(found)
    if best > budget:
        return None, best
    low, high = -1, levels  # the cost at `high` is within, at `low` it is not
    while high - low > 1:
        middle = (low + high) // 2
        choice = choose(middle / levels)
        value = cost(choice)
        if value <= budget:
            high, found, best = middle, choice, value
        else:
            low = middle
    return found, best
