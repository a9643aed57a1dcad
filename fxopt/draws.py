"""Equal random numbers on both sides of a comparison: each run draws from torch's generator at the same state.

A program may hold ops that draw (`trace(..., state=True)`). Two runs of it differ, but the same ops in the same order draw
the same numbers from the same state, so that values can be compared all the same.

>>> import torch
>>> with same_draws():
...     first = torch.rand(3)
>>> with same_draws():
...     print(torch.equal(first, torch.rand(3)))
True
"""

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["other_draws", "rewind_draws", "same_draws"]

_SEED = 0x1F0A7C3D
"""None that a model would set by itself: one that does must not look like one that draws as it is told to."""
_seed = _SEED


def rewind_draws() -> None:
    """Sets torch's generator on the CPU to the state that every comparison starts from."""
    torch.default_generator.manual_seed(_seed)


@contextlib.contextmanager
def same_draws() -> Iterator[None]:
    """Inside, draws start at a fixed state; afterwards the generator goes on as if nothing had been drawn."""
    before = torch.default_generator.get_state()
    rewind_draws()
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


@contextlib.contextmanager
def other_draws() -> Iterator[None]:
    """Inside, comparisons start from another state: what changes with it draws."""
    global _seed
    _seed = _SEED + 1
    try:
        yield
    finally:
        _seed = _SEED
