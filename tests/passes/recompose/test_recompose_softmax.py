"""recompose-softmax: exponentials divided by their sum."""

import pytest
import torch

from fxopt.passes.recompose.recompose_softmax import RecomposeSoftmax
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

SOFTMAX = RecomposeSoftmax()
X = rand(3, 4, 5)


def quotient(x, dim=-1, keepdim=True):
    e = torch.exp(x)
    return e / e.sum(dim, keepdim=keepdim)


FORMS = {
    "amax": (lambda x: quotient(x - x.amax(-1, keepdim=True)), 2),
    "another axis": (lambda x: quotient(x - x.amax(1, keepdim=True), 1), 1),
    "max": (lambda x: quotient(x - x.max(-1, keepdim=True)[0]), 2),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_forms(name: str, dynamic: bool):
    function, dim = FORMS[name]
    after = applied(SOFTMAX, program(function, X, dynamic=dynamic)).program
    assert structure(after) == structure(program(lambda x: torch.softmax(x, dim), X, dynamic=dynamic))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    assert calls(applied(SOFTMAX, program(FORMS["amax"][0], X.to(dtype))).program) == ["softmax"]


SHIFTS = {
    "none": lambda x: x,
    "of another axis": lambda x: x - x.amax(1, keepdim=True),
    "of another axis of max": lambda x: x - x.max(1, keepdim=True)[0],
    "the smallest": lambda x: x - x.amin(-1, keepdim=True),
    "where the largest is": lambda x: x - x.max(-1, keepdim=True)[1],
    "twice the largest": lambda x: torch.sub(x, x.amax(-1, keepdim=True), alpha=2),
    "the largest of others": lambda x: x - x.exp().amax(-1, keepdim=True),
    "the largest of other rows": lambda x: x - x.amax(-1),
    "added": lambda x: x + x.amax(-1, keepdim=True),
    "a number": lambda x: x - 2,
}


@pytest.mark.parametrize("name", SHIFTS)
def test_another_shift_stays(name: str):
    """Where `exp` overflows the quotient is NaN, softmax is not."""
    shifted = SHIFTS[name]
    before = program(lambda x: quotient(shifted(x)), rand(5, 5, 5))
    assert unchanged(SOFTMAX, before) == [
        "the largest value is not subtracted: exp overflows where softmax does not"
    ]


NONE = {
    "several axes": (lambda x: quotient(x, (1, 2)), "the sum is not over one axis that it keeps"),
    "an axis that goes": (
        lambda x: quotient(x[0, 0], -1, keepdim=False),
        "the sum is not over one axis that it keeps",
    ),
    "all axes": (lambda x: torch.exp(x) / torch.exp(x).sum(), ""),
    "of exp2": (lambda x: torch.exp2(x) / torch.exp2(x).sum(-1, keepdim=True), ""),
    "of powers of two": (lambda x: over_sum(torch.exp2(x - x.amax(-1, keepdim=True))), ""),
    "the sum over exp": (lambda x: squared(torch.exp(x)), ""),
    "the sum alone": (lambda x: torch.exp(x).sum(-1, keepdim=True), ""),
    "half": (lambda x: quotient_by_two(torch.exp(x)), ""),
}


def over_sum(e):
    return e / e.sum(-1, keepdim=True)


def squared(e):
    return e * e.sum(-1, keepdim=True)


def quotient_by_two(e):
    return e / (e.sum(-1, keepdim=True) * 2)


def test_integers_stay():
    """Of which exp makes floats, softmax nothing."""
    before = program(FORMS["amax"][0], (X * 3).long())
    assert unchanged(SOFTMAX, before) == ["the quotient is in another dtype"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_a_sum_in_another_dtype_stays(dtype: torch.dtype):
    def function(x):
        e = torch.exp(x - x.amax(-1, keepdim=True))
        return e / e.sum(-1, keepdim=True, dtype=dtype)

    assert unchanged(SOFTMAX, program(function, X)) == []


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_softmax_stays(name: str):
    function, why = NONE[name]
    assert unchanged(SOFTMAX, program(function, X)) == ([why] if why else [])


def test_an_inner_value_with_another_user_stays():
    def function(x):
        e = torch.exp(x - x.amax(-1, keepdim=True))
        return e / e.sum(-1, keepdim=True), e

    assert unchanged(SOFTMAX, program(function, X)) == ["exp has another user, output"]


def test_drawn_programs():
    check_pass(SOFTMAX, examples=15, min_fired=0.2, targets=())
