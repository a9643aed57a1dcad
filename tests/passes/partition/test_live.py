"""What activations need at the least: against the stages as programs, and in each way to search."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxopt.errors import InputError
from fxopt.passes.partition import Device, Link, partition
from fxopt.passes.partition import _search as search_module
from fxopt.passes.partition._devices import Links
from fxopt.passes.partition._exact import solve
from fxopt.passes.partition._live import live_of
from fxopt.passes.partition._order import split_in_order
from fxopt.passes.partition._pieces import Pieces, pieces_of
from fxopt.passes.partition._places import all_places, order_places
from fxopt.passes.partition._problem import Problem
from fxopt.passes.partition._stages import stage_programs
from fxopt.passes.partition._times import seconds_of
from fxopt.passes.partition._use import _live_bytes
from fxopt.passes.partition._windows import Lattice
from fxopt.program import Program
from fxopt.testing import ProgramBuilder, programs
from tests.traced import traced

FAR = Links(Link(1e9, 0.25))


def held(program: Program, pieces: Pieces, stages: tuple[int, ...]) -> list[int]:
    """Bytes by stage, of the programs that they are."""
    count = max(stages) + 1
    calls = {c: s for p, s in zip(pieces.pieces, stages, strict=True) for c in p.calls}
    found = [_live_bytes(part) for part in stage_programs(program, calls, count)]
    for weight in pieces.weights:
        for stage in {stages[u] for u in weight.users}:
            found[stage] += weight.bytes
    return found


def splits(pieces: Pieces, count: int) -> list[tuple[int, ...]]:
    """All into so many full stages, in an order in which they can run."""
    edges = [(t.maker, u) for t in pieces.tensors for u in t.users if t.maker >= 0 and u < len(pieces)]
    return [
        s
        for s in itertools.product(range(count), repeat=len(pieces))
        if set(s) == set(range(count)) and all(s[a] <= s[b] for a, b in edges)
    ]


def side_branches() -> Program:
    """Two branches of large results that are made narrow, one after the other, and added."""
    b = ProgramBuilder()
    x = b.input((2, 8))
    narrow = []
    for _ in range(2):
        wide = b.call("aten.relu", b.call("aten.linear", x, b.weight((64, 8))))
        narrow.append(b.call("aten.tanh", b.call("aten.linear", wide, b.weight((8, 64)))))
    return b.finish(b.call("aten.add.Tensor", *narrow))


class TestAgainstPrograms:
    @given(programs(max_ops=6), st.integers(2, 3))
    def test_no_stage_needs_less(self, program: Program, count: int) -> None:
        pieces = pieces_of(program, dict.fromkeys(program.calls(), 1.0))
        if not count <= len(pieces) <= 6:
            return
        row = tuple(Device(f"cpu:{i}") for i in range(count))
        problem = Problem(pieces, row, FAR, live=live_of(program, pieces))
        for stages in splits(pieces, count)[:20]:
            known, true = problem.held_bytes(stages), held(program, pieces, stages)
            assert all(k <= t for k, t in zip(known, true, strict=True))

    @pytest.mark.parametrize("name", ["unet", "bert", "llama"])
    def test_in_order_it_is_all_they_need(self, name: str) -> None:
        program = traced(name, True)
        pieces = pieces_of(program, dict.fromkeys(program.calls(), 1.0))
        stages = tuple(3 * i // len(pieces) for i in range(len(pieces)))
        row = tuple(Device(f"cpu:{i}") for i in range(3))
        problem = Problem(pieces, row, FAR, live=live_of(program, pieces))
        assert problem.held_bytes(stages) == held(program, pieces, stages)

    def test_a_size_keeps_nothing_alive(self) -> None:
        """Stages read sizes of what is at hand."""
        b = ProgramBuilder()
        x = b.input((b.batch, 8))
        y = b.call("aten.relu", x)
        z = b.call("aten.sum.dim_IntList", b.call("aten.tanh", y), [1])
        rows = b.call("aten.sym_size.int", y, 0)
        program = b.finish(b.call("aten.exp", b.call("aten.reshape", b.call("aten.sin", z), [rows, 1])))
        pieces = pieces_of(program, dict.fromkeys(program.calls(), 1.0))
        alive = live_of(program, pieces).alive
        maker = next(i for i, p in enumerate(pieces.pieces) if p.calls[0] is y)
        assert np.nonzero(alive[:, maker])[0].tolist() == [maker, maker + 1]

    def test_without_it_weights_are_all_that_is_known(self) -> None:
        program = side_branches()
        pieces = pieces_of(program, dict.fromkeys(program.calls(), 1.0))
        problem = Problem(pieces, (Device("cpu:0"),), FAR)
        assert problem.held_bytes((0,) * len(pieces)) == problem.weight_bytes((0,) * len(pieces))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to seven pieces over two or three devices, of which some have little room."""
    program = draw(st.one_of(programs(max_ops=7), st.builds(side_branches)))
    cost = {n.name: float(draw(st.integers(0, 5))) for n in program.calls()}
    pieces = pieces_of(program, seconds_of(program, cost))
    live = live_of(program, pieces)
    count = draw(st.integers(2, 3))
    whole = Problem(pieces, (Device("cpu:0"),), FAR, live=live).held_bytes((0,) * len(pieces))[0]
    rooms = [draw(st.one_of(st.none(), st.integers(1, max(1, whole)))) for _ in range(count)]
    row = tuple(Device(f"cpu:{i}", float(draw(st.integers(1, 2))), rooms[i]) for i in range(count))
    return Problem(pieces, row, FAR, live=live)


