"""fuse-linear-bn: on [N, C], and the cases that look like it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.passes.fuse.fuse_linear_bn import FuseLinearBn
from fxopt.pipeline import PassManager
from fxopt.program import origins_of
from fxopt.testing import check_pass
from fxopt.verification import check_programs, double_program
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged
from tests.zoo import randomise_statistics

FUSE = FuseLinearBn()
X = rand(3, 4)
WEIGHTS = {"w": rand(8, 4), "mean": rand(8, seed=1), "var": rand(8, seed=2).abs() + 0.5}


def pair(*, bias: bool = True, affine: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8, bias=bias), nn.BatchNorm1d(8, affine=affine, eps=1e-3))
    randomise_statistics(model)
    if affine:
        with torch.no_grad():
            model[1].weight.copy_(rand(8, seed=3) + 2)
            model[1].bias.copy_(rand(8, seed=4))
    return model.eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_before_and_after(bias: bool, affine: bool, dynamic: bool):
    model = pair(bias=bias, affine=affine)
    after = applied(FUSE, program(model, X, dynamic=dynamic)).program
    assert structure(after) == structure(program(nn.Linear(4, 8), X, dynamic=dynamic))
    torch.testing.assert_close(after(X), model(X), rtol=1e-5, atol=1e-5)


def test_the_fold_is_rounded_once():
    model = pair()
    after = applied(FUSE, program(model, X)).program
    linear, norm = model.double()
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias, weight = sorted(after.weights.values(), key=torch.Tensor.dim)
    assert torch.equal(weight, (linear.weight * scale.reshape(-1, 1)).float())
    assert torch.equal(bias, ((linear.bias - norm.running_mean) * scale + norm.bias).float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    after = applied(FUSE, program(pair().to(dtype), X.to(dtype))).program
    assert calls(after) == ["linear"]
    assert {w.dtype for w in after.weights.values()} == {dtype}


def test_a_norm_in_float32_over_a_layer_in_half_precision():
    model = pair().half()
    model[1].float()
    after = applied(FUSE, program(model, X.half())).program
    assert {w.dtype for w in after.weights.values()} == {torch.float16}


def test_a_deep_network_fuses_layer_by_layer():
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())]
    model = nn.Sequential(*layers)
    randomise_statistics(model)
    result = applied(FUSE, program(model, rand(3, 8), dynamic=True))
    assert calls(result.program) == ["linear", "relu"] * 3
    assert result.passes[0].rules == {"fuse-linear-bn": 3}


def test_the_fused_call_comes_from_both_layers():
    [linear] = applied(FUSE, program(pair(), X)).program.calls()
    assert {o.module for o in origins_of(linear)} == {"0", "1"}


def test_a_shared_layer_gets_a_copy_for_each_norm():
    linear, first, second = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8)
    model = nn.Sequential(linear, first, linear, second)
    randomise_statistics(model)
    after = applied(FUSE, program(model, rand(3, 8))).program
    assert calls(after) == ["linear", "linear"]
    assert len(after.weights) == 4


def test_float64_programs_fuse_by_the_same_rules():
    before = program(pair(), X)
    wide = double_program(before)
    double = PassManager.of([FUSE]).run(wide)
    assert double.passes[0].rules == {"fuse-linear-bn": 1}
    assert check_programs(wide, double.program, "equivalent").ok


def function(x, w, mean, var, **more):
    return F.batch_norm(F.linear(x, w), mean, var, **more)


def test_three_dimensions_stay_although_all_sizes_fit():
    """[N, L, C] with L == C: BatchNorm scales axis 1, which is L."""
    before = program(function, rand(3, 8, 4), **WEIGHTS)
    [why] = unchanged(FUSE, before)
    assert why == "the linear layer's output has 3 dimensions: BatchNorm scales axis 1, not the last"


def test_three_dimensions_of_another_length_stay():
    weights = {**WEIGHTS, "mean": rand(5), "var": rand(5).abs() + 0.5}
    unchanged(FUSE, program(function, rand(3, 5, 4), **weights))


def test_a_layer_with_another_user_stays():
    def twice(x, w, mean, var):
        y = F.linear(x, w)
        return F.batch_norm(y, mean, var) + y

    assert "has another user, add" in unchanged(FUSE, program(twice, X, **WEIGHTS))[0]


@pytest.mark.parametrize("name", ["w", "mean", "var"])
def test_a_weight_that_is_an_input_stays(name: str):
    def with_input(x, given, **weights):
        return function(x, **{**weights, name: given})

    weights = {k: v for k, v in WEIGHTS.items() if k != name}
    [why] = unchanged(FUSE, program(with_input, X, WEIGHTS[name], **weights))
    assert why == f"'{name}' (args_1) is not known at compile time"


def test_something_between_the_two_stays():
    unchanged(FUSE, program(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8)), X))


def test_a_norm_before_the_layer_stays():
    unchanged(FUSE, program(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8)), X))


def test_a_layer_norm_stays():
    unchanged(FUSE, program(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)), X))


def test_drawn_programs():
    check_pass(FUSE, examples=15, min_fired=0.2, targets=())
