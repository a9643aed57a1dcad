"""Arithmetic as polynomials."""

import pytest

from fxopt.passes.recompose._polynomial import _number, _power, _quotient, close

X = {(1,): 2.0}


@pytest.mark.parametrize("exponent", [1, 2, 3, 4])
def test_small_powers(exponent: int):
    assert _power(X, {(0,): float(exponent)}) == {(exponent,): 2.0**exponent}


@pytest.mark.parametrize("exponent", [{(0,): 0.0}, {(0,): 5.0}, {(0,): 0.5}, {(1,): 1.0}, {}])
def test_other_powers_are_not_read(exponent: dict[tuple[int, ...], float]):
    assert _power(X, exponent) is None


def test_only_what_has_one_term_divides():
    assert _quotient({(3,): 1.0, (0,): 4.0}, X) == {(2,): 0.5, (-1,): 2.0}
    assert _quotient(X, {(1,): 1.0, (0,): 1.0}) is None and _quotient(X, {(0,): 0.0}) is None


def test_numbers():
    assert (_number({(0, 0): 3.0}), _number({}), _number({(0, 1): 3.0})) == (3.0, None, None)
    assert _number({(0,): 1.0, (1,): 1.0}) is None


def test_the_same_but_for_rounding():
    assert close({(1,): 0.1 + 0.2}, {(1,): 0.3}) and not close({(1,): 0.3}, {(2,): 0.3})
    assert not close({(1,): 0.3}, {(1,): 0.3 + 1e-12})
