"""What a plan says of itself."""

import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.passes.partition import Device, Link, PartitionPlan, Stage, partition
from fxopt.testing import ProgramBuilder
from tests.passes.partition.test_side_by_side import DEVICES, PROGRAM, planned


def test_what_is_sent_counts_once_for_one_input():
    """Each of the two stages pays for it."""
    stages = (Stage("cpu:0", ("a",), 1.0, 0.5, 8, 4), Stage("cpu:1", ("b",), 2.0, 0.5, 8, 0))
    plan = PartitionPlan(stages, 2.5, 2.5, "optimal")
    assert plan.latency == pytest.approx(3.5)


def test_ways_are_listed_where_there_were_several():
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))).eval()
    program = trace(net, (torch.zeros(2, 8),), dynamic_shapes=({0: "batch"},))
    one = partition(program, DEVICES, replicas="auto")
    assert len(one.tried) > 1 and "replicas" in one.table()
    given = partition(program, DEVICES[:1], replicas="auto")
    assert len(given.tried) == 1 and given.table().count("\n") < one.table().count("\n") - 1


def test_nothing_to_compute_takes_no_time():
    b = ProgramBuilder()
    plan = partition(b.finish(b.input((2, 3))), DEVICES)
    assert (plan.value, plan.lower_bound, plan.proof) == (0.0, 0.0, "optimal")


def test_stages_side_by_side_hold_their_own_weights():
    """Linear layers of 8 x 8 and a bias: the stem, a branch with the head, and two layers of the other branch."""
    plan, layer = planned(), 4 * (8 * 8 + 8)
    assert [s.weights for s in plan.stages] == [layer, 2 * layer, 2 * layer, layer]
    assert all(s.memory > s.weights for s in plan.stages)
    assert sum(s.weights for s in plan.stages) == sum(t.numel() * 4 for t in PROGRAM.weights.values())


def test_a_size_among_the_results_is_passed_on():
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> tuple[int, torch.Tensor]:
            return x.shape[0], self.two(self.one(x))

    program = trace(Sized().eval(), (torch.zeros(2, 8),), dynamic_shapes=({0: "batch"},))
    cost = {n.name: 1.0 for n in program.calls()}
    plan = partition(program, [Device("cpu:0"), Device("cpu:1")], cost=cost, links=Link(1e12, 0.0))
    assert [sorted(p.weights) for p in plan.programs()] == [
        ["one.bias", "one.weight"],
        ["two.bias", "two.weight"],
    ]
    size, y = plan.run(torch.ones(5, 8))  # type: ignore[misc]
    assert (size, y.shape) == (5, (5, 8))
