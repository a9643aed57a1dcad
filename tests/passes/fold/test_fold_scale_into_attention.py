"""fold-scale-into-attention: one number moves into the scale that attention has anyway."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.fold.fold_scale_into_attention import FoldScaleIntoAttention
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import applied, calls, program, rand, unchanged

FOLD = FoldScaleIntoAttention()
Q = rand(2, 3, 5, 16)
Fn = Callable[..., torch.Tensor]
attend = F.scaled_dot_product_attention

SCALED: dict[str, tuple[Fn, float]] = {
    "queries": (lambda q, k, v: attend(q * 0.5, k, v), 0.125),
    "keys": (lambda q, k, v: attend(q, k / 2, v), 0.125),
    "both": (lambda q, k, v: attend(0.5 * q, k * 0.5, v), 0.0625),
    "twice": (lambda q, k, v: attend(q * 0.5 * 0.5, k, v), 0.0625),
    "a given scale": (lambda q, k, v: attend(q * 0.5, k, v, scale=3.0), 1.5),
    "under a mask": (lambda q, k, v: attend(q * 0.5, k, v, is_causal=True), 0.125),
}


@pytest.mark.parametrize("name", SCALED)
def test_before_and_after(name: str):
    function, scale = SCALED[name]
    after = applied(FOLD, program(function, Q, Q + 1, Q * 2, dynamic=True)).program
    assert calls(after) == ["scaled_dot_product_attention"]
    assert next(iter(after.calls())).kwargs["scale"] == scale


def test_a_weight_of_one_number():
    before = program(lambda q, s: attend(q * s, q, q), Q, s=torch.tensor(0.25))
    assert calls(applied(FOLD, before).program) == ["scaled_dot_product_attention"]


OTHERS: dict[str, Fn] = {
    "a number a channel": lambda q, s: attend(q * s, q, q),
    "values": lambda q, s: attend(q, q, q * 2),
    "a sum": lambda q, s: attend(q + 2, q, q),
    "an operand": lambda q, s: attend(q * q, q, q),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_fold(name: str):
    assert unchanged(FOLD, program(OTHERS[name], Q, s=rand(16))) == []


@pytest.mark.parametrize(("factor", "scale"), [(-0.5, "-0.125"), (0.0, "0.0"), (math.inf, "inf")])
def test_a_scale_that_is_not_positive_and_finite(factor: float, scale: str):
    """Under a causal mask torch's kernel makes NaN of them."""
    before = program(lambda q: attend(q * factor, q, q, is_causal=True), Q)
    assert unchanged(FOLD, before) == [f"the scale would be {scale}"]


def test_heads_of_a_size_that_varies():
    b = ProgramBuilder()
    q = b.input((2, 3, 4, b.batch))
    before = b.finish(b.call("aten.scaled_dot_product_attention", b.call("aten.mul", q, 0.5), q, q))
    assert unchanged(FOLD, before) == []


def test_drawn_programs():
    check_pass(FOLD, examples=25, targets=())
