"""The one value that all elements of a tensor have."""

import math

import pytest
import torch

from fxopt.passes._uniform import _filled, uniform_value
from fxopt.testing import ProgramBuilder


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        (torch.ones(2, 3), 1.0),
        (torch.full((), 7), 7),
        (torch.zeros(2, dtype=torch.bool), False),
        (torch.ones(0), None),
        (torch.ones(3, device="meta"), None),
        (torch.ones(2, dtype=torch.complex64), None),
        (torch.tensor([math.nan]), None),
        (torch.ones(3, dtype=torch.bfloat16), 1.0),
    ],
)
def test_uniform_value(tensor: torch.Tensor, value: object):
    assert uniform_value(tensor) == value


def test_what_is_filled_with_a_number_of_a_complex_dtype_has_none():
    b = ProgramBuilder()
    real, complex_ = (b.call("aten.full", [2], 1.0, dtype=d) for d in (torch.float32, torch.complex64))
    assert (_filled(real), _filled(complex_)) == (1.0, None)


def test_the_one_value_of_zeros_of_one_sign():
    assert uniform_value(torch.zeros(3)) == 0.0
    negative = uniform_value(-torch.zeros(2, 3))
    assert negative == 0.0 and math.copysign(1.0, negative) == -1.0
