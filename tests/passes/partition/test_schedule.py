"""Schedules of one input over devices that work side by side: against every schedule, of small programs."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxopt.passes.partition import Device, Link
from fxopt.passes.partition import _schedule as schedule_module
from fxopt.passes.partition._devices import Links
from fxopt.passes.partition._makespan import least_makespan
from fxopt.passes.partition._pieces import Pieces, pieces_of
from fxopt.passes.partition._schedule import Schedule, Work, scheduled
from fxopt.passes.partition._times import seconds_of
from fxopt.program import Program
from fxopt.testing import ProgramBuilder, programs
from tests.traced import traced

FREE = Links(Link(1e15, 0.0))


def orders(pieces: Pieces) -> list[tuple[int, ...]]:
    """All in which the pieces can run."""
    edges = [(t.maker, u) for t in pieces.tensors for u in t.users if t.maker >= 0 and u < len(pieces)]
    every = itertools.permutations(range(len(pieces)))
    return [o for o in every if all(o.index(a) < o.index(b) for a, b in edges)]


def makespan(work: Work, order: tuple[int, ...], devices: tuple[int, ...]) -> float:
    """As the documentation says, term by term."""
    free: dict[int, float] = {}
    ends: dict[int, float] = {}
    for piece in order:
        here = devices[piece]
        start = free.get(here, 0.0)
        for maker in {t.maker for t in work.pieces.tensors if piece in t.users and t.maker >= 0}:
            size = sum(t.bytes for t in work.pieces.tensors if t.maker == maker and piece in t.users)
            there = work.devices[devices[maker]].name
            link = work.links.between(there, work.devices[here].name)
            sent = 0.0 if devices[maker] == here else link.latency + size / link.bandwidth
            start = max(start, ends[maker] + sent)
        ends[piece] = free[here] = start + work.pieces.seconds[piece] / work.devices[here].speed
    return max(ends.values())


def has_room(work: Work, devices: tuple[int, ...]) -> bool:
    for number, device in enumerate(work.devices):
        held = sum(w.bytes for w in work.pieces.weights if number in {devices[u] for u in w.users})
        if device.memory is not None and held > device.memory:
            return False
    return True


def every_value(work: Work) -> list[float]:
    """Of each schedule in which devices never wait without need, and weights have room."""
    count = len(work.pieces)
    right = [
        d
        for d in itertools.product(range(len(work.devices)), repeat=count)
        if has_room(work, d) and all(map(work.allowed, range(count), d))
    ]
    return [makespan(work, o, d) for o in orders(work.pieces) for d in right]


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Up to four pieces over two or three unlike devices."""
    program: Program = draw(programs(max_ops=6))
    cost = {n.name: float(draw(st.integers(0, 5))) for n in program.calls()}
    parts = pieces_of(program, seconds_of(program, cost))
    total = max(1, sum(w.bytes for w in parts.weights))
    row = tuple(
        Device(
            f"cpu:{i}",
            draw(st.sampled_from([0.5, 1.0, 2.0])),
            draw(st.one_of(st.none(), st.integers(1, total))),
        )
        for i in range(draw(st.integers(1, 3)))
    )
    links = {
        (a.name, b.name): Link(draw(st.sampled_from([1e9, 100.0])), draw(st.sampled_from([0.0, 0.5, 2.0])))
        for a, b in itertools.combinations(row, 2)
    }
    names = st.sets(st.sampled_from([d.name for d in row]), max_size=len(row) - 1)
    barred = {i: frozenset(draw(names)) for i in range(len(parts))}
    return Work(parts, row, Links(named=links), barred)


def best_of(work: Work) -> tuple[Schedule, bool] | None:
    """What is found from the first devices that fit; None where none does."""
    count = len(work.pieces)
    firsts = itertools.product(range(len(work.devices)), repeat=count)
    first = next((d for d in firsts if has_room(work, d) and all(map(work.allowed, range(count), d))), None)
    if first is None:
        return None
    bound, ends = least_makespan(work)
    return scheduled(work, first, ends.tolist(), bound, deadline=time.monotonic() + 60)


