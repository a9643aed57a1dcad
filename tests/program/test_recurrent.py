"""Recurrent layers with a length that varies: shapes as torch's, the function at every length, state in and out."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from fxopt.frontend import trace
from fxopt.lowering import lower
from fxopt.pipeline import PassManager
from fxopt.program.recurrent import RECURRENT, whole_layers

KINDS = [
    (nn.LSTM, {}), (nn.LSTM, {"batch_first": True, "bidirectional": True, "num_layers": 2}),
    (nn.LSTM, {"proj_size": 2, "batch_first": True}), (nn.GRU, {"bidirectional": True}),
    (nn.GRU, {"batch_first": True, "num_layers": 2}), (nn.RNN, {"nonlinearity": "relu", "bias": False}), (nn.RNN, {}),
]  # fmt: skip


def named(pair) -> str:
    return f"{pair[0].__name__}-{'-'.join(pair[1])}"


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # says torch itself
@pytest.mark.parametrize("pair", KINDS, ids=named)
def test_shapes_are_torchs(pair):
    layer = pair[0](3, 4, **pair[1]).eval()
    x = torch.randn(5, 2, 3)
    expected = torch.utils._pytree.tree_leaves(layer(x))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, whole_layers(), torch.no_grad():
        got = torch.utils._pytree.tree_leaves(layer(mode.from_tensor(x)))
    assert [(t.shape, t.dtype) for t in got] == [(t.shape, t.dtype) for t in expected]


def test_torchs_kernels_are_back_afterwards():
    before = [dict(op.py_kernels) for op in RECURRENT]
    with pytest.raises(ZeroDivisionError), whole_layers():
        1 / 0  # noqa: B018
    assert [dict(op.py_kernels) for op in RECURRENT] == before


class WithState(nn.Module):
    """A layer whose state goes in and out."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x, state):
        return self.layer(x, state)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # says torch itself
@pytest.mark.parametrize("pair", KINDS, ids=named)
def test_any_length(pair):
    torch.manual_seed(0)
    layer = pair[0](3, 4, **pair[1]).eval()
    axes = {0: "a", 1: "b"}
    program = trace(layer, torch.randn(5, 4, 3), dynamic_shapes={"input": axes})
    for shape in ((1, 1, 3), (7, 2, 3), (2, 9, 3)):
        x = torch.randn(shape)
        expected = layer(x)
        for a, b in zip(*map(torch.utils._pytree.tree_leaves, (program(x), expected)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_a_sequence_in_pieces(target: str):
    """The state of one piece goes into the next."""
    torch.manual_seed(0)
    model = WithState(nn.LSTM(3, 4, batch_first=True)).eval()
    state = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
    shapes = {"x": {0: "batch", 1: "length"}, "state": {1: "batch"}}
    program = trace(model, (torch.randn(2, 5, 3), state), dynamic_shapes=shapes)
    artifact = lower(PassManager.parse("O1").run(program).program, target)
    x = torch.randn(2, 9, 3)
    first, state = artifact(x[:, :4], state)
    second, state = artifact(x[:, 4:], state)
    whole, (hidden, cell) = model(x, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-6)
    assert torch.allclose(state[0], hidden, atol=1e-6)
    assert torch.allclose(state[1], cell, atol=1e-6)
