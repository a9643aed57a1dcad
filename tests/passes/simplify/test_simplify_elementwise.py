"""simplify-elementwise: each identity of one element, and where it does not hold."""

from collections.abc import Callable

import pytest
import torch

from fxopt.passes.simplify.simplify_elementwise import SimplifyElementwise
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

SIMPLIFY = SimplifyElementwise()
Fn = Callable[..., object]
X, Y, W = rand(2, 4), rand(2, 4, seed=1), rand(4, seed=2) + 3

SAME: dict[str, tuple[Fn, Fn]] = {
    "products": (lambda x, y: x * 2.0 * 3.0, lambda x, y: x * 6.0),
    "a quotient": (lambda x, y: x * 2.0 / 4.0, lambda x, y: x * 0.5),
    "quotients": (lambda x, y: x / 2.0 / 4.0, lambda x, y: x * 0.125),
    "a sum": (lambda x, y: x + 2.0 - 0.5, lambda x, y: x + 1.5),
    "three": (lambda x, y: 2.0 * (4.0 * (x * 8.0)), lambda x, y: x * 64.0),
    "log of exp": (lambda x, y: x.exp().log() + y, lambda x, y: x + y),
    "log2 of exp2": (lambda x, y: x.exp2().log2() + y, lambda x, y: x + y),
    "log1p of expm1": (lambda x, y: x.expm1().log1p() + y, lambda x, y: x + y),
    "reciprocals": (lambda x, y: x.reciprocal().reciprocal() + y, lambda x, y: x + y),
    "abs of a negation": (lambda x, y: (-x).abs(), lambda x, y: x.abs()),
    "square of abs": (lambda x, y: x.abs().square(), lambda x, y: x.square()),
    "cos of a negation": (lambda x, y: (-x).cos(), lambda x, y: x.cos()),
    "minus a negation": (lambda x, y: x - (-y), lambda x, y: x + y),
    "plus a negation": (lambda x, y: x + (-y), lambda x, y: x - y),
    "a negation plus": (lambda x, y: -x + y, lambda x, y: y - x),
    "two negations": (lambda x, y: -x * -y, lambda x, y: x * y),
    "two negations divided": (lambda x, y: -x / -y, lambda x, y: x / y),
    "clamps": (lambda x, y: x.clamp(-1.0, 2.0).clamp(0.0, 3.0), lambda x, y: x.clamp(0.0, 2.0)),
    "a bound that is both": (lambda x, y: x.clamp(1.0, 1.0).clamp(0.0, 3.0), lambda x, y: x.clamp(1.0, 1.0)),
    "then both": (lambda x, y: x.clamp(0.0, 3.0).clamp(1.0, 1.0), lambda x, y: x.clamp(1.0, 1.0)),
    "after a comparison": (lambda x, y: (x > y, x * 2.0 * 3.0), lambda x, y: (x > y, x * 6.0)),
    "one side each": (lambda x, y: x.clamp(max=1.0).clamp(min=-1.0), lambda x, y: x.clamp(-1.0, 1.0)),
    "relu of a clamp": (lambda x, y: x.clamp(-1.0, 2.0).relu(), lambda x, y: x.clamp(0.0, 2.0)),
    "bounds apart": (lambda x, y: x.clamp(-3.0, -2.0).clamp(0.0, 1.0), lambda x, y: x.clamp(0.0, 0.0)),
    "a half line": (lambda x, y: x.clamp(min=-1.0).relu(), lambda x, y: x.clamp(min=0.0)),
}


@pytest.mark.parametrize("name", SAME)
def test_before_and_after(name: str):
    before, expected = (program(f, X, Y, dynamic=True) for f in SAME[name])
    assert structure(applied(SIMPLIFY, before).program) == structure(expected)


def test_weights_become_one_that_is_rounded_once():
    after = applied(SIMPLIFY, program(lambda x, w, v: x * w / v, X, w=W, v=W + 1)).program
    assert calls(after) == ["mul"]
    (weight,) = after.weights.values()
    torch.testing.assert_close(weight, (W.double() / (W.double() + 1)).float(), rtol=1e-7, atol=0)


