"""Sizes and types that are the same for every value of the dynamic sizes, not only for the example's."""

import pytest
import torch

from fxopt.rewriting.sameness import same_size, same_type
from fxopt.testing import ProgramBuilder

B = ProgramBuilder()
BATCH = B.batch


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (3, 3, True),
        (3, 4, False),
        (BATCH, BATCH, True),
        (2 * BATCH, BATCH + BATCH, True),
        (BATCH, BATCH + 1, False),
        (BATCH + 1, 2 * BATCH, False),
        (BATCH, 7, False),  # the size that the symbol stands for in the example
        (7, BATCH, False),
        (1, True, False),
        (1, 1.0, False),
        (0.0, -0.0, False),
        (BATCH, "batch", False),
        (BATCH - BATCH, 0, True),
        (BATCH - BATCH, 0.0, False),
        (None, None, True),
        ([1, 2], 3, False),
    ],
)
def test_sizes(a: object, b: object, same: bool):
    assert same_size(a, b) is same


def value(*shape: int | torch.SymInt, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    with B.program.fake_mode:
        return torch.empty(shape, dtype=dtype)


SHARED = object()


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (value(BATCH, 3), value(BATCH, 3), True),
        (value(BATCH, 3), value(BATCH + 1, 3), False),
        (value(BATCH, 3), value(7, 3), False),
        (value(2, 3), value(3, 2), False),
        (value(2, 3), value(2, 3, 1), False),
        (value(2), value(2, dtype=torch.float64), False),
        (value(2), 2, False),
        (SHARED, SHARED, True),
        ((value(2), 3), (value(2), 3), True),
        ((value(2), 3), [value(2), 3], True),
        ((value(2), 3), (value(2), 4), False),
        ((value(2),), (value(2), 3), False),
    ],
)
def test_types(a: object, b: object, same: bool):
    assert same_type(a, b) is same
