"""Branches again out of a flat graph: what only one side of a `torch.cond` needs is computed on that side.

Works on any list of steps in order (fx nodes, ONNX nodes). A *choice* is a group of selections by one
predicate; a step belongs to a side of it if whatever uses it does, or is one of the selections on that side.

>>> uses = {"a": [("pick", 1)], "b": [("pick", 2)], "shared": [("a", 0), ("b", 0)]}
>>> choice = choices(["shared", "a", "b", "pick"], uses, {"pick"}, [["pick"]])[0]
>>> choice.first, choice.second
(['a'], ['b'])
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Choice", "choices"]

K = TypeVar("K", bound=Hashable)
Uses = Mapping[K, Sequence[tuple[K, int]]]
"""For each step who uses it, and in which place: 1 and 2 are a selection's two sides."""


@dataclass
class Choice(Generic[K]):
    """Selections by one predicate; `first` and `second` are the steps of its sides, in order, inner choices' left out."""

    selections: list[K]
    first: list[K] = field(default_factory=list)
    second: list[K] = field(default_factory=list)


def choices(
    order: Sequence[K], uses: Uses[K], kept: set[K], groups: Sequence[Sequence[K]]
) -> list[Choice[K]]:
    """The choices of a graph, those without any step on a side left out.

    Args:
        order: all steps.
        uses: see `Uses`.
        kept: steps whose results the graph returns.
        groups: selections by predicate.
    """
    place = {step: i for i, step in enumerate(order)}
    owner: dict[K, tuple[int, int]] = {}
    found: list[Choice[K]] = []
    # The outer choice's selections come last; inner ones then split by the side that they are on.
    for group in sorted(groups, key=lambda g: -max(place[s] for s in g)):
        for selections in _together(group, owner, place, uses):
            number = len(found)
            sides = [
                _exclusive(order[: place[selections[0]]], uses, kept, set(selections), side)
                for side in (1, 2)
            ]
            if any(sides):
                found.append(Choice(selections))
                owner.update({s: (number, side) for side, steps in enumerate(sides, 1) for s in steps})
    for step in order:
        if step in owner:
            number, side = owner[step]
            (found[number].first if side == 1 else found[number].second).append(step)
    return found


def _together(
    group: Sequence[K], owner: Mapping[K, tuple[int, int]], place: Mapping[K, int], uses: Uses[K]
) -> list[list[K]]:
    """The selections of a group that can be made at once (on one side, all they need before the first), last first."""
    by_owner: dict[tuple[int, int] | None, list[K]] = {}
    for selection in sorted(group, key=place.__getitem__):
        by_owner.setdefault(owner.get(selection), []).append(selection)
    parts: list[list[K]] = []
    for selections in by_owner.values():
        first = place[selections[0]]
        late = any(
            u in selections for step, at in place.items() if at >= first for u, _ in uses.get(step, ())
        )
        parts += [[s] for s in selections] if late else [selections]
    return sorted(parts, key=lambda part: -place[part[-1]])


def _exclusive(order: Sequence[K], uses: Uses[K], kept: set[K], selections: set[K], side: int) -> set[K]:
    """The steps that only one side of a choice needs."""
    region: set[K] = set()
    for step in reversed(order):
        users = uses.get(step, ())
        if (
            step not in kept
            and users
            and all(u in region or (u in selections and p == side) for u, p in users)
        ):
            region.add(step)
    return region
