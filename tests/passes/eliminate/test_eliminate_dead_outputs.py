"""eliminate-dead-outputs: an op of one result where only one is read."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.eliminate.eliminate_dead_outputs import EliminateDeadOutputs
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

ELIMINATE = EliminateDeadOutputs()
Fn = Callable[..., object]
X = rand(2, 6, 8)
aten = torch.ops.aten

ONE: dict[str, tuple[Fn, Fn]] = {
    "layer norm": (
        lambda x: aten.native_layer_norm(x, [8], None, None, 1e-3)[0],
        lambda x: F.layer_norm(x, (8,), eps=1e-3),
    ),
    "largest": (lambda x: x.max(1)[0], lambda x: x.amax([1])),
    "largest, kept": (lambda x: x.max(2, keepdim=True)[0], lambda x: x.amax([2], keepdim=True)),
    "smallest": (lambda x: x.min(1)[0], lambda x: x.amin([1])),
    "variance": (
        lambda x: torch.var_mean(x, 1, correction=0)[0],
        lambda x: torch.var(x, [1], correction=0),
    ),
    "deviation": (
        lambda x: torch.std_mean(x, 1, correction=1, keepdim=True)[0],
        lambda x: torch.std(x, [1], correction=1, keepdim=True),
    ),
    "mean": (
        lambda x: torch.var_mean(x, 1, correction=0, keepdim=True)[1],
        lambda x: x.mean([1], keepdim=True),
    ),
    "piece": (lambda x: x.split(4, 2)[1], lambda x: aten.slice.Tensor(x, 2, 4, 8)),
    "last piece": (lambda x: x.split(5, 2)[1], lambda x: aten.slice.Tensor(x, 2, 5, 8)),
    "piece of sizes": (lambda x: x.split([1, 2, 3], 1)[1], lambda x: aten.slice.Tensor(x, 1, 1, 3)),
    "row": (lambda x: x.unbind(1)[2], lambda x: x.select(1, 2)),
    "first row": (lambda x: x.unbind(1)[0], lambda x: x.select(1, 0)),
}


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_one_result(name: str, dynamic: bool):
    before, expected = (program(f, X, dynamic=dynamic) for f in ONE[name])
    assert structure(applied(ELIMINATE, before).program) == structure(expected)


def test_a_group_norm_with_statistics():
    weights = {"w": rand(6), "b": rand(6)}
    before = program(lambda x, w, b: aten.native_group_norm(x, w, b, 2, 6, 8, 3, 1e-3)[0], X, **weights)
    expected = program(lambda x, w, b: F.group_norm(x, 3, w, b, 1e-3), X, **weights)
    assert structure(applied(ELIMINATE, before).program) == structure(expected)


@pytest.mark.parametrize("rank", [2, 3])
def test_a_pool_with_places(rank: int):
    places = {2: aten.max_pool2d_with_indices, 3: aten.max_pool3d_with_indices}[rank]
    x = rand(2, 3, *[7] * rank)
    before = program(lambda x: places(x, [3] * rank, [2] * rank, [1] * rank, [1] * rank, True)[0], x)
    assert calls(applied(ELIMINATE, before).program) == [f"max_pool{rank}d"]


def test_the_same_result_read_twice():
    before = program(lambda x: (lambda p: p[1].relu() + p[1].neg())(x.split(4, 2)), X)
    assert calls(applied(ELIMINATE, before).program) == ["slice", "relu", "neg", "add"]


STAYS: dict[str, Fn] = {
    "two results": lambda x: x.max(1),
    "places": lambda x: x.max(1)[1],
    "statistics": lambda x: aten.native_layer_norm(x, [8], None, None, 1e-3)[1],
    "a group norm's statistics": lambda x: aten.native_group_norm(x, None, None, 2, 6, 8, 3, 1e-3)[1],
    "places of a pool": lambda x: aten.max_pool2d_with_indices(x, [2, 2])[1],
    "two pieces": lambda x: (lambda p: p[0] + p[1])(x.split(4, 2)),
    "an op of one result": lambda x: x.relu(),
    "sorted": lambda x: x.sort(1)[0],
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays(name: str):
    assert unchanged(ELIMINATE, program(STAYS[name], X)) == []


def test_a_piece_of_a_size_that_varies():
    before = program(lambda x: x.split([x.shape[0] - 1, 1])[1], rand(4, 3), dynamic=True)
    assert unchanged(ELIMINATE, before) == []


def test_drawn_programs():
    check_pass(ELIMINATE, examples=25, targets=())