class TestAgainstEverySchedule:
    @given(works())
    def test_none_is_better_and_none_is_under_the_bound(self, work: Work) -> None:
        if not 0 < len(work.pieces) <= 4:
            return
        found = best_of(work)
        bound, ends = least_makespan(work)
        every = every_value(work)
        assert (found is None) == (not every)
        if found is None:
            return
        schedule, proved = found
        assert bound <= min(every) * (1 + 1e-9)
        assert proved or schedule.value <= bound * (1 + 1e-3)
        assert schedule.value == pytest.approx(min(every), rel=1e-3, abs=1e-9)
        assert schedule.value == pytest.approx(makespan(work, schedule.order, schedule.device_of))
        assert has_room(work, schedule.device_of)
        assert all(map(work.allowed, range(len(work.pieces)), schedule.device_of))
        assert schedule.order in orders(work.pieces)
        assert len(ends) == len(work.pieces)


def test_what_is_at_the_bound_is_not_searched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    program = traced("unet", True)
    parts = pieces_of(program, seconds_of(program))
    work = Work(parts, (Device("cpu:0"), Device("cpu:1")), Links(Link(latency=1.0)), {})
    bound, ends = least_makespan(work)
    monkeypatch.setattr(schedule_module, "_climbed", lambda *_: pytest.fail("a move was tried"))
    found, _ = scheduled(work, [0] * len(parts), ends.tolist(), bound, deadline=time.monotonic() + 60)
    assert found.value == pytest.approx(bound)


def work_of(program: Program, cost: dict[str, float], link: Link, devices: int = 2) -> Work:
    parts = pieces_of(program, seconds_of(program, cost))
    return Work(parts, tuple(Device(f"cpu:{i}") for i in range(devices)), Links(link), {})


def test_what_is_far_off_may_have_been_sent_where_little_is() -> None:
    """Two long calls make little; what is made of both is large, and no reason to have both on its device."""
    b = ProgramBuilder()
    x = b.input((2, 8))
    narrow = [
        b.call("aten.sum.dim_IntList", call, [0, 1])
        for call in (b.call("aten.exp", x), b.call("aten.sin", x))
    ]
    wide = b.call("aten.relu", b.call("aten.add.Tensor", x, b.call("aten.add.Tensor", *narrow)))
    program = b.finish(b.call("aten.tanh", wide))
    cost = {n.name: 0.1 for n in program.calls()} | {n.name: 10.0 for n in narrow}
    work = work_of(program, cost, Link(8.0, 0.0))
    bound, ends = least_makespan(work)
    found, _ = scheduled(work, [0] * len(work.pieces), ends.tolist(), bound, deadline=time.monotonic() + 60)
    assert bound <= found.value * (1 + 1e-9)
    assert found.value < 12.0


def test_every_schedule_is_tried_once() -> None:
    """Six calls that need nothing of one another have 720 orders; in those that count pieces begin one after the other."""
    b = ProgramBuilder()
    x = b.input((2, 8))
    program = b.finish(*(b.call("aten.exp", x) for _ in range(6)))
    cost = {n.name: float(3 + k % 2) for k, n in enumerate(program.calls())}
    work = work_of(program, cost, Link(1e12, 0.0))
    _, ends = least_makespan(work)
    found, proved = scheduled(work, [0] * 6, ends.tolist(), 0.0, deadline=time.monotonic() + 60)
    assert (found.value, proved) == (11.0, True)


def test_nothing_is_moved_to_where_it_has_no_room() -> None:
    b = ProgramBuilder()
    x = b.input((2, 8))
    program = b.finish(*(b.call("aten.linear", x, b.weight((8, 8))) for _ in range(12)))
    parts = pieces_of(program, seconds_of(program, {n.name: 1.0 for n in program.calls()}))
    work = Work(parts, (Device("cpu:0"), Device("cpu:1", memory=2 * 8 * 8 * 4)), Links(Link(1e15, 0.0)), {})
    _, ends = least_makespan(work)
    found, _ = scheduled(work, [0] * 12, ends.tolist(), 0.0, deadline=time.monotonic() + 60)
    assert has_room(work, found.device_of)
    assert found.value == 10.0
