"""`torch.cond` as a flat graph: both branches, and a `where` that knows what it was."""

import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.program import origins_of
from fxopt.program.program import COND
from tests.frontend.good_models import Function, noise


class Gate(nn.Module):
    """Weights in branches, two results, and a choice within a choice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def first(self, x):
        return self.a(x).relu(), x + 1

    def second(self, x):
        return self.b(x) + 1, x.sin()

    def forward(self, x):
        y, z = torch.cond(x.sum() > 0, self.first, self.second, (x,))
        return torch.cond(y.sum() > z.sum(), lambda y, z: y * z, self.inner, (y, z))

    def inner(self, y, z):
        return torch.cond(y.mean() > 0, lambda y: y.exp(), lambda y: y.tanh(), (y,))


def inputs() -> list[torch.Tensor]:
    """Such that every branch is taken."""
    return [
        noise(n, 4) * scale + shift for n, scale, shift in ((2, 1, 3), (3, 1, -3), (4, 0.1, 0.05), (1, 2, -1))
    ]


def by_size(x):
    return torch.cond(x.shape[0] > 3, lambda x: x + 1, lambda x: x - 1, (x,))


def one_flag(x):
    return torch.cond((x.sum() > 0).reshape(1), lambda x: x + 1, lambda x: x - 1, (x,))


def one_result_is_an_operand(x):
    return torch.cond(x.sum() > 0, lambda x: x.clone(), lambda x: -x, (x,))


def in_place_around(x):
    y = x * 2
    y = torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (y,)).clone()
    y.add_(1)
    return y


@pytest.mark.parametrize("dynamic", [None, {"x": {0: "n"}}], ids=["static", "dynamic"])
@pytest.mark.parametrize("function", [one_flag, one_result_is_an_operand, in_place_around])
def test_the_same_function(function, dynamic):
    model = Function(function).eval()
    program = trace(model, noise(3, 4), dynamic_shapes=dynamic)
    for x in (noise(3, 4), noise(3, 4) + 2, noise(3, 4) - 2):
        assert torch.equal(program(x), model(x))


def test_a_choice_by_a_size():
    program = trace(Function(by_size).eval(), noise(5, 4), dynamic_shapes={"x": {0: "n"}})
    for n in (2, 3, 4, 9):
        x = noise(n, 4)
        assert torch.equal(program(x), by_size(x) if n > 3 else x - 1)


def test_weights_in_branches_and_choices_within_choices():
    model = Gate().eval()
    program = trace(model, noise(3, 4), dynamic_shapes={"x": {0: "n"}})
    assert set(program.weights) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    with torch.no_grad():
        for x in inputs():
            assert torch.equal(program(x), model(x))
    picks = [n for n in program.calls() if any(o.op == COND for o in origins_of(n))]
    assert len(picks) == 4
    assert all(n.target is torch.ops.aten.where.self and origins_of(n)[0].line for n in picks)
