"""A branch that gives the same numbers on every input goes as a whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.passes.eliminate.eliminate_dead_weights import EliminateDeadWeights
from fxopt.testing import ProgramBuilder, check_once
from tests import zoo
from tests.passes.eliminate.test_eliminate_dead_weights import Attention, shapes
from tests.passes.helpers import applied, calls, program, rand, unchanged


class Residual(nn.Module):
    """A block of convolutions on a stream that a convolution reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)
        self.block = nn.Sequential(
            nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1)
        )
        zoo.randomise_statistics(self)
        with torch.no_grad():
            self.block[3].weight.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        return self.head(h + self.block(h))


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_residual_branch_of_zeros_goes_with_its_sum(dynamic: bool) -> None:
    module = Residual()
    with torch.no_grad():
        module.block[3].bias.zero_()
    after = applied(EliminateDeadWeights(), program(module, rand(2, 3, 8, 8), dynamic=dynamic)).program
    assert calls(after) == ["conv2d", "conv2d"]
    assert sorted(shapes(after)) == ["head.bias", "head.weight", "stem.bias", "stem.weight"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_branch_of_constants_is_one_small_weight(dynamic: bool) -> None:
    module = Residual()
    before = program(module, rand(2, 3, 8, 8), dynamic=dynamic)
    after = applied(EliminateDeadWeights(), before).program
    assert calls(after) == ["conv2d", "add", "conv2d"]
    (made,) = set(shapes(after)) - set(shapes(before))
    assert shapes(after)[made] == (1, 8, 1, 1)
    assert torch.equal(after.weights[made].flatten(), module.block[3].bias)
    assert isinstance(after.weights[made], nn.Parameter)


def test_one_number_everywhere_is_stored_once() -> None:
    module = Residual()
    with torch.no_grad():
        module.block[3].bias.fill_(0.5)
    before = program(module, rand(2, 3, 8, 8))
    after = applied(EliminateDeadWeights(), before).program
    (made,) = set(shapes(after)) - set(shapes(before))
    assert after.weights[made].tolist() == [[[[0.5]]]]


def test_what_is_cut_free_is_cut() -> None:
    """The dead channels of the stream were held by the branch that wrote to them."""
    module = Residual()
    with torch.no_grad():
        module.block[3].bias.zero_()
        module.stem.weight[:3], module.stem.bias[:3] = 0, 0
    after = applied(EliminateDeadWeights(), program(module, rand(2, 3, 8, 8))).program
    assert shapes(after)["head.weight"] == (4, 5, 3, 3)


def test_a_gate_that_is_always_open_the_same_way() -> None:
    def function(x: torch.Tensor, a: torch.Tensor, g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        h = F.linear(x, a)
        return F.linear(h * torch.sigmoid(F.linear(h, g)), v)

    weights = {"a": rand(6, 4), "g": torch.zeros(6, 6), "v": rand(3, 6, seed=1)}
    after = applied(EliminateDeadWeights(), program(function, rand(2, 4), dynamic=True, **weights)).program
    assert calls(after) == ["linear", "mul", "linear"]
    assert "g" not in after.weights


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_attention_without_values_goes(dynamic: bool) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.norm = Attention(), nn.LayerNorm(16)
            with torch.no_grad():
                self.attention.v.weight.zero_()
                self.attention.v.bias.zero_()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x + self.attention(x))

    after = applied(EliminateDeadWeights(), program(Layer(), rand(2, 5, 16), dynamic=dynamic)).program
    assert calls(after) == ["add", "layer_norm"]
    assert (
        set(shapes(after)) - {"norm.weight", "norm.bias"} == {"attention.folded"} or len(shapes(after)) == 3
    )


def constant_part(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.linear(torch.cat([x, F.linear(x, a, b)], -1).cumsum(-1), v)


@pytest.mark.parametrize("dynamic", [False, True])
def test_where_nothing_broadcasts_the_constant_is_expanded(dynamic: bool) -> None:
    weights = {"a": torch.zeros(6, 4), "b": rand(6), "v": rand(3, 10)}
    after = applied(
        EliminateDeadWeights(), program(constant_part, rand(2, 4), dynamic=dynamic, **weights)
    ).program
    assert calls(after) == [*(["sym_size"] if dynamic else []), "expand", "cat", "cumsum", "linear"]
    assert "a" not in after.weights


def test_the_models_output_stays() -> None:
    unchanged(EliminateDeadWeights(), program(lambda x, w: F.linear(x, w), rand(2, 4), w=torch.zeros(3, 4)))


def test_a_branch_that_varies_stays() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(x + F.linear(x, w), v)

    w = torch.zeros(4, 4)
    w[1, 2] = 1.0
    unchanged(EliminateDeadWeights(), program(function, rand(2, 4), w=w, v=rand(3, 4)))


def test_a_branch_that_is_seen_to_be_constant_once_it_is_cut_goes_too() -> None:
    """All units of the first gate are shut: the output, which stays, is constant, and so is what leads to it."""
    b = ProgramBuilder()
    gated = b.input((b.batch, 2))
    shut, half_open = b.weight((2,), seed=5), b.weight((2,))
    for gate in (shut, half_open):
        product = b.call("aten.linear", gated, b.weight((2, 2)), None)
        product = b.call("aten.mul.Tensor", product, b.call("aten.relu", gate))
        gated = b.call("aten.linear", b.call("aten.relu", product), b.weight((2, 2)), None)
        if gate is shut:
            gated = b.call("aten.linear", gated, b.weight((2, 2)), None)
    check_once(EliminateDeadWeights(), b.finish(gated))


ZEROS = torch.zeros(4, 4)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x, w: torch.add(x, F.linear(x, w), alpha=2), []),
        (lambda x, w: torch.add(F.linear(x, w), x.relu()), ["relu"]),
        (lambda x, w: torch.add(F.linear(x, w), x.relu(), alpha=2), ["relu", "add"]),
        (lambda x, w: x.relu() - F.linear(x, w), ["relu"]),
        (lambda x, w: x.relu() + F.linear(x, w.t() * 2), ["relu"]),
        (
            lambda x, w: x.masked_fill(F.linear(x, w + 1) > 0, 0.5) + F.linear(x, w),
            ["add", "linear", "gt", "masked_fill"],
        ),
    ],
)
def test_which_sums_with_zeros_are_their_other_side(function, left: list[str]) -> None:
    """A weight that is computed on the way is no branch and ends no search, nor does a comparison."""
    after = applied(
        EliminateDeadWeights(), program(lambda x, w: function(x, w).exp(), rand(2, 4), w=ZEROS)
    ).program
    assert calls(after) == [*left, "exp"]


def test_a_sum_that_the_branch_alone_makes_wide_needs_its_size() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (x.sum(0, keepdim=True) * F.linear(x, w, b)).exp()

    after = applied(EliminateDeadWeights(), program(function, rand(2, 4), w=ZEROS, b=rand(4))).program
    assert calls(after) == ["sum", "expand", "mul", "exp"]
