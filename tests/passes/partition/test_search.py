"""The parts of the search, each against the others and against trying everything."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxopt.errors import InputError
from fxopt.passes.partition import Device, Link, partition
from fxopt.passes.partition import _search as search_module
from fxopt.passes.partition._devices import Links
from fxopt.passes.partition._exact import solve
from fxopt.passes.partition._order import split_in_order
from fxopt.passes.partition._pieces import Pieces, pieces_of
from fxopt.passes.partition._places import all_places, order_places
from fxopt.passes.partition._problem import Objective, Split
from fxopt.passes.partition._rows import most_places, split_over_kinds
from fxopt.passes.partition._search import Task, search
from fxopt.passes.partition._times import seconds_of
from fxopt.program import Program
from fxopt.testing import programs
from tests.passes.partition.test_objectives import chain, smallest
from tests.traced import traced

DEVICES = (Device("cpu:0"), Device("cpu:1", speed=2.0), Device("cpu:2"))


@st.composite
def small_tasks(draw: st.DrawFn) -> Task:
    """Up to six pieces over three devices of two kinds, with links that count."""
    program: Program = draw(programs(max_ops=5))
    cost = {n.name: float(draw(st.integers(0, 5))) for n in program.calls()}
    pieces = pieces_of(program, seconds_of(program, cost))
    links = Links(Link(draw(st.sampled_from([1e9, 100.0])), draw(st.sampled_from([0.0, 0.5]))))
    return Task(pieces, DEVICES, links, {}, {}, draw(st.sampled_from(get_args(Objective))))


def kinds(task: Task) -> list[list[Device]]:
    return list(search_module._kinds(task).values())


def best_of(task: Task) -> float:
    return smallest(task.objective, task.pieces, list(task.devices), task.links)


def is_small(pieces: Pieces) -> bool:
    return 0 < len(pieces) <= 6


class TestBounds:
    @given(small_tasks(), st.data())
    def test_none_is_over_the_best(self, task: Task, data: st.DataObject) -> None:
        if not is_small(task.pieces):
            return
        best = best_of(task)
        assert search_module._floor(task) <= best * (1 + 1e-9)
        share = data.draw(st.sampled_from([0.9, 0.7, 0.5, 0.3]))
        places = search_module._ideals(task.over(task.devices), kinds(task), share)
        assert places is not None
        found = split_over_kinds(task.over(task.devices), kinds(task), places)
        assert found is not None
        assert found[1].value <= best * (1 + 1e-9)

    @given(small_tasks())
    def test_of_one_row_none_is_over_its_best(self, task: Task) -> None:
        if not is_small(task.pieces):
            return
        for row in itertools.permutations(DEVICES, 2):
            problem = task.over(row)
            every = itertools.product(range(2), repeat=len(task.pieces))
            edges = [(t.maker, u) for t in task.pieces.tensors for u in t.users]
            right = [s for s in every if set(s) == {0, 1} and in_order(s, edges)]
            values = [problem.value(s) for s in right]
            if values:
                assert problem.simple_bound() <= min(values) * (1 + 1e-9)
                solved = solve(problem, best=math.inf, seconds=10)
                assert solved.split is not None
                assert solved.split.value == pytest.approx(min(values), rel=1e-3, abs=1e-9)
                assert solved.bound <= min(values) * (1 + 1e-9) + 1e-9

    def test_of_the_heaviest_pieces_as_many_as_can_be_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        task = Task(pieces(6), DEVICES, Links(Link(1e30, 0.0)), {}, {})
        monkeypatch.setattr(search_module, "_MOST_IDEALS", 6)
        asked = task.over(DEVICES), kinds(task), math.inf
        assert search_module._least_of_the_heaviest(*asked) == pytest.approx(1.5)
        assert best_of(task) == pytest.approx(2.0)
        monkeypatch.setattr(search_module, "_MOST_IDEALS", 1)
        assert search_module._least_of_the_heaviest(*asked) == 0.0

    def test_what_is_sent_counts(self) -> None:
        task = Task(
            pieces(4), (Device("cpu:0"), Device("cpu:1"), Device("cpu:2")), Links(Link(1e30, 1.0)), {}, {}
        )
        assert task.over(task.devices).simple_bound() == pytest.approx((4 + 1 + 2 + 1) / 3)
        assert search_module._floor(task) == pytest.approx(8 / 3)
        slower = Task(task.pieces, (Device("cpu:0"), Device("cpu:1", speed=0.1)), task.links, {}, {})
        assert search_module._floor(slower) == pytest.approx(4.0)

    def test_what_is_sent_counts_by_the_speed_of_who_sends(self) -> None:
        row = tuple(Device(f"cpu:{i}", speed=v) for i, v in enumerate((1.0, 2.0, 4.0)))
        problem = Task(pieces(4), row, Links(Link(1e30, 1.0)), {}, {}).over(row)
        assert problem.simple_bound() == pytest.approx((4 + 1 + 2 * 2 + 4) / 7)


def in_order(stages: tuple[int, ...], edges: list[tuple[int, int]]) -> bool:
    return all(u >= len(stages) or a < 0 or stages[a] <= stages[u] for a, u in edges)


def pieces(count: int) -> Pieces:
    """Layers in a row that take a second each."""
    program = chain([8] * (count + 1))
    return pieces_of(program, seconds_of(program, {n.name: 1.0 for n in program.calls()}))


class TestSearch:
    @given(small_tasks())
    def test_all_ways_to_search_agree(self, task: Task) -> None:
        """All sets of pieces; one order, and the integer program for each row, as where links differ."""
        if not is_small(task.pieces):
            return
        by_ideals = search(task, seconds=10)
        named = {(a.name, b.name): task.links.usual for a, b in itertools.combinations(DEVICES, 2)}
        by_rows = search(Task(task.pieces, DEVICES, Links(named=named), {}, {}, task.objective), seconds=10)
        assert by_ideals.proof == "optimal"
        assert by_ideals.split.value == pytest.approx(by_rows.split.value, rel=1e-3, abs=1e-9)
        assert by_rows.bound <= by_ideals.split.value * (1 + 1e-9) + 1e-9
        assert by_ideals.problem.value(by_ideals.split.stage_of) == pytest.approx(by_ideals.split.value)

    def test_of_rows_as_good_the_first_is_taken(self) -> None:
        named = {("cpu:0", "cpu:1"): Link(1e30, 0.0)}
        task = Task(pieces(3), (Device("cpu:0"), Device("cpu:1")), Links(named=named), {}, {})
        found = search_module._in_order(task, kinds(task), search_module._rows(task), math.inf)
        assert found is not None
        assert [d.name for d in found[0].devices] == ["cpu:0", "cpu:1"]

    @pytest.mark.parametrize(("seconds", "proof"), [(0.0, "optimal"), (1.0, "order ideals")])
    def test_over_named_links_the_best_is_known_to_be(self, seconds: float, proof: str) -> None:
        """To a thousandth, where something takes time."""
        program = chain([8] * 5)
        each = pieces_of(program, seconds_of(program, {n.name: seconds for n in program.calls()}))
        named = {("cpu:0", "cpu:1"): Link(1e30, 0.0)}
        found = search(Task(each, DEVICES[:2], Links(named=named), {}, {}), seconds=10)
        # 4 layers over devices of speed 1 and 2: one and three
        assert (found.split.value, found.proof) == (1.5 * seconds, proof)
        assert found.bound == pytest.approx(1.5 * seconds, rel=1e-3)

    def test_rows_are_not_tried_one_by_one_where_all_places_are(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(search_module, "_MOST_CUTS", 4)
        monkeypatch.setattr(search_module, "split_in_order", lambda *a: pytest.fail("asked"))
        task = Task(pieces(4), DEVICES, Links(), {}, {})
        found = search_module._in_order(task, kinds(task), search_module._rows(task), math.inf)
        assert found is not None
        assert found[1].value == pytest.approx(best_of(task))

    @given(small_tasks())
    def test_one_order_over_the_best_row(self, task: Task) -> None:
        if not is_small(task.pieces):
            return
        places = order_places(task.over(DEVICES), 1000)
        found = split_over_kinds(task.over(DEVICES), kinds(task), places)
        rows = [row for n in (1, 2, 3) for row in itertools.permutations(DEVICES, n) if n <= len(task.pieces)]
        splits = [split_in_order(task.over(row), places) for row in rows]
        assert found is not None
        assert found[1].value == pytest.approx(min(s.value for s in splits if s is not None))
        assert found[0].value(found[1].stage_of) == pytest.approx(found[1].value)

    def test_more_devices_than_pieces(self) -> None:
        devices = [Device(f"cpu:{i}", (1.0, 0.5, 2.0)[i % 3]) for i in range(16)]
        plan = partition(chain([8] * 4), devices, links=Link(1e12, 0.0))
        assert [s.device for s in plan.stages] == [
            s.device for s in plan.stages if devices_of(devices)[s.device] == 2
        ]
        assert plan.proof == "optimal"

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "gap"), [("resnet10", 0.0), ("unet", 0.0), ("bert", 0.08)])
    def test_sixteen_devices(self, name: str, gap: float) -> None:
        devices = [Device(f"cpu:{i}", (1.0, 0.5, 1.0, 2.0)[i % 4]) for i in range(16)]
        plan = partition(traced(name, True), devices, links=Link(1e10, 1e-5), time_limit=5)
        assert plan.gap <= gap + 1e-9


def devices_of(devices: list[Device]) -> dict[str, float]:
    return {d.name: d.speed for d in devices}


class TestLongPrograms:
    def test_coarse_pieces_are_runs_of_equal_time_that_may_run_in_the_same_places(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(search_module, "_COARSE", 3)
        here, there = frozenset({"cpu:1"}), frozenset({"cpu:0"})
        problem = Task(pieces(9), DEVICES, Links(), {0: here, 4: there, 8: here}, {}).over(DEVICES[:2])
        coarse = search_module._coarse(problem)
        assert [len(p.calls) for p in coarse.pieces.pieces] == [1, 3, 1, 3, 1]
        assert coarse.barred == {0: here, 2: there, 4: here}
        fine = search_module._fine(problem, coarse, Split((0, 0, 1, 1, 1), 5.0))
        assert fine == Split((0,) * 4 + (1,) * 5, problem.value((0,) * 4 + (1,) * 5))
        plain = search_module._coarse(Task(pieces(9), DEVICES, Links(), {}, {}).over(DEVICES[:2]))
        assert [len(p.calls) for p in plain.pieces.pieces] == [3, 3, 3]

    def test_no_time_at_all_is_one_piece(self) -> None:
        program = chain([8] * 4)
        free = pieces_of(program, dict.fromkeys(program.calls(), 0.0))
        assert len(search_module._coarse(Task(free, DEVICES, Links(), {}, {}).over(DEVICES[:2])).pieces) == 1

    @pytest.mark.parametrize("most", [3, 900])
    def test_the_search_over_coarse_pieces(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        """As good here; but coarse pieces prove nothing of the fine ones."""
        monkeypatch.setattr(search_module, "MOST_EXACT", most)
        monkeypatch.setattr(search_module, "_MOST_CUTS", 3)
        monkeypatch.setattr(search_module, "_LEAST_CUTS", 60)
        named = {("cpu:0", "cpu:1"): Link(1e12, 0.0), ("cpu:0", "cpu:2"): Link(1e12, 0.0)}
        found = search(Task(pieces(8), DEVICES, Links(Link(1.0, 100.0), named), {}, {}), seconds=10)
        assert [d.name for d in found.problem.devices][1] == "cpu:0"
        assert found.split.value == pytest.approx(2.0)
        assert (found.proof == "optimal") == (found.bound == found.split.value)

    def test_more_rows_than_are_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The best row of those looked at is refined alone, and what is proved holds for all rows."""
        monkeypatch.setattr(search_module, "_MOST_ROWS", 2)
        task = Task(pieces(4), DEVICES, Links(named={("cpu:0", "cpu:1"): Link(1e12, 0.0)}), {}, {})
        found = search(task, seconds=10)
        assert found.proof in ("simple", "optimal")
        assert found.bound <= best_of(task) * (1 + 1e-9) <= found.split.value * (1 + 2e-9)

    def test_without_time_nothing_is_asked_of_the_solver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search_module, "solve", lambda *a, **k: pytest.fail("asked"))
        named = {("cpu:0", "cpu:1"): Link(1e12, 0.0)}
        found = search(Task(pieces(4), DEVICES, Links(named=named), {}, {}), seconds=0.0)
        assert found.split.value >= found.bound > 0


