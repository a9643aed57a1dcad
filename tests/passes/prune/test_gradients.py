"""Weights times gradients, number by number, and losses that are none."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.errors import InputError
from fxopt.passes.prune import plan_pruning
from fxopt.passes.prune._gradients import sensitivities
from tests.passes.helpers import program, rand

BEFORE = program(lambda x, w: F.linear(x, w), rand(2, 3), w=rand(4, 3))


def test_energy_is_half_the_mean_square() -> None:
    x, w = rand(2, 3, seed=5), BEFORE.weights["w"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.linear(x, w).square().mean() / 2, [w])
    (found,) = sensitivities(BEFORE, [x], "energy")
    torch.testing.assert_close(found["w"], w.detach() * gradient)


def test_a_weight_that_the_loss_does_not_reach_counts_nothing() -> None:
    both = program(lambda x, w, v: (F.linear(x, w), F.linear(x, v)), rand(2, 3), w=rand(4, 3), v=rand(4, 3))
    (found,) = sensitivities(both, [(rand(2, 3), 0)], lambda out, target: out[1].sum())  # type: ignore[index]
    assert not found["w"].any() and bool(found["v"].any())


@pytest.mark.parametrize(
    "loss",
    [
        lambda out, target: out.sum(0),
        lambda out, target: 1.0,
        lambda out, target: out.detach().sum(),
    ],
    ids=["several numbers", "no tensor", "no gradient"],
)
def test_a_loss_is_one_number_with_a_gradient(loss) -> None:
    with pytest.raises(InputError, match="expected one number with a gradient"):
        sensitivities(BEFORE, [(rand(2, 3), 0)], loss)


def test_a_threshold_takes_what_is_below_it() -> None:
    w = torch.tensor([[1.0, 2.0], [3.0, 4.0], [2.0, 5.0]])
    before = program(lambda x, w: F.linear(x, w), rand(2, 2), w=w)
    assert plan_pruning(before, granularity="weight", threshold=2.0).layers[0].zeros == 1
    assert plan_pruning(before, granularity="weight", threshold=2.5).layers[0].zeros == 3


def test_any_number_of_elements_goes() -> None:
    before = program(lambda x, w: F.linear(x, w), rand(2, 3), w=rand(3, 3))
    for count in range(9):
        plan = plan_pruning(before, granularity="weight", ratio=count / 9)
        assert plan.layers[0].zeros == count


def test_only_what_is_comparable_is_compared_as_it_is() -> None:
    """Changes of the loss are; magnitudes count by their share of the weight's mean."""
    w, v = rand(8, 8), rand(8, 8, seed=1)
    before = program(lambda x, w, v: (100 * F.linear(x, w), F.linear(x, v)), rand(2, 8), w=w, v=v)
    options = {"granularity": "weight", "scope": "global", "ratio": 0.25}
    changes = plan_pruning(before, criterion="taylor", calibration=[rand(2, 8)], **options)
    assert [(x.name, x.zeros) for x in changes.layers] == [("w", 0), ("v", 32)]
    before = program(lambda x, w, v: (F.linear(x, w), F.linear(x, v)), rand(2, 8), w=100 * w, v=w)
    assert [(x.name, x.zeros) for x in plan_pruning(before, **options).layers] == [("w", 16), ("v", 16)]
