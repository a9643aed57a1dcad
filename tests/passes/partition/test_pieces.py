"""What stays together, in what order, and what an order of it costs."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxopt.frontend import trace
from fxopt.passes.partition import Device, Link, partition
from fxopt.passes.partition._devices import Links
from fxopt.passes.partition._order import split_in_order
from fxopt.passes.partition._pieces import Pieces, pieces_of, renumbered
from fxopt.passes.partition._places import order_places
from fxopt.passes.partition._problem import OBJECTIVES, Problem
from fxopt.passes.partition._rows import _Stages, split_over_kinds
from fxopt.program import Program
from fxopt.testing import ProgramBuilder, programs
from tests.passes.partition.test_objectives import chain, crossing, held, value

DEVICES = (Device("cpu:0"), Device("cpu:1", speed=2.0), Device("cpu:2", speed=0.5))
LINKS = Links(Link(100.0, 0.5), {("cpu:0", "cpu:1"): Link(10.0, 0.25)})


def names_of(program: Program) -> list[list[str]]:
    pieces = pieces_of(program, dict.fromkeys(program.calls(), 0.0)).pieces
    return [[c.name for c in p.calls] for p in pieces]


def test_what_waits_for_a_number_comes_after_what_it_reads() -> None:
    b = ProgramBuilder()
    x, i = b.input((3, 4)), b.input((), dtype=torch.int64, low=0, high=5)
    number = b.call("aten._local_scalar_dense", i)
    relu = b.call("aten.relu", x)
    both = b.call("aten.add.Tensor", b.call("aten.mul.Scalar", relu, number), b.call("aten.exp", x))
    assert names_of(b.finish(both)) == [["relu"], ["_local_scalar_dense", "mul"], ["exp"], ["add"]]


def test_sizes_are_no_pieces_and_hold_nothing_together() -> None:
    class Sized(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = (x * (x.shape[0] / 3)).exp().reshape(2 * x.shape[0], 2)
            return y.sin() * (x.shape[0] / 3)

    program = trace(Sized().eval(), (torch.zeros(4, 4),), dynamic_shapes=({0: "batch"},))
    assert names_of(program) == [["mul"], ["exp"], ["reshape"], ["sin"], ["mul_2"]]


def test_several_results_stay_with_what_makes_them() -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = x.exp().chunk(2)
            return a.sin() + b.cos()

    assert names_of(trace(Halves().eval(), (torch.zeros(4, 4),))) == [
        ["exp"], ["chunk", "getitem", "getitem_1"], ["sin"], ["cos"], ["add"],
    ]  # fmt: skip


@given(programs(max_ops=6), st.data())
def test_what_a_split_costs_term_by_term(program: Program, data: st.DataObject) -> None:
    cost = {n: float(data.draw(st.integers(0, 5))) for n in program.calls()}
    pieces = pieces_of(program, cost)
    if not len(pieces):
        return
    stages = st.lists(st.integers(0, 2), min_size=len(pieces), max_size=len(pieces))
    chosen = tuple(sorted(data.draw(stages)))
    for objective in OBJECTIVES:
        problem = Problem(pieces, DEVICES, LINKS, objective=objective)
        assert abs(problem.value(chosen) - value(objective, pieces, DEVICES, LINKS, chosen)) < 1e-9
    assert problem.crossing_bytes(chosen) == [crossing(pieces, chosen, b, 2) for b in range(2)]
    assert problem.weight_bytes(chosen) == [held(pieces, chosen, k) for k in range(3)]


def pieces_of_chain(widths: list[int], seconds: float = 1.0) -> Pieces:
    program = chain(widths)
    return pieces_of(program, dict.fromkeys(program.calls(), seconds))


def test_coarser_pieces_keep_what_flows_between_them() -> None:
    pieces = pieces_of_chain([8] * 5)
    assert renumbered(pieces, [[i] for i in range(4)]) == pieces
    coarse = renumbered(pieces, [[0, 1], [2, 3]])
    assert [(t.maker, t.users) for t in coarse.tensors] == [(-1, (0,)), (0, (1,)), (1, (2,))]
    assert [(w.maker, w.users) for w in coarse.weights] == [(-1, (0,)), (-1, (0,)), (-1, (1,)), (-1, (1,))]
    assert coarse.seconds == [2.0, 2.0]


def test_room_is_what_activations_leave() -> None:
    small = Device("cpu:0", memory=600)
    problem = Problem(pieces_of_chain([8] * 5), (small, DEVICES[1]), LINKS, reserved={"cpu:1": 5})
    assert [problem.room(0), problem.room(1)] == [600, None]
    kept = Problem(problem.pieces, (small,), LINKS, reserved={"cpu:0": 100})
    assert kept.room(0) == 500


def test_what_fits_but_for_the_last_piece_does_not_fit() -> None:
    problem = Problem(pieces_of_chain([8] * 5), (Device("cpu:0", memory=3 * 256),), LINKS)
    assert split_in_order(problem, order_places(problem, 100)) is None
    assert split_over_kinds(problem, [list(problem.devices)], order_places(problem, 100)) is None


def test_what_is_worse_than_what_is_known_is_not_sought() -> None:
    devices = [Device("cpu:0"), Device("cpu:1")]
    problem = Problem(pieces_of_chain([8] * 5), tuple(devices), Links(Link(1e12, 0.0)))
    places = order_places(problem, 100)
    for known, found in ((2.0, 2.0), (2.1, 2.0), (1.9, None)):
        split = split_over_kinds(problem, [devices], places, known=known)
        assert (None if split is None else round(split[1].value, 6)) == found


def test_stages_are_found_by_where_they_end() -> None:
    nowhere = float("inf")
    costs = torch.tensor([[nowhere, 3.0, nowhere, 5.0], [nowhere, nowhere, nowhere, 4.0]]).double().numpy()
    stages = _Stages.under(costs, 5.0)
    assert [stages.of(end) for end in range(4)] == [slice(0, 0), slice(0, 1), slice(0, 0), slice(1, 3)]
    assert stages.starts.tolist() == [0, 0, 1] and stages.costs.tolist() == [3.0, 5.0, 4.0]
    assert _Stages.under(costs, 4.0).costs.tolist() == [3.0, 4.0]


def test_without_any_time_an_order_is_cut_once_at_the_ends() -> None:
    free = Problem(pieces_of_chain([8] * 10, 0.0), DEVICES, LINKS)
    assert order_places(free, 4).inside.sum(1).tolist() == [0, 9]


def test_of_equal_cuts_the_first_of_each_share_of_the_time() -> None:
    problem = Problem(pieces_of_chain([8] * 10), DEVICES, LINKS)
    assert order_places(problem, 10).inside.sum(1).tolist() == list(range(10))
    assert order_places(problem, 9).inside.sum(1).tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert order_places(problem, 4).inside.sum(1).tolist() == [0, 3, 6, 9]


def test_a_weight_of_two_layers_counts_once_in_a_stage() -> None:
    layer = nn.Linear(8, 8, bias=False)
    net = nn.Sequential(layer, nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False), layer).eval()
    program = trace(net, (torch.zeros(2, 8),))
    pieces = pieces_of(program, dict.fromkeys(program.calls(), 1.0))
    for objective, memory in (("memory", None), ("throughput", 384)):
        problem = Problem(
            pieces, (Device("cpu:0", memory=memory), Device("cpu:1")), LINKS, objective=objective
        )  # type: ignore[arg-type]
        split = split_in_order(problem, order_places(problem, 100))
        assert split is not None
        assert problem.weight_bytes(split.stage_of) == [held(pieces, split.stage_of, k) for k in range(2)]
        assert split.value == problem.value(split.stage_of)


def test_memory_of_a_stage_and_what_is_said_of_a_plain_plan() -> None:
    plan = partition(chain([8] * 5), [Device("cpu:0")])
    assert plan.memory == (4 * 256 + 64 + 2 * 64,)
    assert plan.notes == ()
    two = partition(chain([8] * 5), [Device("cpu:0"), Device("cpu:1")], links=Link(1e12, 0.0))
    assert two.notes == () and [s.weights for s in two.stages] == [512, 512]
