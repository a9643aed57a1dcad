"""sink-transposes: permutations around elementwise calls meet, and those before a reduction go."""

from collections.abc import Callable

import pytest
import torch

from fxopt.passes.simplify.sink_transposes import SinkTransposes
from fxopt.pipeline import PassManager
from fxopt.testing import ProgramBuilder, check_once, check_pass
from tests.passes.helpers import applied, calls, program, rand, unchanged

SINK = SinkTransposes()
Fn = Callable[..., object]
X, Y, W = rand(2, 3, 4, 5), rand(2, 3, 4, 5, seed=1), rand(3, seed=2)


def last(x: torch.Tensor) -> torch.Tensor:
    """Channels last."""
    return x.permute(0, 2, 3, 1)


def first(x: torch.Tensor) -> torch.Tensor:
    """Channels first again."""
    return x.permute(0, 3, 1, 2)


GONE: dict[str, tuple[Fn, list[str]]] = {
    "one call": (lambda x, y, w: first(last(x).relu()), ["relu"]),
    "a chain": (lambda x, y, w: first((last(x) * 2 + 1).sigmoid()), ["mul", "add", "sigmoid"]),
    "a weight": (lambda x, y, w: first(last(x) * w), ["mul"]),
    "a matrix of weights": (lambda x, y, w: first(last(x) * w.reshape(1, 3)), ["mul"]),
    "two tensors": (lambda x, y, w: first(last(x) + last(y)), ["add"]),
    "two branches": (lambda x, y, w: first(last(x).relu() + last(y).tanh()), ["tanh", "relu", "add"]),
    "a value read twice": (
        lambda x, y, w: first((lambda z: z * z.sigmoid())(last(x).relu())),
        ["relu", "sigmoid", "mul"],
    ),
    "a value read twice beside another": (
        lambda x, y, w: first(last(y).tanh() * (lambda z: z * z.sigmoid())(last(x).relu())),
        ["tanh", "relu", "sigmoid", "mul", "mul"],
    ),
    "to another order": (lambda x, y, w: last(x).relu().permute(0, 1, 3, 2), ["relu", "permute"]),
    "a sum": (lambda x, y, w: last(x).sum([1, 2]), ["sum"]),
    "a mean of a call": (lambda x, y, w: last(x).relu().mean([1, 2]), ["relu", "mean"]),
    "the largest": (lambda x, y, w: last(x).amax([3]), ["amax"]),
}


@pytest.mark.parametrize("name", GONE)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_what_goes(name: str, dynamic: bool):
    function, left = GONE[name]
    before = program(function, X, Y, w=W, dynamic=dynamic)
    applied(SINK, before)
    after = PassManager.parse("fold-constants,sink-transposes,fold-constants").run(before).program
    assert sorted(calls(after)) == sorted(left)


def test_a_weight_of_one_number():
    before = program(lambda x, s: first(last(x) * s), X, s=torch.tensor(2.0))
    assert calls(applied(SINK, before).program) == ["mul"]


STAYS: dict[str, Fn] = {
    "another user": lambda x, y, w: (lambda z: (z, first(z)))(last(x).relu()),
    "another user between": lambda x, y, w: (lambda z: (z, first(z * 2)))(last(x).relu()),
    "another tensor": lambda x, y, w: first(last(x) + y.reshape(2, 4, 5, 3)),
    "another order": lambda x, y, w: first(last(x) + y.permute(0, 3, 2, 1).reshape(2, 4, 5, 3).relu()),
    "two orders": lambda x, y, w: first(last(x) + y.reshape(2, 3, 5, 4).permute(0, 3, 2, 1)),
    "no elementwise call": lambda x, y, w: first(last(x).softmax(1)),
    "a broadcast": lambda x, y, w: first(last(x) + last(y.sum(1, True))),
    "a weight before a broadcast": lambda x, y, w: first(w * last(y.sum(1, True))),
    "several results": lambda x, y, w: first(last(x).chunk(2)[0] + 1),
    "two permutations": lambda x, y, w: first(last(x)),
    "all axes": lambda x, y, w: last(x).sum(),
    "no permutation before": lambda x, y, w: first(x.relu()),
    "none after": lambda x, y, w: last(x).relu(),
    "axes out of order": lambda x, y, w: last(x).sum([0]),
    "a reduction that keeps its axes": lambda x, y, w: last(x).sum([1, 2], True),
    "a reduction in another dtype": lambda x, y, w: last(x).sum([1, 2], dtype=torch.float64),
    "a reduction of another tensor": lambda x, y, w: x.relu().sum([1, 2]),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays(name: str):
    assert unchanged(SINK, program(STAYS[name], X, Y, w=W)) == []


def test_calls_of_weights_alone_stay():
    before = program(lambda x, v: x + first(v.relu() * 2), X, v=rand(2, 4, 5, 3))
    assert unchanged(SINK, before) == []


def test_a_tensor_of_fewer_axes_stays():
    cube, four = rand(3, 3, 3), rand(3, 3, 3, 3)
    assert unchanged(SINK, program(lambda x, y: first(last(x) + y), four, cube)) == []


def test_a_number_among_the_operands():
    assert unchanged(SINK, program(lambda x: first(last(x) * x.shape[0]), X, dynamic=True)) == []


def test_drawn_programs():
    check_pass(SINK, examples=25, targets=())


def test_a_reduction_of_what_is_permuted_twice():
    """Two permutations behind one another: what the first step leaves is a reduction of what is permuted."""
    b = ProgramBuilder()
    y = b.call("aten.permute", b.input((b.batch, 3)), [1, 0])
    first, second = (b.call("aten.permute", y, [1, 0]) for _ in range(2))
    total = b.call("aten.sum.dim_IntList", b.call("aten.sub.Tensor", first, second), [0])
    program = b.finish(total)
    assert check_once(SinkTransposes(), program, targets=()) == 2
