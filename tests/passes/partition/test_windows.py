"""Splits under a value, and the proof that there is none: against trying everything."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxopt.frontend import trace
from fxopt.passes.partition import Device, Link
from fxopt.passes.partition import _search as search_module
from fxopt.passes.partition import _windows as windows_module
from fxopt.passes.partition._devices import Links
from fxopt.passes.partition._exact import Solved, solve
from fxopt.passes.partition._pieces import pieces_of
from fxopt.passes.partition._problem import Problem, Split
from fxopt.passes.partition._search import Task, search
from fxopt.passes.partition._times import seconds_of
from fxopt.passes.partition._windows import Lattice, Tried
from fxopt.program import Program
from fxopt.testing import programs
from tests.passes.partition.test_objectives import fits, value
from tests.passes.partition.test_search import best_of, is_small, pieces
from tests.traced import traced

EVERY = 1_000_000
FOUR = pieces(4)


class Side(nn.Module):
    """Layers side by side."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(count))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [layer(x) for layer in self.layers]


SIDE = trace(Side().eval(), (torch.zeros(2, 8),))


@st.composite
def rows(draw: st.DrawFn) -> Problem:
    """Up to six pieces over two or three unlike devices: memory, links between pairs, what may not run where."""
    program: Program = draw(programs(max_ops=6))
    cost = {n.name: float(draw(st.integers(0, 5))) for n in program.calls()}
    parts = pieces_of(program, seconds_of(program, cost))
    total = sum(w.bytes for w in parts.weights)
    memory = st.one_of(st.none(), st.integers(1, max(total, 1)))
    row = tuple(
        Device(f"cpu:{i}", draw(st.sampled_from([0.5, 1.0, 2.0])), draw(memory))
        for i in range(draw(st.integers(2, 3)))
    )
    links = {
        (a.name, b.name): Link(draw(st.sampled_from([1e9, 100.0, 10.0])), draw(st.sampled_from([0.0, 0.5])))
        for a, b in itertools.pairwise(row)
    }
    names = st.sets(st.sampled_from([d.name for d in row]), max_size=1)
    barred = {i: frozenset(draw(names)) for i in range(len(parts))}
    return Problem(parts, row, Links(named=links), barred)


def every_split(problem: Problem) -> dict[tuple[int, ...], float]:
    """The value of each split that fits."""
    count = len(problem.pieces)
    row = problem.devices
    return {
        stages: value("throughput", problem.pieces, row, problem.links, stages)
        for stages in itertools.product(range(len(row)), repeat=count)
        if fits(problem.pieces, row, stages) and all(map(problem.allowed, range(count), stages))
    }


