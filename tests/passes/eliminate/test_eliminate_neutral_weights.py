"""eliminate-neutral-weights: biases of zeros and scales of ones go, all others stay."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.eliminate.eliminate_neutral_weights import EliminateNeutralWeights
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

ELIMINATE = EliminateNeutralWeights()

CONVS = {
    1: (F.conv1d, F.conv_transpose1d),
    2: (F.conv2d, F.conv_transpose2d),
    3: (F.conv3d, F.conv_transpose3d),
}


def test_a_linear_layer_with_a_bias_of_zeros():
    before = program(
        lambda x, w, b: F.linear(x, w, b), rand(2, 4), w=rand(3, 4), b=torch.zeros(3), dynamic=True
    )
    after = applied(ELIMINATE, before).program
    assert structure(after) == structure(
        program(lambda x, w: F.linear(x, w), rand(2, 4), w=rand(3, 4), dynamic=True)
    )
    assert list(after.weights) == ["w"]


@pytest.mark.parametrize("rank", CONVS)
@pytest.mark.parametrize("kind", [0, 1], ids=["conv", "transposed"])
def test_a_convolution_with_a_bias_of_zeros(rank: int, kind: int):
    conv = CONVS[rank][kind]
    weights = {"w": rand(4, 4, *([3] * rank)), "b": -torch.zeros(4)}
    before = program(lambda x, w, b: conv(x, w, b, padding=1), rand(2, 4, *([5] * rank)), **weights)
    assert list(applied(ELIMINATE, before).program.weights) == ["w"]


@pytest.mark.parametrize(
    ("weight", "bias", "left"),
    [
        (torch.ones(4), torch.zeros(4), []),
        (torch.ones(4), rand(4), ["bias"]),
        (rand(4), torch.zeros(4), ["weight"]),
    ],
)
def test_a_group_norm_loses_what_is_neutral(weight: torch.Tensor, bias: torch.Tensor, left: list[str]):
    before = program(
        lambda x, weight, bias: F.group_norm(x, 2, weight, bias), rand(2, 4, 5), weight=weight, bias=bias
    )
    after = applied(ELIMINATE, before).program
    assert calls(after) == ["group_norm"]
    assert list(after.weights) == left


def test_zeros_that_the_program_fills_in():
    before = program(lambda x, w: F.linear(x, w, torch.zeros(3)), rand(2, 4), w=rand(3, 4))
    assert calls(applied(ELIMINATE, before).program) == ["linear"]


@pytest.mark.parametrize("bias", [torch.ones(3), torch.tensor([0.0, 0.0, 1e-30])], ids=str)
def test_any_other_bias_stays(bias: torch.Tensor):
    assert (
        unchanged(ELIMINATE, program(lambda x, w, b: F.linear(x, w, b), rand(2, 4), w=rand(3, 4), b=bias))
        == []
    )


def test_a_scale_of_zeros_and_a_bias_of_ones_stay():
    before = program(
        lambda x, w, b: F.group_norm(x, 2, w, b), rand(2, 4, 5), w=torch.zeros(4), b=torch.ones(4)
    )
    assert unchanged(ELIMINATE, before) == []


def test_a_bias_that_is_an_input_stays():
    before = program(lambda x, b, w: F.linear(x, w, b), rand(2, 4), rand(3), w=rand(3, 4))
    assert unchanged(ELIMINATE, before) == []


def test_layer_norm_and_batch_norm_keep_theirs():
    """Every kernel takes them at no cost, and smooth-quant moves scales into them."""
    weights = {"w": torch.ones(4), "b": torch.zeros(4)}
    assert (
        unchanged(ELIMINATE, program(lambda x, w, b: F.layer_norm(x, (4,), w, b), rand(2, 4), **weights))
        == []
    )


def test_drawn_programs():
    check_pass(ELIMINATE, examples=25, targets=())
