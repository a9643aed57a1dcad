"""What is known to be finite whatever the inputs are."""

import math
import operator

import pytest
import torch
import torch.nn.functional as F

from fxopt.analysis.finite import is_finite
from fxopt.testing import ProgramBuilder
from tests.passes.helpers import program, rand

X, COUNTS, SEEN = rand(2, 3), torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.ones(2, 3, dtype=torch.bool)

FINITE = {
    "of counts": lambda x, n, s, w: (1.0 - n.float()[:, None]) * -10000.0,
    "of truth values": lambda x, n, s, w: torch.where(s, 0.0, -1e30),
    "of weights": lambda x, n, s, w: w.reshape(3, 2).permute(1, 0) + w.neg(),
    "clamped": lambda x, n, s, w: x.clamp(-5.0, 5.0).expand(4, 2, 3),
    "filled": lambda x, n, s, w: w.masked_fill(s, -5.0),
    "normalised": lambda x, n, s, w: F.layer_norm(x, [3], w[0], w[1]),
    "bounded": lambda x, n, s, w: x.softmax(-1) + x.tanh() + x.sigmoid(),
    "products of what is normalised": lambda x, n, s, w: F.linear(x.softmax(-1), w) @ w.reshape(2, 3).tanh(),
    "products of batches": lambda x, n, s, w: torch.bmm(x.tanh()[None], w.reshape(1, 3, 2)).repeat(1, 2, 1),
    "looked up": lambda x, n, s, w: F.embedding(n % 2, w),
    "gathered": lambda x, n, s, w: w.gather(1, n % 3),
    "a piece": lambda x, n, s, w: w.split([1, 2], 1)[0],
    "a chunk": lambda x, n, s, w: w.chunk(3, 1)[2],
    "over a number": lambda x, n, s, w: n / 8.0,
    "over a weight": lambda x, n, s, w: n / w,
    "counted": lambda x, n, s, w: x > 0,
}
OTHER = {
    "an input": lambda x, n, s, w: x + 0.5,
    "a fill": lambda x, n, s, w: w.masked_fill(s, -math.inf),
    "a choice": lambda x, n, s, w: torch.where(s, 0.0, -math.inf),
    "normalised by an input": lambda x, n, s, w: F.layer_norm(w, [3], x[0], w[1]),
    "normalised with an input beside": lambda x, n, s, w: F.layer_norm(w, [3], w[0], x[0]),
    "a product of an input": lambda x, n, s, w: F.linear(x, w),
    "a piece of an input": lambda x, n, s, w: x.split([1, 2], 1)[0],
    "over zero": lambda x, n, s, w: n / 0.0,
    "over what may be zero": lambda x, n, s, w: w / n,
    "over a weight that is zero": lambda x, n, s, w: n / (w * 0),
    "a logarithm": lambda x, n, s, w: n.log(),
    "clamped above": lambda x, n, s, w: x.clamp(max=5.0),
    "clamped below": lambda x, n, s, w: x.clamp(min=5.0),
    "clamped by an infinity": lambda x, n, s, w: x.clamp(-math.inf, 5.0),
    "clamped by tensors": lambda x, n, s, w: x.clamp(w, w),
}


def found(function, weight: torch.Tensor) -> bool:
    made = program(function, X, COUNTS, SEEN, w=weight)
    return is_finite(made, made.output_nodes()[0])


@pytest.mark.parametrize("name", FINITE)
def test_finite(name: str):
    assert found(FINITE[name], rand(2, 3))


@pytest.mark.parametrize("name", OTHER)
def test_not_known(name: str):
    assert not found(OTHER[name], rand(2, 3))


def test_a_weight_may_hold_an_infinity():
    assert not found(FINITE["of weights"], rand(2, 3).masked_fill(SEEN, -math.inf))


def test_numbers():
    made = program(lambda x: x + 1, X)
    assert is_finite(made, 1.5)
    assert not is_finite(made, math.inf)


def test_dynamic_sizes():
    """A size is an integer; a number that is computed from one may be anything."""
    b = ProgramBuilder()
    size = b.call("aten.sym_size.int", b.input((b.batch, 3)), 0)
    root = b.call(operator.pow, b.call(torch.sym_float, size), 0.5)
    w = b.weight((9, 3))
    rows, whole, part = (
        b.call("aten.slice.Tensor", w, 0, 0, size),
        b.call("aten.mul.Tensor", w, size),
        b.call("aten.mul.Tensor", w, root),
    )
    made = b.finish(rows, whole, part)
    assert [is_finite(made, n) for n in (rows, whole, part)] == [True, True, False]


@pytest.mark.parametrize(("calls", "known"), [(50, True), (70, False)])
def test_it_does_not_look_far(calls: int, known: bool):
    def function(x, n, s, w):
        for _ in range(calls):
            w = w + n
        return w

    assert found(function, rand(2, 3)) is known