def test_places_that_can_be_tried() -> None:
    """Four thousand million comparisons: with three of one kind and one of another 4 * 2 * 2 ways."""
    kinds = [list(DEVICES), [DEVICES[0]]]
    assert most_places(kinds, most=10**9) == int((4e9 / 16) ** 0.5)
    assert most_places(kinds, most=7) == 7


def test_no_room_tells_of_the_largest_weight() -> None:
    small = tuple(Device(d.name, d.speed, 300) for d in DEVICES)
    with pytest.raises(
        InputError, match=r"the weights have 1,024 bytes, .*; the largest, \S+, has 256 bytes"
    ):
        search(Task(pieces(4), small, Links(), {}, {}), seconds=5)


class TestRows:
    def test_those_that_differ_in_nothing_are_taken_for_one_another(self) -> None:
        task = Task(pieces(4), DEVICES, Links(), {}, {})
        names = [tuple(d.name for d in row) for row in search_module._rows(task)]
        assert names == [
            ("cpu:0", "cpu:2", "cpu:1"), ("cpu:0", "cpu:1", "cpu:2"), ("cpu:1", "cpu:0", "cpu:2"),
            ("cpu:0", "cpu:2"), ("cpu:0", "cpu:1"), ("cpu:1", "cpu:0"), ("cpu:0",), ("cpu:1",),
        ]  # fmt: skip
        kept = Task(pieces(4), DEVICES, Links(), {}, {"cpu:0": 1})
        assert len(kinds(kept)) == 3
        two = Task(pieces(2), DEVICES, Links(), {}, {})
        assert max(map(len, search_module._rows(two))) == 2

    def test_what_must_run_somewhere_is_in_every_row(self) -> None:
        barred = {1: frozenset({"cpu:0", "cpu:2"})}
        rows = search_module._rows(Task(pieces(4), DEVICES, Links(), barred, {}))
        assert all(DEVICES[1] in row for row in rows) and (DEVICES[1],) in rows

    def test_at_most_so_many_and_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search_module, "_MOST_ROWS", 4)
        assert len(search_module._rows(Task(pieces(4), DEVICES, Links(), {}, {}))) == 5


