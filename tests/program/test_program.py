import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.program import Origin, Program, new_fake_mode, origins_of
from tests.frontend.good_models import CASES, noise


@pytest.fixture
def program() -> Program:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    return trace(model, (noise(2, 3),), dynamic_shapes={"input": {0: "n"}})


def test_running(program: Program):
    x = noise(5, 3)
    assert program(x).shape == program(input=x).shape == (5, 2)
    [flat] = program.run_flat([x])
    assert torch.equal(flat, program(x))
    assert not flat.requires_grad


def test_inputs_that_require_gradients(program: Program):
    assert not program(noise(2, 3).requires_grad_()).requires_grad


def test_the_module_is_made_once_and_again_after_an_edit(program: Program):
    module = program.graph_module
    assert program.graph_module is module
    assert module.graph is program.graph
    program.touch()
    assert program.graph_module is not module


def test_a_copy_shares_weights_and_values_but_no_graph(program: Program):
    twin = program.copy()
    assert twin.graph is not program.graph
    assert [n.name for n in twin.graph.nodes] == [n.name for n in program.graph.nodes]
    pairs = list(zip(program.calls(), twin.calls(), strict=True))
    assert all(a is not b and a.meta["val"] is b.meta["val"] for a, b in pairs)
    assert all(twin.weights[n] is t for n, t in program.weights.items())
    twin.weights["extra"] = torch.ones(1)
    assert "extra" not in program.weights
    assert twin.fake_mode is program.fake_mode
    assert (twin.name, twin.signature, twin.history) == (program.name, program.signature, program.history)
    next(twin.calls()).meta["origins"] = ()
    assert origins_of(next(program.calls()))


def test_state_dict_has_tied_names_too():
    case = CASES["Tied"]
    program = trace(case.make().eval(), case.args)
    assert list(program.state_dict()) == ["embed.weight", "head.weight"]
    assert set(program.weights) == {"embed.weight"}


def test_nodes_by_kind(program: Program):
    assert [n.name for n in program.placeholders()] == ["input_"]
    assert [n.target for n in program.weight_nodes()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [n.name for n in program.calls()] == ["linear", "relu", "linear_1"]
    assert program.output_nodes() == [list(program.calls())[-1]]


def test_sizes_in_the_users_words(program: Program):
    size = program.placeholders()[0].meta["val"].shape[0]
    assert [program.dim(s) for s in (size, 2 * size + 1, size // 3, 7)] == ["n", "1 + 2*n", "n // 3", 7]


def test_a_name_that_is_no_class_name():
    program = trace(nn.ReLU().eval(), (noise(2),))
    program.name = "my model-2"
    program.touch()
    assert type(program.graph_module).__name__.startswith("Program")


def test_origins_print_as_place_and_module():
    assert str(Origin("layer1.conv", "/me/net.py", 61, "aten.conv2d.default")) == "net.py:61 layer1.conv"
    assert str(Origin("layer1.conv")) == "layer1.conv"
    assert str(Origin(op="aten.relu.default")) == "aten.relu.default"


def test_fresh_modes_are_independent():
    assert new_fake_mode() is not new_fake_mode()
    assert new_fake_mode().shape_env is not None