class TestSplit:
    @given(rows(), st.data())
    def test_one_is_found_where_there_is_one(self, problem: Problem, data: st.DataObject) -> None:
        if not is_small(problem.pieces):
            return
        every = every_split(problem)
        lattice = Lattice(problem.pieces)
        values = sorted(set(every.values()))
        if not values:
            assert lattice.split(problem, 1e9, most=EVERY) == Tried(None)
            return
        target = data.draw(st.sampled_from(values))
        found = lattice.split(problem, target, most=EVERY)
        assert found.done and found.split is not None
        assert found.split.stage_of in every
        assert found.split.value == pytest.approx(every[found.split.stage_of])
        assert found.split.value <= target * (1 + 1e-8)
        if values[0] > 0:
            assert lattice.split(problem, values[0] * (1 - 1e-6), most=EVERY) == Tried(None)
        few = lattice.split(problem, target, most=data.draw(st.integers(1, 4)))
        assert few.split is not None or not few.done

    @given(rows(), st.data())
    def test_what_is_before_and_behind_each_cut(self, problem: Problem, data: st.DataObject) -> None:
        if not is_small(problem.pieces):
            return
        every = every_split(problem)
        target = data.draw(st.sampled_from(sorted({*every.values(), 1.0})))
        right = [stages for stages, found in every.items() if found <= target]
        sides = Lattice(problem.pieces).sides(problem, target)
        assert (sides is None) == (not right)
        for cut, (before, behind) in enumerate(zip(*sides, strict=True) if sides else ()):
            assert all(s <= cut for stages in right for s in np.array(stages)[before])
            assert all(s > cut for stages in right for s in np.array(stages)[behind])
        if right:
            solved = solve(problem, best=target * (1 + 1e-6) + 1e-9, seconds=20, sides=sides)
            assert solved.split is not None
            assert solved.split.value == pytest.approx(min(every.values()), rel=1e-3, abs=1e-9)

    def test_some_are_known_to_be_before_and_behind(self) -> None:
        row = (Device("cpu:0"), Device("cpu:1"))
        problem = Problem(pieces(6), row, Links(Link(1e12, 0.0)))
        sides = Lattice(problem.pieces).sides(problem, 4.0)
        assert sides is not None
        assert sides[0].tolist() == [[True] * 2 + [False] * 4]
        assert sides[1].tolist() == [[False] * 4 + [True] * 2]

    def test_a_device_that_is_too_small_shuts_pieces_out(self) -> None:
        """Layers of 256 bytes: two on the first device at most, and on the last four at most."""
        row = (Device("cpu:0", memory=600), Device("cpu:1", memory=1100))
        problem = Problem(pieces(6), row, Links(Link(1e12, 0.0)))
        sides = Lattice(problem.pieces).sides(problem, 100.0)
        assert sides is not None
        assert sides[0].tolist() == [[True] * 2 + [False] * 4]
        assert sides[1].tolist() == [[False] * 2 + [True] * 4]
        small = Problem(pieces(7), row, problem.links)
        assert Lattice(small.pieces).sides(small, 100.0) is None

    def test_more_sets_than_asked_for_prove_nothing(self) -> None:
        row = (Device("cpu:0"), Device("cpu:1"))
        problem = Problem(pieces(8), row, Links(Link(1e12, 0.0)))
        lattice = Lattice(problem.pieces)
        assert lattice.split(problem, 4.0, most=1).split is not None
        assert lattice.split(problem, 5.0, most=1) == Tried(None, done=False)
        assert lattice.split(problem, 5.0, most=3).split is not None
        assert lattice.split(problem, 3.9, most=1) == Tried(None)

    def test_room_in_the_middle(self) -> None:
        row = (Device("cpu:0"), Device("cpu:1", 10.0, 300), Device("cpu:2"))
        problem = Problem(pieces(6), row, Links(Link(1e15, 0.0)))
        assert Lattice(problem.pieces).split(problem, 2.9, most=EVERY) == Tried(None)
        found = Lattice(problem.pieces).split(problem, 3.0, most=EVERY)
        assert found.split is not None and found.split.stage_of.count(1) == 1

    def test_a_weight_that_two_calls_read_is_held_once(self) -> None:
        layer = nn.Linear(8, 8, bias=False)
        program = trace(nn.Sequential(layer, layer, nn.Linear(8, 8, bias=False)).eval(), (torch.zeros(2, 8),))
        parts = pieces_of(program, seconds_of(program, {"linear": 1.0, "linear_1": 1.0, "linear_2": 2.0}))
        links = Links(Link(1e15, 0.0))
        small = Problem(parts, (Device("cpu:0", memory=300), Device("cpu:1")), links)
        found = Lattice(parts).split(small, 2.0, most=EVERY)
        assert found.split is not None and found.split.stage_of == (0, 0, 1)
        smaller = Problem(parts, (Device("cpu:0", memory=200), Device("cpu:1")), links)
        assert Lattice(parts).split(smaller, 100.0, most=EVERY) == Tried(None)

    def test_what_one_set_has_the_others_of_its_cut_need_not(self) -> None:
        """Three layers side by side: the first may not be last, the third is in the middle, so the second is last."""
        parts = pieces_of(SIDE, seconds_of(SIDE, {n.name: 1.0 for n in SIDE.calls()}))
        row = (Device("cpu:0"), Device("cpu:1"), Device("cpu:2"))
        barred = {0: frozenset({"cpu:2"}), 1: frozenset({"cpu:1"}), 2: frozenset({"cpu:0", "cpu:2"})}
        found = Lattice(parts).split(Problem(parts, row, Links(Link(1e15, 0.0)), barred), 1.5, most=EVERY)
        assert found.split is not None and found.split.stage_of == (0, 2, 1)

    def test_what_is_before_a_stage_is_before_the_next(self) -> None:
        """Two seconds fit the first device and the last in two ways, of which none leaves the slow one a call."""
        cost = dict(zip([n.name for n in SIDE.calls()], [1.0, 1.0, 2.0], strict=True))
        parts = pieces_of(SIDE, seconds_of(SIDE, cost))
        row = (Device("cpu:0"), Device("cpu:1", 0.1), Device("cpu:2"))
        assert Lattice(parts).split(Problem(parts, row, Links(Link(1e15, 0.0))), 2.0, most=EVERY) == Tried(
            None
        )

    def test_the_last_device_holds_as_much_as_it_can(self) -> None:
        """Two layers of 256 bytes fit it, so that those before its cut have 512 bytes, and no more."""
        row = (Device("cpu:0", memory=512), Device("cpu:1", memory=512))
        found = Lattice(FOUR).split(Problem(FOUR, row, Links(Link(1e15, 0.0))), 2.0, most=EVERY)
        assert found.split is not None and found.split.stage_of == (0, 0, 1, 1)

    def test_what_some_set_of_a_later_cut_has_an_earlier_one_may_have(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Five layers side by side, the first in the middle: four sets at the second cut are known before the six at the first."""
        program = trace(Side(5).eval(), (torch.zeros(2, 8),))
        parts = pieces_of(program, seconds_of(program, {n.name: 1.0 for n in program.calls()}))
        row = (Device("cpu:0", 2.0), Device("cpu:1", 2.0), Device("cpu:2"))
        barred = {0: frozenset({"cpu:0", "cpu:2"})}
        monkeypatch.setattr(windows_module, "_FEW", 4)
        found = Lattice(parts).split(Problem(parts, row, Links(Link(1e15, 0.0)), barred), 1.0, most=EVERY)
        assert found.split is not None
        assert sorted(found.split.stage_of) == [0, 0, 1, 1, 2] and found.split.stage_of[0] == 1

    def test_more_pairs_than_asked_for_prove_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        row = (Device("cpu:0"), Device("cpu:1"), Device("cpu:2"))
        problem = Problem(pieces(9), row, Links(Link(1e12, 0.0)))
        monkeypatch.setattr(windows_module, "_MOST_PAIRS", 8)
        assert Lattice(problem.pieces).split(problem, 4.0, most=EVERY) == Tried(None, done=False)
        monkeypatch.setattr(windows_module, "_MOST_PAIRS", 16)
        assert Lattice(problem.pieces).split(problem, 4.0, most=EVERY).split is not None

    def test_sets_are_joined_block_by_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        row = (Device("cpu:0"), Device("cpu:1", 0.5), Device("cpu:2", 2.0))
        problem = Problem(pieces(14), row, Links(Link(1e12, 0.0)))
        monkeypatch.setattr(windows_module, "_BLOCK", 1)
        found = Lattice(problem.pieces).split(problem, 4.0, most=EVERY)
        assert found.split is not None
        assert found.split.value == pytest.approx(4.0)
        assert found.split.stage_of == (0,) * 4 + (1,) * 2 + (2,) * 8

    def test_over_more_pieces_than_a_word_has_bits(self) -> None:
        row = (Device("cpu:0"), Device("cpu:1"), Device("cpu:2"))
        problem = Problem(pieces(150), row, Links(Link(1e12, 0.0)))
        found = Lattice(problem.pieces).split(problem, 50.0, most=EVERY)
        assert found.split is not None
        assert found.split.stage_of == (0,) * 50 + (1,) * 50 + (2,) * 50


class TestInTheSearch:
    def test_where_a_split_is_found_the_bound_stays(self) -> None:
        problem = Problem(FOUR, (Device("cpu:0"), Device("cpu:1")), Links(Link(1e15, 0.0)))
        solved = search_module._Windows([problem], solver=True).asked(0, 1.0, 4.0, EVERY)
        assert solved is not None and solved.split is not None
        assert (solved.split.value, solved.bound) == (pytest.approx(2.0), 1.0)
        refuted = search_module._Windows([problem], solver=True).asked(0, 1.0, 2.9, EVERY)
        assert refuted is not None and refuted.split is None
        assert refuted.bound == pytest.approx(1.95)

    def test_where_memory_is_limited_the_integer_program_is_asked_first(self) -> None:
        """Once of each row, where a better split than one at hand is sought, and where there is such a program."""
        row = (Device("cpu:0"), Device("cpu:1", memory=10**6))
        problem = Problem(FOUR, row, Links(Link(1e15, 0.0)))
        windows = search_module._Windows([problem, problem], solver=True)
        assert windows.asked(0, 1.0, math.inf, EVERY) is not None
        assert [windows.asked(k, 1.0, 4.0, EVERY) is None for k in (0, 0, 1, 1)] == [True, False, True, False]
        assert search_module._Windows([problem], solver=False).asked(0, 1.0, 4.0, EVERY) is not None

    def test_what_takes_too_long_is_asked_for_less_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The integer program here can't say anything of values over 2.2 in its time."""
        asked: list[float] = []

        def slow(problem: Problem, *, best: float, seconds: float, sides: object) -> Solved:
            asked.append(best)
            return Solved(None, best) if best <= 2.2 else Solved(None, 2.0, done=False)

        monkeypatch.setattr(search_module._Windows, "asked", lambda *_: None)
        monkeypatch.setattr(search_module, "solve", slow)
        problem = Problem(FOUR, (Device("cpu:0"), Device("cpu:1")), Links(Link(1e15, 0.0)))
        monkeypatch.setattr(Problem, "simple_bound", lambda _: 2.0)
        found = (problem, Split((0, 0, 0, 1), 3.0))
        _, bounds, _ = search_module._refined([problem], found, time.monotonic() + 0.2)
        assert asked[:5] == pytest.approx([3.0, 2.5, 2.25, 2.125, 2.125 + 0.875 / 4])
        assert asked[5] == pytest.approx(2.125 + 0.875 / 8)
        assert bounds[0] == pytest.approx(max(a for a in asked if a <= 2.2))

    def test_nothing_known_is_asked_for_anything(self) -> None:
        problem = Problem(FOUR, (Device("cpu:0"), Device("cpu:1")), Links(Link(1e15, 0.25)))
        windows = search_module._Windows([problem], solver=True)
        assert windows.aim(0, 2.0, math.inf)[0] == math.inf
        windows.learn(0, done=False)
        assert windows.aim(0, 2.0, math.inf)[0] == pytest.approx(2.0 + (4.0 + 0.5 - 2.0) / 2, abs=1e-6)
        windows.learn(0, done=True)
        windows.learn(0, done=True)
        assert windows.aim(0, 2.0, 3.0)[0] == 3.0

    def named(self, task: Task) -> Task:
        """The same links, by the names of their ends, so that all rows of devices are asked."""
        pairs = itertools.combinations([d.name for d in task.devices], 2)
        return Task(task.pieces, task.devices, Links(named=dict.fromkeys(pairs, task.links.usual)), {}, {})

    def test_without_the_integer_program(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search_module, "find_spec", lambda name: None)
        monkeypatch.setattr(search_module, "split_in_order", lambda problem, places: None)
        row = (Device("cpu:0"), Device("cpu:1", 2.0), Device("cpu:2", memory=300))
        task = self.named(Task(pieces(6), row, Links(Link(1e12, 0.25)), {}, {}))
        found = search(task, seconds=60)
        assert found.split.value == pytest.approx(best_of(task), rel=1e-3)
        assert found.bound <= best_of(task) * (1 + 1e-9)
        assert found.bound >= found.split.value * (1 - 1e-3)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "minilm"])
    def test_models_without_the_integer_program(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(search_module, "find_spec", lambda name: None)
        program = traced(name, True)
        row = tuple(Device(f"cpu:{i}", v) for i, v in enumerate((1.0, 0.5, 1.0, 2.0)))
        task = Task(pieces_of(program, seconds_of(program)), row, Links(Link(1e10, 1e-5)), {}, {})
        found = search(task, seconds=300)
        assert found.split.value / found.bound - 1 < 1e-3
        assert found.proof == "order ideals"
        assert found.problem.value(found.split.stage_of) == pytest.approx(found.split.value)
