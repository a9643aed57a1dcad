import math

import torch

from fxopt.verification.measure import (
    Error,
    bits,
    kinds,
    largest_difference,
    measured_error,
    plain_tensor,
    value_at,
)


def test_norms_of_huge_and_tiny_differences():
    for scale in (1e-300, 1.0, 1e300):
        a = torch.tensor([3.0, -4.0], dtype=torch.float64) * scale
        error = measured_error(a, torch.zeros(2))
        assert error.index == (1,)
        assert math.isclose(error.l2, 5 * scale)
        assert math.isclose(error.max, 4 * scale)


def test_what_is_not_finite_does_not_count():
    a, b = torch.tensor([math.nan, 1.0, math.inf]), torch.tensor([0.0, 3.0, 1.0])
    assert measured_error(a, b) == Error(2.0, 2.0, (1,))
    assert measured_error(a, b, torch.tensor([True, False, True])) == Error()
    assert largest_difference(a, b) == math.inf
    assert largest_difference(a, a) == 0


def test_kinds():
    assert kinds(torch.tensor([0.0, math.nan, math.inf, -math.inf])).tolist() == [0, 1, 2, 3]
    assert kinds(torch.tensor([1, 2])).tolist() == [0, 0]


def test_complex_numbers_are_pairs():
    assert plain_tensor(torch.tensor([1 + 2j]).conj()).tolist() == [[1.0, -2.0]]


def test_bits_tell_zeros_apart():
    assert bits(torch.tensor([0.0]))[0] != bits(torch.tensor([-0.0]))[0]


def test_value_at():
    assert value_at(torch.tensor([[1.0, 2.0]]), (0, 1)) == 2.0
    assert value_at(torch.tensor(5), ()) == 5.0
    assert math.isnan(value_at(torch.zeros(0), ()))
    assert value_at(7, ()) == 7.0
