"""What is minimised, what bounds it, and what a device may not run: against trying everything."""

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxopt.errors import InputError
from fxopt.frontend import trace
from fxopt.ops import op_key
from fxopt.passes.partition import Device, Link, PartitionPlan, partition
from fxopt.passes.partition._devices import Links
from fxopt.passes.partition._pieces import Pieces, pieces_of
from fxopt.passes.partition._problem import Objective
from fxopt.passes.partition._schedule import Work
from fxopt.passes.partition._times import seconds_of
from fxopt.passes.partition._use import _planned
from fxopt.program import Program
from fxopt.testing import programs
from tests.passes.partition.test_schedule import every_value
from tests.traced import inputs, same_bits, traced

NEAR = Link(bandwidth=1e12, latency=0.0)
CPUS = [Device(f"cpu:{i}") for i in range(4)]


def held(pieces: Pieces, stages: tuple[int, ...], stage: int) -> int:
    """Bytes of weights, each once."""
    return sum({w.node: w.bytes for w in pieces.weights for u in w.users if stages[u] == stage}.values())


def crossing(pieces: Pieces, stages: tuple[int, ...], boundary: int, last: int) -> int:
    """Bytes that go from stage `boundary` to the next."""
    total = 0
    for tensor in pieces.tensors:
        made = stages[tensor.maker] if tensor.maker >= 0 else 0
        read = max(stages[u] if u < len(stages) else last for u in tensor.users)
        total += tensor.bytes if made <= boundary < read else 0
    return total


def value(
    objective: Objective, pieces: Pieces, row: tuple[Device, ...], links: Links, stages: tuple[int, ...]
) -> float:
    """What is minimised, term by term as the documentation says."""
    count = len(row)
    computing = [0.0] * count
    for piece, stage in zip(pieces.pieces, stages, strict=True):
        computing[stage] += piece.seconds / row[stage].speed
    between = [
        links.between(row[b].name, row[b + 1].name).seconds(crossing(pieces, stages, b, count - 1))
        for b in range(count - 1)
    ]
    if objective == "memory":
        return max(held(pieces, stages, k) for k in range(count))
    if objective == "latency":
        return sum(computing) + sum(between)
    padded = [0.0, *between, 0.0]
    return max(computing[k] + padded[k] + padded[k + 1] for k in range(count))


def fits(pieces: Pieces, row: tuple[Device, ...], stages: tuple[int, ...]) -> bool:
    """Whether stages are in order and full, weights have room, and each device has the ops."""
    edges = [(t.maker, u) for t in pieces.tensors for u in t.users if t.maker >= 0 and u < len(pieces)]
    if set(stages) != set(range(len(row))) or any(stages[a] > stages[b] for a, b in edges):
        return False
    ops = [{op_key(c.target) for c in p.calls} for p in pieces.pieces]
    if any(op in row[s].lacks for s, names in zip(stages, ops, strict=True) for op in names):
        return False
    return all(d.memory is None or held(pieces, stages, k) <= d.memory for k, d in enumerate(row))


def smallest(objective: Objective, pieces: Pieces, devices: list[Device], links: Links) -> float:
    """The least value over every row of devices and every assignment; infinite if none fits."""
    return min(
        (
            value(objective, pieces, row, links, stages)
            for length in range(1, len(devices) + 1)
            for row in itertools.permutations(devices, length)
            for stages in itertools.product(range(length), repeat=len(pieces))
            if fits(pieces, row, stages)
        ),
        default=float("inf"),
    )


def barred_of(pieces: Pieces, devices: list[Device]) -> dict[int, frozenset[str]]:
    """Where ops lack, by piece."""
    ops = [{op_key(c.target) for c in p.calls} for p in pieces.pieces]
    return {i: frozenset(d.name for d in devices if own & set(d.lacks)) for i, own in enumerate(ops)}


