"""Units that stand still, units that others read, and what calls without operands are filled with."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fxopt.analysis.channels import Constants, Demand, Removal
from fxopt.program import Program
from tests.passes.helpers import program, rand


class Net(nn.Module):
    """A recurrent layer, and what is read of its result."""

    def __init__(self, layer: nn.RNNBase, read: Callable[..., object]) -> None:
        super().__init__()
        self.layer, self.read = layer, read

    def forward(self, x: torch.Tensor) -> object:
        return self.read(*self.layer(x))


def traced(layer: nn.RNNBase, read: Callable[..., object] = lambda y, h: y) -> Program:
    return program(Net(layer, read), rand(6, 2, 3))


def rnn(kind: type[nn.RNNBase] = nn.RNN) -> nn.RNNBase:
    """Four units, all weights one."""
    layer = kind(3, 4)
    for weight in layer.parameters():
        nn.init.ones_(weight)
    return layer


def values(of: Program, call: str, part: int = 0) -> list[float | None]:
    found = Constants.compute(of)
    node = next(n for n in of.calls() if call in str(n.target))
    axis = found.space.parts(node)[part][-1]
    assert axis is not None
    return [None if math.isnan(v) else v for v in found.values[axis.span].tolist()]


def read_units(of: Program) -> list[int]:
    found = Demand.compute(of)
    node = next(n for n in of.weight_nodes() if "weight_hh" in str(n.target))
    axis = found.constants.space.axes(node)[1]
    assert axis is not None
    return np.flatnonzero(found.needed[axis.span]).tolist()


def test_a_silent_unit_stands_still_in_every_result() -> None:
    layer = rnn(nn.LSTM)
    for weight in layer.parameters():
        weight.data.view(4, 4, -1)[:, 1] = 0
    of = traced(layer)
    assert [values(of, "lstm", part) for part in range(3)] == [[None, 0.0, None, None]] * 3


def test_a_bias_moves_a_unit() -> None:
    layer = rnn()
    for weight in layer.parameters():
        weight.data[1] = 0
    layer.bias_ih_l0.data[1] = 0.5
    assert values(traced(layer), "rnn_tanh") == [None] * 4


def test_what_a_unit_reads_of_the_input_moves_it() -> None:
    layer = rnn()
    for weight in layer.parameters():
        weight.data[1] = 0
    layer.weight_ih_l0.data[1, 2] = 1
    assert values(traced(layer), "rnn_tanh") == [None] * 4


def test_units_in_a_chain_behind_one_that_moves_move() -> None:
    layer = rnn()
    for weight in layer.parameters():
        weight.data[1:] = 0
    reads = layer.weight_hh_l0.data
    reads[1, 0] = reads[2, 1] = 1
    assert values(traced(layer), "rnn_tanh") == [None, None, None, 0.0]


def test_a_layer_over_a_weight() -> None:
    class Known(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.into = rnn(nn.GRU), nn.Parameter(rand(1, 2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.into)[0] + x

    assert not Removal.compute(program(Known(), rand(1, 2, 4))).removed.any()


def test_units_that_a_demanded_one_reads_are_demanded() -> None:
    layer = rnn()
    layer.weight_hh_l0.data.zero_()
    layer.weight_hh_l0.data[0, 2] = layer.weight_hh_l0.data[3, 1] = 1
    assert read_units(traced(layer, lambda y, h: y[..., :1] * 2)) == [0, 2]


def test_a_state_asks_for_its_units() -> None:
    layer = rnn()
    layer.weight_hh_l0.data.zero_()
    assert read_units(traced(layer, lambda y, h: h[..., 1:2] * 2)) == [1]


def test_nothing_is_asked_of_units_that_stand_at_zero() -> None:
    layer = rnn()
    for weight in layer.parameters():
        weight.data[1] = 0
    assert read_units(traced(layer, lambda y, h: y[..., :1] * 2)) == [0, 2, 3]


@pytest.mark.parametrize(
    ("function", "call", "expected"),
    [
        (lambda x: x + torch.zeros(3), "zeros", 0.0),
        (lambda x: x + torch.ones(3), "ones", 1.0),
        (lambda x: x + torch.full((3,), 1.5), "full", 1.5),
        (lambda x: x + x.new_full((3,), 2.5), "new_full", 2.5),
        (lambda x: x + x.new_ones((x.shape[0], 3)), "new_ones", 1.0),
    ],
)
def test_calls_that_fill(function: Callable[..., torch.Tensor], call: str, expected: float) -> None:
    assert values(program(function, rand(2, 3), dynamic=True), call) == [expected] * 3


def test_a_fill_of_a_size_is_not_known() -> None:
    of = program(lambda x: x + torch.full((3,), x.shape[0]), rand(2, 3), dynamic=True)
    assert values(of, "full") == [None] * 3
