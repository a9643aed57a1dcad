"""Choices of the program generator: small integers and picks only, so that hypothesis shrinks them well."""

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["Choose"]

T = TypeVar("T")


class Choose:
    """Draws small integers from one function.

    Args:
        draw: `draw(n)` gives an integer from 0 to n - 1; 0 is the simplest.
    """

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw

    def below(self, count: int) -> int:
        """An integer from 0 to count - 1."""
        return self._draw(count) if count > 1 else 0

    def of(self, items: Sequence[T]) -> T:
        """One of several, the first being the simplest."""
        return items[self.below(len(items))]

    def chance(self, one_in: int) -> bool:
        """True once in `one_in`."""
        return self.below(one_in) == one_in - 1

    def size(self) -> int:
        """A small size, 1 among them (broadcasting bugs)."""
        return self.of((4, 2, 3, 1, 8))

    def latest(self, items: Sequence[T]) -> T:
        """One of several, the last being the simplest, so that programs shrink to chains."""
        return items[len(items) - 1 - self.below(len(items))]