@st.composite
def device_lists(draw: st.DrawFn, ops: list[str]) -> list[Device]:
    """Up to three, of several speeds, some of which lack an op of the program."""
    return [
        Device(
            f"cpu:{i}",
            draw(st.sampled_from([0.5, 1.0, 2.0])),
            lacks=tuple(draw(st.sets(st.sampled_from(ops), max_size=1))),
        )
        for i in range(draw(st.integers(1, 3)))
    ]


@st.composite
def links_between(draw: st.DrawFn, devices: list[Device]) -> Link | dict[tuple[str, str], Link]:
    """One for all, or one for each pair."""

    def link() -> Link:
        return Link(draw(st.sampled_from([1e9, 100.0])), draw(st.sampled_from([0.0, 0.5])))

    if draw(st.booleans()):
        return link()
    return {(a.name, b.name): link() for a, b in itertools.combinations(devices, 2)}


class TestCertificates:
    @given(programs(max_ops=5), st.sampled_from(get_args(Objective)), st.data())
    def test_nothing_is_better_and_the_bound_holds(
        self, program: Program, objective: Objective, data: st.DataObject
    ) -> None:
        cost = {n.name: float(data.draw(st.integers(0, 5))) for n in program.calls()}
        pieces = pieces_of(program, seconds_of(program, cost))
        if not 0 < len(pieces) <= 6:
            return
        devices = data.draw(device_lists(sorted({op_key(c.target) for p in pieces.pieces for c in p.calls})))
        links = data.draw(links_between(devices))
        between = Links(links) if isinstance(links, Link) else Links(named=links)
        if objective == "latency" and len(pieces) > 4:
            return
        best = smallest(objective, pieces, devices, between)
        if objective == "latency":
            barred = barred_of(pieces, devices)
            best = min([best, *every_value(Work(pieces, tuple(devices), between, barred))])
        if best == float("inf"):
            with pytest.raises(InputError, match=r"has its op|no split fits"):
                partition(program, devices, objective=objective, cost=cost, links=links)
            return
        plan = partition(program, devices, objective=objective, cost=cost, links=links)
        assert plan.objective == objective
        assert plan.value == pytest.approx(best, rel=1e-3, abs=1e-9)
        assert plan.lower_bound <= best * (1 + 1e-9) + 1e-9
        if plan.side_by_side:
            return
        row = tuple(next(d for d in devices if d.name == s.device) for s in plan.stages)
        stage_of = {name: k for k, s in enumerate(plan.stages) for name in s.calls}
        stages = tuple(stage_of[p.calls[0].name] for p in pieces.pieces)
        assert fits(pieces, row, stages)
        assert value(objective, pieces, row, between, stages) == pytest.approx(plan.value)

    @pytest.mark.parametrize("objective", get_args(Objective))
    @pytest.mark.parametrize("name", ["unet", "bert"])
    def test_models(self, name: str, objective: Objective) -> None:
        """Stages in a row; for those side by side see test_side_by_side."""
        program = traced(name, True)
        devices = (Device("cpu:0"), Device("cpu:1", speed=0.5), Device("cpu:2"))
        links = Links(NEAR)
        plan = _planned(program, devices, objective, links, None, None, 5.0)
        assert plan.lower_bound <= plan.value * (1 + 1e-9)
        assert plan.gap < 0.01
        flat: list[object] = list(inputs(name, True))
        for stage in plan.programs():
            flat = stage.run_flat(flat)  # type: ignore[arg-type]
        assert same_bits(program.run_flat(inputs(name, True)), flat)


def chain(widths: list[int]) -> Program:
    """Linear layers in a row, of such widths."""
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    return trace(nn.Sequential(*layers).eval(), (torch.zeros(2, widths[0]),))