def best_of(problem: Problem) -> float:
    """The least value of all splits that fit; infinite if none does."""
    rooms = [math.inf if d.memory is None else d.memory for d in problem.devices]
    return min(
        (
            problem.value(s)
            for s in splits(problem.pieces, len(rooms))
            if all(h <= r for h, r in zip(problem.held_bytes(s), rooms, strict=True))
        ),
        default=math.inf,
    )


def is_small(problem: Problem) -> bool:
    return len(problem.devices) <= len(problem.pieces) <= 7


class TestSearches:
    @given(problems())
    def test_places(self, problem: Problem) -> None:
        if not is_small(problem):
            return
        every = all_places(problem, range(len(problem.pieces)), 2000)
        assert every is not None
        best, found = best_of(problem), split_in_order(problem, every)
        assert (math.inf if found is None else found.value) == pytest.approx(best)
        ordered = split_in_order(problem, order_places(problem, 100))
        assert ordered is None or ordered.value >= best * (1 - 1e-9)

    @given(problems())
    def test_the_integer_program(self, problem: Problem) -> None:
        if not is_small(problem):
            return
        best, found = best_of(problem), solve(problem, best=math.inf, seconds=60)
        assert (math.inf if found.split is None else found.split.value) == pytest.approx(best, rel=1e-3)
        assert found.bound <= best * (1 + 1e-9)

    @given(problems())
    def test_windows(self, problem: Problem) -> None:
        if not is_small(problem):
            return
        best, lattice = best_of(problem), Lattice(problem.pieces)
        target = best if best < math.inf else 100.0
        found = lattice.split(problem, target, most=10_000)
        assert found.done
        assert (found.split is not None) == (best < math.inf)
        assert lattice.split(problem, target * 0.99, most=10_000).split is None

    @pytest.mark.parametrize("room", [4600, 5000, 5400, 5800, 6200, 7000])
    def test_where_activations_decide(self, room: int) -> None:
        program = side_branches()
        pieces = pieces_of(program, seconds_of(program, {n.name: 1.0 for n in program.calls()}))
        row = (Device("cpu:0", memory=room), Device("cpu:1", 2.0, memory=room))
        problem = Problem(pieces, row, FAR, live=live_of(program, pieces))
        best, every = best_of(problem), all_places(problem, range(len(pieces)), 2000)
        assert every is not None
        found = [split_in_order(problem, every), solve(problem, best=math.inf, seconds=60).split]
        assert [math.inf if f is None else f.value for f in found] == pytest.approx([best] * 2, rel=1e-3)

    def test_sets_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from fxopt.passes.partition import _windows as windows_module

        program = side_branches()
        pieces = pieces_of(program, seconds_of(program, {n.name: 1.0 for n in program.calls()}))
        row = (Device("cpu:0", memory=6000), Device("cpu:1", memory=6000))
        problem = Problem(pieces, row, FAR, live=live_of(program, pieces))
        monkeypatch.setattr(windows_module, "_BLOCK", 1)
        found = Lattice(pieces).split(problem, best_of(problem), most=10_000)
        assert found.split is not None
        assert found.split.value == pytest.approx(best_of(problem))


