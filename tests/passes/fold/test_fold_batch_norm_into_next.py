"""fold-batch-norm-into-next: a norm goes into the layer after it, where that sees what the norm makes."""

import pytest
import torch.nn.functional as F
from torch import nn

from fxopt.passes.fold.fold_batch_norm_into_next import FoldBatchNormIntoNext
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, unchanged
from tests.zoo import randomise_statistics

FOLD = FoldBatchNormIntoNext()
IMAGE = rand(2, 4, 6, 6)


def drawn(*layers: nn.Module) -> nn.Sequential:
    model = nn.Sequential(*layers)
    randomise_statistics(model)
    return model.eval()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_before_a_convolution(affine: bool, groups: int):
    model = drawn(nn.BatchNorm2d(4, affine=affine), nn.Conv2d(4, 6, 3, groups=groups))
    assert calls(applied(FOLD, program(model, IMAGE, dynamic=True)).program) == ["conv2d"]


def test_before_a_convolution_without_a_bias():
    after = applied(FOLD, program(drawn(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, bias=False)), IMAGE)).program
    assert calls(after) == ["conv2d"]
    assert len(after.weights) == 2


def test_before_a_linear_layer():
    model = drawn(nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert calls(applied(FOLD, program(model, rand(5, 4), dynamic=True)).program) == ["linear"]


def test_two_norms_in_a_row():
    model = drawn(nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3))
    assert calls(applied(FOLD, program(model, IMAGE)).program) == ["conv2d"]


def test_a_convolution_that_pads():
    model = drawn(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1))
    assert unchanged(FOLD, program(model, IMAGE)) == [
        "the convolution pads: its border would not see what is added"
    ]


def test_a_linear_layer_that_sums_over_another_axis():
    model = drawn(nn.BatchNorm1d(5), nn.Linear(4, 3))
    assert unchanged(FOLD, program(model, rand(2, 5, 4))) == []


def test_an_activation_between():
    model = drawn(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3))
    assert unchanged(FOLD, program(model, IMAGE)) == []


def test_a_norm_with_another_user():
    def function(x, w, mean, var):
        y = F.batch_norm(x, mean, var)
        return y, F.conv2d(y, w)

    before = program(function, IMAGE, w=rand(6, 4, 3, 3), mean=rand(4), var=rand(4).abs() + 0.5)
    assert unchanged(FOLD, before) == ["batch_norm has another user"]


def test_statistics_that_are_inputs():
    before = program(
        lambda x, mean, w, var: F.conv2d(F.batch_norm(x, mean, var), w), IMAGE, rand(4),
        w=rand(6, 4, 3, 3), var=rand(4).abs() + 0.5,
    )  # fmt: skip
    assert unchanged(FOLD, before) == []


def test_statistics_of_the_batch():
    before = program(
        lambda x, w: F.conv2d(F.batch_norm(x, None, None, training=True), w), IMAGE, w=rand(6, 4, 3, 3)
    )
    assert unchanged(FOLD, before) == []


def test_drawn_programs():
    check_pass(FOLD, examples=25, targets=(), min_fired=0.02)


def test_through_an_average_and_a_flattening():
    """As face recognition ends: norm, flattening, linear layer."""

    def function(x, mean, var, w):
        return F.linear(F.avg_pool2d(F.batch_norm(x, mean, var), 2).flatten(1), w)

    weights = {"mean": rand(4), "var": rand(4, seed=1).abs() + 1, "w": rand(3, 16, seed=2)}
    after = applied(
        FoldBatchNormIntoNext(), program(function, rand(2, 4, 4, 4), dynamic=True, **weights)
    ).program
    assert calls(after) == ["avg_pool2d", "flatten", "linear"]
