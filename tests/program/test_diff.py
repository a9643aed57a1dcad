import copy

import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.program import Program
from fxopt.program.diff import program_diff
from tests.frontend.good_models import noise


class Stack(nn.Module):
    """Four equal blocks; `extra` puts one more op after one of them."""

    def __init__(self, extra: int | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.extra, self.layers = extra, nn.ModuleList(nn.Linear(3, 3) for _ in range(4))

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = torch.relu(layer(x) + 1)
            if i == self.extra:
                x = torch.relu(x * 2)
        return x


def traced(extra: int | None = None) -> Program:
    return trace(Stack(extra).eval(), (noise(2, 3),))


def changes(before: Program, after: Program) -> list[str]:
    text = [line.split("   #")[0] for line in before.diff(after).splitlines()]
    return [line for line in text if line[0] in "+-~" and not line.startswith(("+++", "---"))]


def test_equal_programs_have_no_diff():
    program = traced()
    assert program.diff(program) == ""
    assert program.diff(program.copy()) == ""
    assert program_diff(program, traced()) == ""


@pytest.mark.parametrize("extra", range(4))
def test_an_op_more_is_all_that_shows(extra: int):
    more = changes(traced(), traced(extra))
    # The two new ops, and the one that reads them instead.
    assert sorted(line[0] for line in more) == ["+", "+", "+", "-"]
    less = changes(traced(extra), traced())
    assert sorted(line[0] for line in less) == ["+", "-", "-", "-"]


def test_renamed_nodes_are_no_difference():
    program, other = traced(), traced()
    for i, node in enumerate(other.calls()):
        node.name = f"node_{i}"
    assert program.diff(other) == ""


def test_other_values_of_a_weight():
    program, other = traced(), traced()
    other.weights = {n: t.detach().clone() for n, t in other.weights.items()}
    assert program.diff(other) == ""
    other.weights["layers.1.bias"][0] = 0
    assert changes(program, other) == ["~ layers.1.bias: other values"]


def test_equal_nan_is_no_difference():
    program, other = traced(), traced()
    for p in (program, other):
        p.weights = copy.deepcopy(p.weights)
        with torch.no_grad():
            p.weights["layers.1.bias"][0] = float("nan")
    assert program.diff(other) == ""


def test_a_weight_of_another_shape_shows_in_the_table():
    program, other = traced(), traced()
    other.weights["layers.1.bias"] = torch.zeros(5)
    assert changes(program, other) == [
        "-weights: 8, 192 B",
        "+weights: 8, 200 B",
        "-  layers.1.bias: f32[3] 12 B",
        "+  layers.1.bias: f32[5] 20 B",
    ]