def test_weights_before_what_they_multiply():
    after = applied(SIMPLIFY, program(lambda x, w, v: w * (v * x), X, w=W, v=W + 1)).program
    assert calls(after) == ["mul"]


def test_a_weight_from_which_is_subtracted_stays():
    assert unchanged(SIMPLIFY, program(lambda x, w: (w - x) + 1.0, X, w=W)) == []


def test_a_weight_and_a_number():
    after = applied(SIMPLIFY, program(lambda x, w: x + w + 1.0, X, w=W)).program
    assert calls(after) == ["add"]
    assert torch.equal(next(iter(after.weights.values())), W + 1)


REFUSED: dict[str, tuple[Fn, str]] = {
    "overflow": (lambda x, w: x * 1e30 * 1e30, "the one constant would not be finite"),
    "underflow": (lambda x, w: x * 1e-30 * 1e-30, "the one constant would be zero"),
    "division by zero": (lambda x, w: x * 2.0 / 0.0, "the one constant would not be finite"),
    "clamps that cross": (lambda x, w: x.clamp(1.0, -1.0).clamp(0.0, 3.0), "the bounds of a clamp cross"),
    "clamps that cross after": (
        lambda x, w: x.clamp(0.0, 3.0).clamp(1.0, -1.0),
        "the bounds of a clamp cross",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str):
    function, why = REFUSED[name]
    assert unchanged(SIMPLIFY, program(function, X * 1e-8, w=W)) == [why]


def test_a_row_and_a_column_stay_two():
    before = program(lambda x, v, w: x * v * w, X, v=rand(2, 1), w=W)
    assert unchanged(SIMPLIFY, before) == ["the one constant would be larger than the two"]


def test_zeros_may_become_zeros():
    for function in (lambda x: x * 0.0 * 2.0, lambda x: x * 2.0 * 0.0):
        assert calls(applied(SIMPLIFY, program(function, X)).program) == ["mul"]
    assert calls(applied(SIMPLIFY, program(lambda x: x + 1.0 - 1.0, X)).program) == ["add"]


def test_another_user_between():
    def function(x):
        y = x * 2.0
        return y, y * 3.0

    assert unchanged(SIMPLIFY, program(function, X)) == ["mul has another user"]


STAYS: dict[str, Fn] = {
    "a sum of a product": lambda x, y: x * 2.0 + 3.0,
    "a constant over": lambda x, y: 2.0 / (x * 3.0),
    "a constant minus": lambda x, y: 2.0 - (x + 3.0),
    "a factor": lambda x, y: torch.add(x, 2.0, alpha=2) + 1.0 - y,
    "rounded": lambda x, y: torch.div(x * 2.0, 3.0, rounding_mode="floor"),
    "a function of half the numbers": lambda x, y: x.log().exp() + x.sqrt().square(),
    "no inverse": lambda x, y: x.exp().sqrt(),
    "no even function": lambda x, y: (-x).sin(),
    "one negation": lambda x, y: -x * y,
    "a negation minus": lambda x, y: -x - y,
    "a clamp by a tensor": lambda x, y: torch.clamp(x, y, None).relu(),
    "a broadcast": lambda x, y: x.sum() * 2.0 * y,
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays(name: str):
    assert unchanged(SIMPLIFY, program(STAYS[name], X, Y)) == []


def test_a_sum_with_a_factor_and_a_negation_stays():
    assert unchanged(SIMPLIFY, program(lambda x, y: torch.add(x, -y, alpha=2), X, Y)) == []


def test_integers_stay():
    assert unchanged(SIMPLIFY, program(lambda x: (x * 2 * 3, (-x).abs()), torch.arange(6))) == []


def test_another_dtype_between():
    assert unchanged(SIMPLIFY, program(lambda x: x.exp().log(), torch.arange(6))) == []


def test_drawn_programs():
    check_pass(SIMPLIFY, examples=25, targets=())
