"""Hidden units of recurrent layers go with their rows in each gate, and the columns of all that read them."""

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.frontend import trace
from fxopt.lowering import lower
from fxopt.passes.eliminate.eliminate_dead_weights import EliminateDeadWeights
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.report import Verdict
from fxopt.verification import double_program
from tests.passes.helpers import applied, calls, rand, unchanged

GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
KINDS = list(GATES)


class Tagger(nn.Module):
    """A recurrent stack and a head on all steps, or with the last states as outputs too."""

    def __init__(self, kind: type[nn.RNNBase], *, states: bool = False, **options: object) -> None:
        super().__init__()
        self.layer, self.states = kind(5, 8, **options), states
        self.head = nn.Linear(16 if options.get("bidirectional") else 8, 3)

    def forward(self, x: torch.Tensor) -> object:
        y, states = self.layer(x)
        return (self.head(y), states) if self.states else self.head(y)


def tagger(kind: type[nn.RNNBase], *, states: bool = False, **options: object) -> Tagger:
    torch.manual_seed(0)
    return Tagger(kind, states=states, **options).eval()


def gates(tensor: torch.Tensor, kind: type[nn.RNNBase]) -> torch.Tensor:
    """A weight's rows as [gate, unit, ...]."""
    return tensor.data.view(GATES[kind], 8, *tensor.shape[1:])


def silence(module: Tagger, *units: int, where: str = "") -> Tagger:
    """Zeros in all rows of some hidden units."""
    for name, weight in module.layer.named_parameters():
        if where in name:
            gates(weight, type(module.layer))[:, list(units)] = 0
    return module


def program(module: nn.Module) -> Program:
    return double_program(trace(module, (rand(2, 7, 5),), dynamic_shapes=({0: "a", 1: "b"},)))


def error(before: Program, after: Program, *tensors: torch.Tensor) -> float:
    sides = (pytree.tree_leaves(p(*(t.double() for t in tensors))) for p in (before, after))
    return max(float((a - b).abs().max()) for a, b in zip(*sides, strict=True))


def shapes(of: Program, part: str = "") -> list[tuple[int, ...]]:
    return [tuple(t.shape) for name, t in of.weights.items() if part in name]


@pytest.mark.parametrize("kind", KINDS)
def test_silent_units_go(kind: type[nn.RNNBase]) -> None:
    before = program(silence(tagger(kind), 1, 4, 6))
    after = applied(EliminateDeadWeights(), before).program
    rows = 5 * GATES[kind]
    assert shapes(after, "layer") == [(rows, 5), (rows, 5), (rows,), (rows,)]
    assert shapes(after, "head.weight") == [(3, 5)]
    assert error(before, after, rand(3, 9, 5)) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_nothing_reads_go(kind: type[nn.RNNBase]) -> None:
    module = tagger(kind)
    with torch.no_grad():
        module.head.weight[:, [2, 5]] = 0
        reads = gates(module.layer.weight_hh_l0, kind)
        reads[:, :, 2] = 0  # 2 reads itself alone, 5 is read by 2 alone
        reads[:, 2, 2] = 1
        reads[:, :, 5] = 0
        reads[:, 2, 5] = 1
    before = program(module)
    after = applied(EliminateDeadWeights(), before).program
    assert shapes(after, "weight_hh") == [(6 * GATES[kind], 6)]
    assert error(before, after, rand(3, 9, 5)) < 1e-14


def test_a_unit_that_a_needed_one_reads_stays() -> None:
    module = tagger(nn.GRU)
    with torch.no_grad():
        module.head.weight[:, [2, 5]] = 0
        reads = gates(module.layer.weight_hh_l0, nn.GRU)
        reads[:, :, [2, 5]] = 0
        reads[2, 2, 5] = reads[1, 0, 2] = 1  # 0 reads 2 in one gate, 2 reads 5
    unchanged(EliminateDeadWeights(), program(module))


def test_a_silent_unit_that_reads_a_live_one_stays() -> None:
    module = silence(tagger(nn.RNN), 1, 4)
    with torch.no_grad():
        module.layer.weight_hh_l0[1, 3] = 1
    after = applied(EliminateDeadWeights(), program(module)).program
    assert shapes(after, "weight_hh") == [(7, 7)]