class TestPlaces:
    def test_of_a_chain_all_sets_are_those_of_the_order(self) -> None:
        problem = Task(pieces(4), DEVICES, Links(), {}, {}).over(DEVICES)
        places = all_places(problem, range(4), 100)
        assert places is not None
        ordered = order_places(problem, 100)
        assert np.array_equal(places.inside, ordered.inside)
        assert np.array_equal(places.follows, ordered.follows)
        assert np.array_equal(places.bytes[1:-1], ordered.bytes[1:-1])

    def test_more_than_asked_for_are_none(self) -> None:
        problem = Task(pieces(4), DEVICES, Links(), {}, {}).over(DEVICES)
        assert all_places(problem, range(4), 4) is None
        assert all_places(problem, range(4), 5) is not None

    def test_pieces_left_out_still_keep_the_others_in_order(self) -> None:
        problem = Task(pieces(3), DEVICES, Links(), {}, {}).over(DEVICES)
        places = all_places(problem, [0, 2], 100)
        assert places is not None
        assert places.inside.tolist() == [[False] * 3, [True, False, False], [True, False, True]]

    def test_of_a_long_order_about_so_many_with_the_fewest_bytes(self) -> None:
        program = chain([8, 2] * 20 + [8])
        found = pieces_of(program, seconds_of(program, {n.name: 1.0 for n in program.calls()}))
        problem = Task(found, DEVICES, Links(), {}, {}).over(DEVICES)
        places = order_places(problem, 11)
        assert 10 <= len(places) <= 13
        assert set(places.bytes[1:-1]) == {2 * 2 * 4}
        assert places.inside[0].sum() == 0
        assert places.inside[-1].all()
