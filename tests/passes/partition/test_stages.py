"""The stages as programs: what each takes, holds and returns."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxopt.frontend import trace
from fxopt.passes.partition._pieces import is_size, pieces_of
from fxopt.passes.partition._stages import Wires, stage_programs, wired_programs
from fxopt.program import Program
from fxopt.testing import programs
from fxopt.verification import sample_inputs
from tests.traced import same_bits


def cut(program: Program, ends: list[int]) -> list[Program]:
    """The stages of a program, one ending after each of some calls that make tensors and after the last."""
    calls = [c for c in program.calls() if not is_size(c)]
    starts = [0, *ends, len(calls)]
    stage_of = {c: k for k, (a, b) in enumerate(itertools.pairwise(starts)) for c in calls[a:b]}
    return stage_programs(program, stage_of, len(ends) + 1)


def run(stages: list[Program], tensors: list[torch.Tensor]) -> list[object]:
    flat: list[object] = list(tensors)
    for stage in stages:
        flat = stage.run_flat(flat)  # type: ignore[arg-type]
    return flat


def inputs_of(stage: Program) -> list[str]:
    return [s.name for s in stage.signature.inputs]


@given(programs(max_ops=8), st.data())
def test_any_stages_give_what_the_program_gives(program: Program, data: st.DataObject) -> None:
    """Over stages that hold one piece or several, in an order in which the pieces can run."""
    parts = pieces_of(program, dict.fromkeys(program.calls(), 0.0)).pieces
    count = data.draw(st.integers(1, 5))
    numbers = sorted(data.draw(st.lists(st.integers(0, count - 1), min_size=len(parts), max_size=len(parts))))
    stage_of = {c: k for p, k in zip(parts, numbers, strict=True) for c in p.calls}
    stages = stage_programs(program, stage_of, count)
    for sample in sample_inputs(program.signature, seed=0):
        assert same_bits(program.run_flat(list(sample.tensors)), run(stages, list(sample.tensors)))


class Skips(nn.Module):
    """A value that the last layer reads too, one that the first stage alone reads, a result in the middle."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        a = x.exp()
        b = a.sin()
        c = b * a
        d = c.cos()
        return {"last": (d.exp() + b).tanh(), "middle": d, "late": y.sin()}


def test_a_stage_takes_what_it_or_a_later_one_reads() -> None:
    program = trace(Skips().eval(), (torch.zeros(2, 3), torch.zeros(4)))
    first, second, third = cut(program, [3, 5])
    assert inputs_of(first) == ["x", "y"]
    assert inputs_of(second) == ["y", "sin", "mul"]
    assert inputs_of(third) == ["y", "sin", "cos", "exp_1"]
    assert [len(s.signature.outputs) for s in (first, second, third)] == [3, 4, 3]


def test_the_first_stage_has_the_models_arguments_and_the_last_its_results() -> None:
    class Model(nn.Module):
        def forward(self, pair: tuple[torch.Tensor, float], *, scale: float = 2.0) -> dict[str, torch.Tensor]:
            return {"y": (pair[0] * scale).exp().sin()}

    program = trace(Model().eval(), ((torch.zeros(2, 3), 1.0),))
    first, second, third = cut(program, [1, 2])
    whole = program.signature
    assert whole.defaults
    assert first.signature.arguments == whole.arguments and first.signature.defaults == whole.defaults
    assert first.signature.input_tree == whole.input_tree and third.signature.output_tree == whole.output_tree
    x = torch.randn(2, 3)
    between = second(*first((x, 1.0)))  # type: ignore[misc]
    assert isinstance(between, tuple)
    assert torch.equal(third(*between)["y"], program((x, 1.0))["y"])  # type: ignore[call-overload, index]
    assert [s.signature.arguments for s in (second, third)] == [("mul",), ("exp",)]
    assert second.signature.defaults == third.signature.defaults == {}


def test_numbers_that_are_results_are_read_where_the_last_stage_is() -> None:
    class Sized(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return x.sum(0).exp().sin(), x.shape[0] * 2

    program = trace(Sized().eval(), (torch.zeros(4, 3),), dynamic_shapes=({0: "batch"},))
    stages = cut(program, [1, 2])
    assert inputs_of(stages[1]) == ["sum_1", "size_batch"] and inputs_of(stages[2]) == ["exp", "size_batch"]
    assert not any(n.op == "call_function" and is_size(n) for n in stages[1].graph.nodes)
    x = torch.randn(5, 3)
    found = run(stages, [x])
    assert torch.equal(found[0], program(x)[0]) and found[1] == 10  # type: ignore[arg-type, index]


def test_numbers_that_are_no_whole_ones_are_computed_where_they_are_read() -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.exp().sin()
            return y * (x.shape[0] / 3 + 0.5) + x.shape[0] / 3

    program = trace(Mean().eval(), (torch.zeros(4, 3),), dynamic_shapes=({0: "batch"},))
    x = torch.randn(5, 3)
    for end in (1, 2, 3):
        assert same_bits(program.run_flat([x]), run(cut(program, [end]), [x]))


def test_a_weight_that_is_a_result_is_one_of_the_last_stage() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(3))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.exp().sin(), self.table

    module = Table().eval()
    first, last = cut(trace(module, (torch.zeros(2),)), [1])
    assert (list(first.weights), list(last.weights)) == ([], ["table"])
    x = torch.randn(2)
    assert torch.equal(run([first, last], [x])[1], module.table)  # type: ignore[arg-type]