class TestPlans:
    @given(programs(max_ops=6), st.data())
    def test_all_that_fits_is_looked_at(self, program: Program, data: st.DataObject) -> None:
        cost = {n.name: float(data.draw(st.integers(1, 5))) for n in program.calls()}
        pieces = pieces_of(program, seconds_of(program, cost))
        if not 2 <= len(pieces) <= 6:
            return
        whole = held(program, pieces, (0,) * len(pieces))[0]
        rooms = [data.draw(st.integers(1, whole + 1)) for _ in range(2)]
        devices = [Device(f"cpu:{i}", memory=room) for i, room in enumerate(rooms)]
        best = math.inf
        for count, order in itertools.product((1, 2), ((0, 1), (1, 0))):
            row = tuple(devices[i] for i in order[:count])
            for stages in splits(pieces, count):
                if all(h <= (d.memory or 0) for h, d in zip(held(program, pieces, stages), row, strict=True)):
                    best = min(best, Problem(pieces, row, FAR).value(stages))
        if best == math.inf:
            with pytest.raises(InputError, match=r"no split fits|no split was found"):
                partition(program, devices, cost=cost, links=FAR.usual)
            return
        plan = partition(program, devices, cost=cost, links=FAR.usual)
        assert plan.lower_bound <= best * (1 + 1e-9)
        assert plan.value >= best * (1 - 1e-9)
        assert all(m <= rooms[int(s.device[-1])] for m, s in zip(plan.memory, plan.stages, strict=True))

    @pytest.mark.parametrize(
        "name", ["tied_encoder", "bert", "gpt2", pytest.param("vit", marks=pytest.mark.slow)]
    )
    def test_models(self, name: str) -> None:
        """Each device has half of what all takes on one."""
        program = traced(name, True)
        room = partition(program, ["cpu:0"]).memory[0] // 2
        devices = [Device(f"cpu:{i}", v, room) for i, v in enumerate((1.0, 0.5, 1.0, 2.0))]
        plan = partition(program, devices, links=Link(1e10, 1e-5), time_limit=60)
        assert plan.gap < 0.01
        assert all(m <= room for m in plan.memory)

    def test_activations_that_no_stage_has_room_for(self) -> None:
        program = traced("digits", True)
        plan = partition(program, ["cpu:0"])
        devices = [Device(f"cpu:{i}", memory=plan.memory[0] // 2) for i in range(4)]
        with pytest.raises(InputError, match="no split fits: the weights have 153,832 bytes"):
            partition(program, devices)

    def test_a_weight_that_no_device_has_room_for_needs_no_search(self) -> None:
        devices = [Device(f"cpu:{i}", memory=2000) for i in range(5)]
        with pytest.raises(InputError, match="no split fits: the weights have 8,192 bytes"):
            partition(side_branches(), devices, time_limit=1e-9)

    def test_what_the_search_had_no_time_for_is_not_called_impossible(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = side_branches()
        monkeypatch.setattr(search_module, "_ideals", lambda *_: None)
        monkeypatch.setattr(search_module, "_in_order", lambda *_: None)
        with pytest.raises(
            InputError, match="no split was found in the time that the search has; the weights"
        ):
            partition(program, [Device(f"cpu:{i}", memory=2100) for i in range(2)], time_limit=1e-9)
