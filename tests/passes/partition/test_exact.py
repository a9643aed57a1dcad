"""What is made of the solver's answers, whatever they are."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize

from fxopt.passes.partition import Device, Link
from fxopt.passes.partition._devices import Links
from fxopt.passes.partition._exact import Solved, solve
from fxopt.passes.partition._problem import Problem
from tests.passes.partition.test_search import pieces

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
