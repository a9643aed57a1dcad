"""simplify-where-and-masks: choices that are made, masks that hide nothing."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.simplify.simplify_where_and_masks import SimplifyWhereAndMasks
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

SIMPLIFY = SimplifyWhereAndMasks()
Fn = Callable[..., object]
X, Y = rand(2, 4), rand(2, 4, seed=1)
C = rand(2, 4, seed=2) > 0
where = torch.where

SAME: dict[str, tuple[Fn, Fn]] = {
    "a negation": (lambda x, y, c: where(c.logical_not(), x, y), lambda x, y, c: where(c, y, x)),
    "the same question": (
        lambda x, y, c: where(c, where(c, x, y), y + 1),
        lambda x, y, c: where(c, x, y + 1),
    ),
    "the same question, otherwise": (
        lambda x, y, c: where(c, y + 1, where(c, x, y)),
        lambda x, y, c: where(c, y + 1, y),
    ),
    "a negation beside a number": (
        lambda x, y, c: where(c.logical_not(), x, 1.0),
        lambda x, y, c: where(c, 1.0, x),
    ),
    "the same question beside a number": (
        lambda x, y, c: where(c, where(c, x, y), 1.0),
        lambda x, y, c: where(c, x, 1.0),
    ),
    "filled twice": (
        lambda x, y, c: x.masked_fill(c, 1.0).masked_fill(c, 2.0),
        lambda x, y, c: x.masked_fill(c, 2.0),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_before_and_after(name: str):
    before, expected = (program(f, X, Y, C, dynamic=True) for f in SAME[name])
    assert structure(applied(SIMPLIFY, before).program) == structure(expected)


@pytest.mark.parametrize(("value", "left"), [(True, "relu"), (False, "neg")])
def test_a_constant_condition(value: bool, left: str):
    m = torch.full((2, 4), value)
    before = program(lambda x, y, m: where(m, x.relu(), y.neg()), X, Y, m=m)
    after = applied(SIMPLIFY, before).program
    assert [c for c in calls(after) if c == left] == [left]
    assert "where" not in calls(after)


def test_a_mask_of_nothing():
    before = program(lambda x, m: x.masked_fill(m, 3.0).relu(), X, m=torch.zeros(2, 4, dtype=torch.bool))
    assert calls(applied(SIMPLIFY, before).program) == ["relu"]


Q = rand(2, 3, 5, 8)


@pytest.mark.parametrize(
    "mask", [torch.ones(5, 5, dtype=torch.bool), torch.zeros(5, 5)], ids=["seen", "added"]
)
def test_attention_that_sees_all(mask: torch.Tensor):
    before = program(lambda q, m: F.scaled_dot_product_attention(q, q, q, m, scale=0.5), Q, m=mask)
    after = applied(SIMPLIFY, before).program
    assert calls(after) == ["scaled_dot_product_attention"]
    assert not after.weights


@pytest.mark.parametrize(
    "mask", [torch.ones(5, 5), torch.ones(5, 5, dtype=torch.bool).tril()], ids=["ones added", "half seen"]
)
def test_attention_that_does_not(mask: torch.Tensor):
    assert (
        unchanged(SIMPLIFY, program(lambda q, m: F.scaled_dot_product_attention(q, q, q, m), Q, m=mask)) == []
    )


def test_attention_without_a_mask():
    assert unchanged(SIMPLIFY, program(lambda q: F.scaled_dot_product_attention(q, q, q), Q)) == []


STAYS: dict[str, Fn] = {
    "another question": lambda x, y, c: where(c, where(x > 0, x, y), y + 1),
    "the other branch": lambda x, y, c: where(c, y + 1, where(x > 0, x, y)),
    "two masks": lambda x, y, c: x.masked_fill(c, 1.0).masked_fill(x > 0, 2.0),
    "a negated number": lambda x, y, c: where((x * 1.5).logical_not(), x, y),
    "one fill": lambda x, y, c: x.masked_fill(c, 1.0),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays(name: str):
    assert unchanged(SIMPLIFY, program(STAYS[name], X, Y, C)) == []


def test_a_constant_condition_that_broadcasts():
    m = torch.ones(3, 2, 4, dtype=torch.bool)
    assert unchanged(SIMPLIFY, program(lambda x, y, m: where(m, x, y), X, Y, m=m)) == []


def test_a_mask_of_nothing_that_broadcasts():
    m = torch.zeros(3, 2, 4, dtype=torch.bool)
    before = program(lambda x, m: x.expand(3, 2, 4).masked_fill(m, 1.0), X, m=m)
    assert "masked_fill" not in calls(applied(SIMPLIFY, before).program)


def test_drawn_programs():
    check_pass(SIMPLIFY, examples=25, targets=())
