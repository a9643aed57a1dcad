"""What is made of the solver's answers, whatever they are."""

import itertools
import math
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.passes.partition import Device, Link
from fxopt.passes.partition._devices import Links
from fxopt.passes.partition._exact import Solved, solve
from fxopt.passes.partition._pieces import pieces_of
from fxopt.passes.partition._problem import Objective, Problem
from fxopt.passes.partition._times import seconds_of
from tests.passes.partition.test_objectives import held, value
from tests.passes.partition.test_search import in_order, pieces

PROBLEM = Problem(pieces(4), (Device("cpu:0"), Device("cpu:1")), Links(Link(1e12, 0.0)))
"""Four seconds over two devices: no split is under 2."""


def answered(monkeypatch: pytest.MonkeyPatch, **answer: object) -> Solved:
    monkeypatch.setattr(scipy.optimize, "milp", lambda *args, **options: SimpleNamespace(**answer))
    return solve(PROBLEM, best=math.inf, seconds=1.0)


class TestAnswers:
    def test_nothing_yet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = answered(monkeypatch, status=1, x=None, mip_dual_bound=1.5)
        assert (found.split, found.done) == (None, False)
        assert found.bound == pytest.approx(3.0, rel=1e-5) and found.bound < 3.0

    def test_nothing_yet_nor_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert answered(monkeypatch, status=1, x=None, mip_dual_bound=None) == Solved(None, 2.0, done=False)
        assert answered(monkeypatch, status=1, x=None, mip_dual_bound=0.5).bound == 2.0

    @pytest.mark.parametrize(("status", "done"), [(0, True), (1, False)])
    def test_a_split_that_may_not_be_the_best(
        self, monkeypatch: pytest.MonkeyPatch, status: int, done: bool
    ) -> None:
        x = np.array([1.0, 0.999, 1.0, 0.001, 0.0])
        found = answered(monkeypatch, status=status, x=x, mip_dual_bound=1.0)
        assert found.split is not None
        assert (found.split.stage_of, found.done) == ((0, 0, 0, 1), done)
        assert found.split.value == pytest.approx(3.0)

    def test_none_is_better(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert answered(monkeypatch, status=2) == Solved(None, math.inf, done=True)


def test_what_is_asked_of_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least a tenth of a second; nothing worse than the value at hand, in units of the simple bound."""
    asked: dict[str, object] = {}

    def milp(cost: np.ndarray, **options: object) -> SimpleNamespace:
        asked.update(options, cost=cost)
        return SimpleNamespace(status=2)

    monkeypatch.setattr(scipy.optimize, "milp", milp)
    assert solve(PROBLEM, best=3.0, seconds=0.0) == Solved(None, 3.0)
    bounds, options, cost = asked["bounds"], asked["options"], asked["cost"]
    assert isinstance(bounds, scipy.optimize.Bounds) and isinstance(options, dict)
    assert (bounds.lb[-1], bounds.ub[-1], options["time_limit"]) == (1.0, 1.5, 0.1)
    assert list(np.nonzero(cost)[0]) == [len(bounds.lb) - 1]
    assert set(bounds.lb[:-1]) == {0.0} and set(bounds.ub[:-1]) == {1.0}
    solve(PROBLEM, best=1.0, seconds=7.0)
    assert asked["bounds"].ub[-1] == 1.0 and asked["options"]["time_limit"] == 7.0  # type: ignore[attr-defined, index]
    assert list(asked["integrality"]) == [1.0] * 4 + [0.0] * (len(bounds.lb) - 4)  # type: ignore[call-overload]


def test_a_piece_that_may_run_nowhere() -> None:
    nowhere = Problem(PROBLEM.pieces, PROBLEM.devices, PROBLEM.links, {1: frozenset({"cpu:0", "cpu:1"})})
    assert solve(nowhere, best=9.0, seconds=1.0) == Solved(None, math.inf)
    only = Problem(
        PROBLEM.pieces, PROBLEM.devices, PROBLEM.links, {0: frozenset({"cpu:1"}), 1: frozenset({"cpu:0"})}
    )
    found = solve(only, best=math.inf, seconds=10.0)
    assert found.split is not None and found.split.stage_of == (0, 1, 1, 1)


class Skips(nn.Module):
    """Layers of unlike sizes, one of them used twice, and a value that is read far on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.c(self.b(self.b(y).relu()) + y)


SEVERAL = trace(Skips().eval(), (torch.zeros(2, 4),))
COST = {"a": 2.0, "b": 1.0, "relu": 2.0, "b_1": 3.0, "add": 1.0, "c": 1.5}


@pytest.mark.parametrize("objective", get_args(Objective))
@pytest.mark.parametrize("memory", [None, 500, 420])
@pytest.mark.parametrize("latency", [0.0, 0.25])
def test_over_three_devices_nothing_is_better(
    objective: Objective, memory: int | None, latency: float
) -> None:
    devices = (Device("cpu:0"), Device("cpu:1", 2.0, memory), Device("cpu:2", 0.5))
    problem = Problem(
        pieces_of(SEVERAL, seconds_of(SEVERAL, COST)), devices, Links(Link(64.0, latency)),
        {0: frozenset({"cpu:2"})}, {"cpu:1": 20}, objective,
    )  # fmt: skip
    edges = [(t.maker, u) for t in problem.pieces.tensors for u in t.users]
    rooms = [problem.room(k) for k in range(3)]
    assert rooms == [None, None if memory is None else memory - 20, None]
    values = [
        value(objective, problem.pieces, devices, problem.links, stages)
        for stages in itertools.product(range(3), repeat=len(problem.pieces))
        if set(stages) == {0, 1, 2} and in_order(stages, edges) and stages[0] != 2
        and (memory is None or held(problem.pieces, stages, 1) <= memory - 20)
    ]  # fmt: skip
    best = min(values, default=math.inf)
    found = solve(problem, best=math.inf, seconds=20)
    if best == math.inf:
        assert found.split is None
        return
    assert found.split is not None and found.done
    assert found.split.value == pytest.approx(best, rel=1e-3)
    assert problem.simple_bound() <= found.bound <= best * (1 + 1e-6)
    assert best * (1 - 1e-3) <= found.bound
    known = solve(problem, best=0.9 * best, seconds=20)
    assert (known.split, known.bound) == (None, 0.9 * best)


class Branches(nn.Module):
    """One layer beside two in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.a(x), self.c(self.b(x))


@pytest.mark.parametrize("unit", [1.0, 1e-8])
def test_a_piece_counts_in_one_stage(unit: float) -> None:
    """The fast device in the middle has room for one layer; the one that takes no time makes no more of it."""
    program = trace(Branches().eval(), (torch.zeros(2, 8),))
    devices = (Device("cpu:0"), Device("cpu:1", 100.0, 300), Device("cpu:2"))
    parts = pieces_of(program, seconds_of(program, {"a": 0.0, "b": unit, "c": 2 * unit}))
    problem = Problem(parts, devices, Links(Link(1e15, 0.0)))
    found = solve(problem, best=math.inf, seconds=20)
    assert found.split is not None
    assert max(held(parts, found.split.stage_of, k) for k in range(3)) == 256
    assert found.split.value == pytest.approx(unit, rel=1e-3)


def test_room_for_one_layer_where_all_would_be_fastest() -> None:
    devices = (Device("cpu:0"), Device("cpu:1", 10.0, 300), Device("cpu:2"))
    found = solve(Problem(pieces(4), devices, Links(Link(1e15, 0.0))), best=math.inf, seconds=20)
    assert found.split is not None
    assert sorted(found.split.stage_of) == list(found.split.stage_of)
    assert (found.split.stage_of.count(1), found.split.value) == (1, pytest.approx(2.0))
    free = tuple(Device(d.name, d.speed) for d in devices)
    wide = solve(Problem(pieces(4), free, Links(Link(1e15, 0.0))), best=math.inf, seconds=20)
    assert wide.split is not None and wide.split.stage_of == (0, 1, 1, 2)


def test_nothing_runs_before_what_it_reads() -> None:
    """The first layer may not be where the first stage is, which then has nothing to run."""
    late = Problem(PROBLEM.pieces, PROBLEM.devices, PROBLEM.links, {0: frozenset({"cpu:0"})})
    assert solve(late, best=math.inf, seconds=20).split is None