def test_several_results_of_one_call_cross_one_by_one() -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = x.exp().chunk(2)
            return a.sin() + b.cos()

    _, second = cut(trace(Halves().eval(), (torch.zeros(4, 4),)), [4])
    assert inputs_of(second) == ["getitem", "getitem_1"]


@pytest.mark.parametrize("ends", [[3], [4], [5], [3, 4], [3, 5], [4, 5], [3, 4, 5]])
def test_sizes_that_several_stages_pass_on(ends: list[int]) -> None:
    """Two sizes that no tensor between the stages has; the stages before the last are done with one of them."""

    class Wide(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            small = x.sum(0) + y.sum(0)
            return small.sin().expand(y.shape[0], 4).mean(0).expand(x.shape[0], 4)

    tensors = (torch.zeros(3, 4), torch.zeros(5, 4))
    program = trace(Wide().eval(), tensors, dynamic_shapes=({0: "batch"}, {0: "rows"}))
    given_ = [torch.randn(2, 4), torch.randn(7, 4)]
    stages = cut(program, ends)
    assert same_bits(program.run_flat(given_), run(stages, given_))
    carried = [sorted(n for n in inputs_of(s) if n.startswith("size_")) for s in stages[1:]]
    assert carried == [["size_batch", "size_rows"] if e < 5 else ["size_batch"] for e in ends]


def run_wired(stages: list[Program], wires: Wires, tensors: list[torch.Tensor]) -> list[object]:
    """One stage after the other, each on what it takes from where that was made."""
    made: list[list[object]] = []

    def at(place: tuple[int, int]) -> object:
        stage, number = place
        return tensors[number] if stage < 0 else made[stage][number]

    for stage, taken in zip(stages, wires.taken, strict=True):
        made.append(stage.run_flat([at(p) for p in taken]))  # type: ignore[misc]
    return [at(p) for p in wires.returned]


class TestSideBySide:
    @given(programs(max_ops=8), st.data())
    def test_any_stages_give_what_the_program_gives(self, program: Program, data: st.DataObject) -> None:
        parts = pieces_of(program, dict.fromkeys(program.calls(), 0.0)).pieces
        count = data.draw(st.integers(1, 5))
        numbers = sorted(
            data.draw(st.lists(st.integers(0, count - 1), min_size=len(parts), max_size=len(parts)))
        )
        stage_of = {c: k for p, k in zip(parts, numbers, strict=True) for c in p.calls}
        stages, wires = wired_programs(program, stage_of, count)
        for sample in sample_inputs(program.signature, seed=0):
            tensors = list(sample.tensors)
            assert same_bits(program.run_flat(tensors), run_wired(stages, wires, tensors))
        for number, (stage, taken) in enumerate(zip(stages, wires.taken, strict=True)):
            assert all(k < number for k, _ in taken)
            read = {n.name for c in stage.calls() for n in c.all_input_nodes}
            sizes = any(
                isinstance(s, torch.SymInt) for n in stage.placeholders() for s in n.meta["val"].shape
            )
            assert sizes or set(inputs_of(stage)) <= read

    def test_each_takes_what_it_reads(self) -> None:
        program = trace(Skips().eval(), (torch.zeros(2, 3), torch.zeros(4)))
        calls = {c.name: c for c in program.calls()}
        stage_of = {calls[n]: k for k, names in enumerate([["exp", "sin", "mul"], ["sin_1"]]) for n in names}
        stage_of |= {c: 2 for c in program.calls() if c not in stage_of}
        stages, wires = wired_programs(program, stage_of, 3)
        assert [inputs_of(s) for s in stages] == [["x"], ["y"], ["sin", "mul"]]
        assert wires.taken == (((-1, 0),), ((-1, 1),), ((0, 0), (0, 1)))

    def test_a_size_comes_from_the_arguments(self) -> None:
        """What is a number or a weight, or an argument as it came, is returned too."""

        class Sized(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table = nn.Parameter(torch.randn(3))

            def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[object, ...]:
                small = x.sum(0).exp()
                return small.sin().expand(x.shape[0], 4) * 2, y.cos(), x.shape[0] * 2, self.table, y

        tensors = (torch.zeros(3, 4), torch.zeros(5))
        program = trace(Sized().eval(), tensors, dynamic_shapes=({0: "batch"}, None))
        calls = [c for c in program.calls() if not is_size(c)]
        names = ["sum", "exp", "sin"]
        stage_of = {c: 0 if c.name.rstrip("_1") in names else 1 for c in calls}
        stages, wires = wired_programs(program, stage_of, 2)
        given_ = [torch.randn(2, 4), torch.randn(5)]
        assert same_bits(program.run_flat(given_), run_wired(stages, wires, given_))
        assert inputs_of(stages[1]) == ["y", "sin", "x"]
        assert wires.returned[-1] == (-1, 1)