def test_silent_units_may_read_each_other() -> None:
    module = silence(tagger(nn.RNN), 1, 4)
    with torch.no_grad():
        module.layer.weight_hh_l0[1, 4] = module.layer.weight_hh_l0[4, 1] = 1
    after = applied(EliminateDeadWeights(), program(module)).program
    assert shapes(after, "weight_hh") == [(6, 6)]


def test_a_unit_that_only_starts_still_stays() -> None:
    module = silence(tagger(nn.LSTM), 1)
    with torch.no_grad():
        module.layer.bias_ih_l0[2 * 8 + 1] = 0.5  # the cell gate: the state grows from step to step
    unchanged(EliminateDeadWeights(), program(module))


def test_layers_that_start_from_the_same_zeros_lose_units_of_their_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.GRU(5, 8), nn.GRU(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.zeros(1, x.shape[1], 8)
            return self.head(self.two(self.one(x, h)[0], h)[0])

    torch.manual_seed(0)
    module = Net().eval()
    for layer, units in ((module.one, [1]), (module.two, [2, 3])):
        for weight in layer.parameters():
            gates(weight, nn.GRU)[:, units] = 0
    before = program(module)
    after = applied(EliminateDeadWeights(), before).program
    assert shapes(after, "weight_hh") == [(21, 7), (18, 6)]
    assert calls(after).count("zeros") == 2
    assert error(before, after, rand(3, 9, 5)) < 1e-14


def test_features_that_no_gate_reads_go() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.layer, self.head = nn.Linear(4, 5), nn.GRU(5, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(self.into(x))[0])

    torch.manual_seed(0)
    module = Net().eval()
    with torch.no_grad():
        module.layer.weight_ih_l0[:, 2] = 0
        module.into.weight[4], module.into.bias[4] = 0, 0
    after = applied(EliminateDeadWeights(), double_program(trace(module, (rand(7, 2, 4),)))).program
    assert shapes(after, "into") == [(3, 4), (3,)]
    assert shapes(after, "weight_ih") == [(24, 3)]


@pytest.mark.parametrize("kind", KINDS)
def test_states_that_the_caller_gives_are_not_known(kind: type[nn.RNNBase]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = kind(5, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(x, (h, h) if kind is nn.LSTM else h)[0])

    torch.manual_seed(0)
    module = Net().eval()
    silence(module, 1, 4)  # type: ignore[arg-type]
    unchanged(EliminateDeadWeights(), trace(module, (rand(7, 2, 5), rand(1, 2, 8))))


@pytest.mark.parametrize("kind", KINDS)
def test_states_that_the_caller_gets_stay(kind: type[nn.RNNBase]) -> None:
    (reason, *_) = unchanged(EliminateDeadWeights(), program(silence(tagger(kind, states=True), 1)))
    assert "1 of 8 rows of layer.weight_ih_l0 are dead, blocked by the model's output" in reason


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_a_stack_lose_units_of_their_own(kind: type[nn.RNNBase], layers: int, both: bool) -> None:
    options = {"num_layers": layers, "bidirectional": both, "batch_first": True}
    module = silence(tagger(kind, **options), 0, 3)
    silence(module, 5, where="l0_reverse" if both else f"l{layers - 1}")
    before = program(module)
    after = applied(EliminateDeadWeights(), before).program
    units = [shape[1] for shape in shapes(after, "weight_hh")]
    expected = [6] * (2 * layers if both else layers)
    expected[1 if both else layers - 1] = 5
    assert units == expected
    assert error(before, after, rand(3, 9, 5)) < 1e-14


@pytest.mark.parametrize("first", [False, True])
def test_stacks_without_bias(first: bool) -> None:
    options = {"num_layers": 2, "bidirectional": True, "bias": False, "batch_first": first}
    before = program(silence(tagger(nn.LSTM, **options), 2))
    after = applied(EliminateDeadWeights(), before).program
    assert [shape[1] for shape in shapes(after, "weight_hh")] == [7] * 4
    assert error(before, after, rand(3, 9, 5)) < 1e-14


def test_the_states_of_a_split_stack_are_those_of_the_whole() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(5, 8, 2, bidirectional=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            _, (h, c) = self.layer(x)
            return self.head(h[1]), c[2] + h[3]

    torch.manual_seed(0)
    module = Last().eval()
    silence(module, 1, 2, where="l0")  # type: ignore[arg-type]
    before = program(module)
    after = applied(EliminateDeadWeights(), before).program
    assert error(before, after, rand(3, 9, 5)) < 1e-14
    assert [shape[1] for shape in shapes(after, "weight_ih")] == [5, 5, 16, 16]


def test_first_states_that_are_weights_are_cut_along() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.GRU(5, 8, 2), nn.Linear(8, 3)
            self.start = nn.Parameter(torch.randn(2, 1, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(x, self.start.expand(-1, x.shape[1], -1).contiguous())[0])

    torch.manual_seed(0)
    module = Net().eval()
    silence(module, 1, 2)  # type: ignore[arg-type]
    silence(module, 3, where="l0")  # type: ignore[arg-type]
    with torch.no_grad():
        module.start[:, :, 1:4] = 0
        module.start[0, 0, 2] = 1  # a state that fades is none that stands still
    before = program(module)
    after = applied(EliminateDeadWeights(), before).program
    assert shapes(after, "start") == [(2, 1, 7)]  # the layers share the weight
    assert shapes(after, "weight_hh") == [(21, 7), (21, 7)]
    assert error(before, after, rand(3, 9, 5)) < 1e-14


def test_a_stack_without_anything_to_cut_stays_whole() -> None:
    unchanged(EliminateDeadWeights(), program(tagger(nn.LSTM, num_layers=2, bidirectional=True)))


def test_a_stack_keeps_its_dropout() -> None:
    module = silence(tagger(nn.GRU, num_layers=2, dropout=0.25), 1)
    after = applied(EliminateDeadWeights(), program(module)).program
    (site,) = [n for n in after.calls() if "dropout" in str(n.target)]
    assert site.args[1:] == (0.25, False)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_of_a_loop(cell: type[nn.RNNCellBase]) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = cell(5, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = None
            for step in range(3):
                state = self.layer(x[:, step], state)
            return self.head(state[0] if isinstance(state, tuple) else state)

    torch.manual_seed(0)
    module = Loop().eval()
    kinds = {nn.LSTMCell: nn.LSTM, nn.GRUCell: nn.GRU, nn.RNNCell: nn.RNN}
    for weight in module.layer.parameters():
        gates(weight, kinds[cell])[:, [0, 7]] = 0
    before = double_program(trace(module, (rand(2, 3, 5),), dynamic_shapes=({0: "a"},)))
    after = applied(EliminateDeadWeights(), before).program
    assert [shape[1] for shape in shapes(after, "weight_hh")] == [6]
    assert error(before, after, rand(4, 3, 5)) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_random_elements_of_random_stacks(kind: type[nn.RNNBase]) -> None:
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        module = tagger(kind, num_layers=1 + seed % 3, bidirectional=seed % 2 == 0, batch_first=True)
        for weight in module.parameters():
            for dim in range(weight.dim()):
                shape = [-1 if d == dim else 1 for d in range(weight.dim())]
                weight.data *= (torch.rand(weight.shape[dim], generator=generator) > 0.3).reshape(shape)
            units = torch.rand(8, generator=generator) > 0.4
            if weight.shape[0] == 8 * GATES[kind]:
                gates(weight, kind)[:, units & (torch.rand(8, generator=generator) > 0.2)] = 0
        before = program(module)
        after = PassManager.of([EliminateDeadWeights()]).run(before).program
        assert error(before, after, rand(3, 9, 5)) < 1e-13, seed


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_files_are_smaller(target: str) -> None:
    module = silence(tagger(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True), 0, 1, 2, 3, 4)
    before = trace(module, (rand(2, 7, 5),), dynamic_shapes=({0: "a", 1: "b"},))
    after = PassManager.of([EliminateDeadWeights()]).run(before).program
    assert calls(after).count("lstm") == 4
    small = lower(after, target)
    assert small.report is not None
    assert small.report.verdict is Verdict.EQUIVALENT
