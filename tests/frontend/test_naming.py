import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.frontend import trace
from fxopt.frontend.naming import call_name, identifier, output_names, unique
from tests.frontend.good_models import Pair, noise


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x", "x"),
        ("a.b-c", "a_b_c"),
        ("3d", "_3d"),
        ("", "_"),
        ("class", "class_"),
        ("input", "input_"),
        ("sum", "sum_"),
    ],
)
def test_identifiers(name: str, expected: str):
    assert identifier(name) == expected
    assert expected.isidentifier()


def test_unique_names_count_on():
    assert [unique("x", taken) for taken in ([], ["x"], ["x", "x_2"])] == ["x", "x_2", "x_3"]


def test_calls_by_their_op():
    assert call_name(torch.ops.aten.sym_size.int) == "sym_size"
    assert call_name(torch.sym_max) == "sym_max"


@pytest.mark.parametrize(
    ("result", "taken", "expected"),
    [
        (0, (), ["output"]),
        (0, ("output",), ["output_out"]),
        ((0, 0), (), ["output_0", "output_1"]),
        ([0, (0, 0)], (), ["output_0", "output_1_0", "output_1_1"]),
        ({"a": 0, "b": {"c": 0}}, (), ["a", "b_c"]),
        ({"x": 0}, ("x",), ["x_out"]),
        (Pair(0, (0, 0)), (), ["first", "second_0", "second_1"]),
        ({"a_b": 0, "a": {"b": 0}}, (), ["a_b", "a_b_2"]),
        ({1: 0}, (), ["output_1"]),
    ],
)
def test_outputs_by_their_keys(result: object, taken: tuple[str, ...], expected: list[str]):
    assert output_names(pytree.tree_structure(result), taken) == expected


class Block(nn.Module):
    """Layers of one op, a layer of many, one called twice, and ops of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.act = nn.Linear(4, 4), nn.ReLU()
        self.attend = nn.MultiheadAttention(4, 1, batch_first=True)
        self.list = nn.ModuleList([nn.Linear(4, 4)])
        self.sum = nn.Identity()

    def forward(self, x):
        x = self.act(self.stem(x))
        x = self.act(x + 1)
        return self.list[0](self.attend(x, x, x, need_weights=False)[0]).sum(1)


def test_nodes_by_their_layer_or_op():
    names = [n.name for n in trace(Block().eval(), (noise(2, 3, 4),)).calls()]
    assert names[:4] == ["stem", "act", "add", "act_1"]
    assert "scaled_dot_product_attention" in names
    assert "attend" not in names
    assert names[-2:] == ["linear_2", "sum_1"]