class TestLatency:
    def test_all_on_the_fastest_device(self) -> None:
        plan = partition(chain([8] * 5), [Device("cpu:0"), Device("cpu:1", speed=2.0)], objective="latency")
        assert [(s.device, len(s.calls)) for s in plan.stages] == [("cpu:1", 4)]
        assert plan.proof == "optimal"

    def test_what_does_not_fit_goes_over_the_cheapest_cut(self) -> None:
        program = chain([8, 8, 2, 8, 8])
        cost = {n.name: 1.0 for n in program.calls()}
        memory = 4 * (8 * 8 + 8 * 2) + 4 * 2 * (8 + 8 + 2)
        devices = [Device("cpu:0", memory=memory), Device("cpu:1", memory=memory)]
        plan = partition(program, devices, objective="latency", cost=cost, links=Link(1000.0, 0.5))
        assert [s.calls for s in plan.stages] == [("linear", "linear_1"), ("linear_2", "linear_3")]
        assert plan.latency == plan.value == pytest.approx(4.0 + 0.5 + 2 * 2 * 4 / 1000)
        assert "latency 4516.000 ms; no split is under" in plan.table()


class TestMemory:
    def test_weights_are_shared_out(self) -> None:
        program = chain([8] * 5)
        plan = partition(program, CPUS[:2], objective="memory", links=Link(latency=100.0))
        assert [s.calls for s in plan.stages] == [("linear", "linear_1"), ("linear_2", "linear_3")]
        assert [s.weights for s in plan.stages] == [512, 512]
        assert (plan.value, plan.lower_bound, plan.proof) == (512, 512, "optimal")
        assert "most weights 512 B; no split is under 512 B (optimal), the gap is 0.00%" in plan.table()

    def test_a_tied_weight_counts_where_it_is_read(self) -> None:
        layer = nn.Linear(8, 8, bias=False)
        net = nn.Sequential(layer, nn.Linear(8, 8, bias=False), layer).eval()
        plan = partition(trace(net, (torch.zeros(2, 8),)), CPUS[:3], objective="memory")
        assert plan.value == 256
        assert plan.gap == 0.0


class TestLacks:
    def test_an_op_goes_where_it_can_run(self) -> None:
        net = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)).eval()
        program = trace(net, (torch.zeros(2, 8),))
        devices = [Device("cpu:0", speed=100.0, lacks=("aten.gelu.*",)), Device("cpu:1")]
        plan = partition(program, devices, links=NEAR, cost={"linear": 1.0, "gelu": 1.0, "linear_1": 5.0})
        assert [(s.device, s.calls) for s in plan.stages] == [
            ("cpu:1", ("linear", "gelu")),
            ("cpu:0", ("linear_1",)),
        ]

    def test_an_op_that_no_device_has_is_one_line(self) -> None:
        devices = [Device("cpu:0", lacks=("aten.linear.default",)), Device("cpu:1", lacks=("aten.lin*",))]
        with pytest.raises(
            InputError, match=r"no device that may run linear \(aten\.linear\.default\) has its op"
        ):
            partition(chain([8, 8]), devices)

    def test_nor_one_where_it_is_pinned_to(self) -> None:
        devices = [Device("cpu:0", lacks=("aten.linear.*",)), Device("cpu:1")]
        with pytest.raises(InputError, match="no device that may run linear"):
            partition(chain([8, 8]), devices, pinned={"0": "cpu:0"})

    def test_it_is_written_with_the_device(self) -> None:
        device = Device("cpu:0", lacks=("aten.lstm.*",))
        assert Device.from_json(device.to_json()) == device


def test_what_is_no_objective_is_one_line() -> None:
    with pytest.raises(InputError, match="no objective 'speed'; they are throughput, latency, memory"):
        partition(chain([8, 8]), CPUS, objective="speed")  # type: ignore[arg-type]


def test_a_plan_of_before_is_read() -> None:
    plan = partition(chain([8, 8]), CPUS[:1])
    data = {k: v for k, v in plan.to_json().items() if k != "objective"}
    assert PartitionPlan.from_json(data).objective == "throughput"
