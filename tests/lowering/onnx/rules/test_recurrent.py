"""Recurrent layers and cells against torch."""

import operator

import pytest
import torch
from torch import nn

from fxopt.api import verify
from fxopt.errors import LoweringError
from fxopt.lowering import lower
from fxopt.lowering.onnx.target import OnnxTarget
from fxopt.report import Verdict
from fxopt.testing import ProgramBuilder
from tests.lowering.onnx.harness import Case, check, check_sizes, op_types, program_of

X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))


class Started(nn.Module):
    """A layer that starts from a state made of the input."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> object:
        rows = self.layer.num_layers * (2 if self.layer.bidirectional else 1)
        state = x[:, 0, : self.layer.hidden_size].expand(rows, -1, -1) * 0.5
        return self.layer(x, (state, state + 0.1) if isinstance(self.layer, nn.LSTM) else state)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "how",
    [
        {"batch_first": True},
        {"batch_first": True, "bidirectional": True, "num_layers": 2},
        {"batch_first": True, "bias": False},
    ],
    ids=["plain", "stacked", "no-bias"],
)
def test_layer(kind, how):
    emitted = check(Case("layer", kind(6, 4, **how), (X,)))
    assert op_types(emitted).count(kind.__name__) == how.get("num_layers", 1)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_initial_state(kind, bidirectional):
    layer = kind(6, 4, num_layers=2, batch_first=True, bidirectional=bidirectional)
    check(Case("started", Started(layer), (X,)))


def test_relu_and_time_first():
    check(Case("relu", nn.RNN(6, 4, nonlinearity="relu"), (X,), fixed=True))


def test_example_without_batch():
    check(Case("unbatched", nn.LSTM(6, 4), (X[0],), fixed=True))


def test_weights_of_a_layer_that_runs_twice_are_stored_once():
    layer = nn.GRU(6, 6, batch_first=True)
    emitted = check(Case("twice", _Twice(layer), (X,)))
    once = OnnxTarget().emit(program_of(Case("once", _Once(layer), (X,))), optimize=False)
    assert len(emitted.content) < len(once.content) + 1000


class _Once(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


class _Twice(_Once):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.layer(x)[0])[0]


@pytest.mark.parametrize(
    "cell", [nn.LSTMCell(6, 6), nn.GRUCell(6, 6), nn.RNNCell(6, 6), nn.RNNCell(6, 6, nonlinearity="relu")]
)
def test_cell(cell):
    check(Case("cell", _Cell(cell), (X[:, 0].contiguous(),)))


class _Cell(nn.Module):
    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> object:
        return self.cell(x, (x * 0.5, x + 1) if isinstance(self.cell, nn.LSTMCell) else x * 0.5)


class Projected(Started):
    """The same, with an output state that is narrower than the cell's."""

    def forward(self, x: torch.Tensor) -> object:
        rows = self.layer.num_layers * (2 if self.layer.bidirectional else 1)
        state = x[:, 0, :4].expand(rows, -1, -1) * 0.5
        return self.layer(x, (state[..., : self.layer.proj_size], state))


@pytest.mark.parametrize("make", [Projected, lambda layer: layer])
@pytest.mark.parametrize(
    "how", [{}, {"bias": False}, {"bidirectional": True, "num_layers": 2}, {"num_layers": 3}]
)
@pytest.mark.parametrize("opset", [18, 20])
def test_projections(opset, how, make):
    layer = make(nn.LSTM(6, 4, proj_size=2, batch_first=True, **how))
    check(Case("projected", layer, (X,)), opset=opset)


def test_a_projection_of_a_dynamic_length():
    layer = Projected(nn.LSTM(6, 4, proj_size=3, batch_first=True, bidirectional=True)).eval()
    check_sizes(layer, X, {0: "batch", 1: "length"}, X[:, :1], X[:1, :3], X.repeat(1, 4, 1))


def test_too_few_weights_are_refused():
    b = ProgramBuilder()
    x, state = b.input((3, b.batch, 6)), b.input((1, b.batch, 4))
    weights = [b.weight((16, 6)), b.weight((16, 4))]  # and biases, which are missing
    call = b.call("aten.lstm.input", x, [state, state], weights, True, 1, 0.0, False, False, False)
    program = b.finish(b.call(operator.getitem, call, 0))
    with pytest.raises(LoweringError, match=r"lstm.*2 weights instead of 4"):
        OnnxTarget().emit(program)


def test_gates_that_the_runtime_flushes_to_zero_are_no_difference():
    """The fuzzer's hit: an LSTM's outputs of 1e-30, for which onnxruntime gives 0."""

    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 4, batch_first=True)
            nn.init.constant_(self.lstm.bias_ih_l0, -40.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0]

    program = program_of(Case("closed", Closed(), (X,)))
    report = verify(program, lower(program, "onnx", verify=False))
    assert report.verdict is Verdict.UNDECIDED and "rounding alone" in report.reason
