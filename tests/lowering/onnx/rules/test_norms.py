"""Normalisations against torch."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt.lowering.onnx.target import OnnxTarget
from tests.lowering.onnx.harness import Case, check, check_sizes, op_types, opened, program_of
from tests.zoo import randomise_statistics

GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.randn(2, 4, 5, 6, generator=GENERATOR) * 3 + 1
ROWS = torch.randn(3, 5, 8, generator=GENERATOR) * 3 + 1


def prepared(module: nn.Module) -> nn.Module:
    """With weights that no default hides."""
    randomise_statistics(module)
    for name, parameter in module.named_parameters():
        nn.init.uniform_(parameter, *((-0.5, 0.5) if name.endswith("bias") else (0.5, 1.5)))
    return module


class Rms(nn.Module):
    """`rms_norm` over the last axis."""

    def __init__(self, *, eps: float | None, scaled: bool) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(8, eps=eps, elementwise_affine=scaled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


CASES = [
    Case("batch_norm1d", prepared(nn.BatchNorm1d(5)), (ROWS,), ops=("BatchNormalization",)),
    Case("batch_norm1d-rows", prepared(nn.BatchNorm1d(8)), (ROWS[:, 0].contiguous(),)),
    Case("batch_norm2d", prepared(nn.BatchNorm2d(4, eps=1e-3)), (IMAGE,)),
    Case("batch_norm2d-plain", prepared(nn.BatchNorm2d(4, affine=False)), (IMAGE,)),
    Case("batch_norm3d", prepared(nn.BatchNorm3d(2)), (torch.randn(2, 2, 3, 4, 2, generator=GENERATOR),)),
    Case("batch_norm2d-half", prepared(nn.BatchNorm2d(4)).half(), (IMAGE.half(),)),
    Case("layer_norm", prepared(nn.LayerNorm(8)), (ROWS,), ops=("LayerNormalization",)),
    Case("layer_norm-two-axes", prepared(nn.LayerNorm([5, 8], eps=1e-3)), (ROWS,)),
    Case("layer_norm-no-bias", prepared(nn.LayerNorm(8, bias=False)), (ROWS,)),
    Case("layer_norm-plain", nn.LayerNorm(8, elementwise_affine=False), (ROWS,)),
    Case("layer_norm-double", prepared(nn.LayerNorm(8)).double(), (ROWS.double(),)),
    Case("batch_norm2d-double", prepared(nn.BatchNorm2d(4, eps=1e-3)).double(), (IMAGE.double(),)),
    Case(
        "batch_norm1d-double-plain", prepared(nn.BatchNorm1d(8, affine=False)).double(), (ROWS[0].double(),)
    ),
    Case("group_norm-double", prepared(nn.GroupNorm(2, 4)).double(), (IMAGE.double(),)),
    Case("instance_norm-double", prepared(nn.InstanceNorm2d(4, affine=True)).double(), (IMAGE.double(),)),
    Case("instance_norm-double-plain", nn.InstanceNorm1d(5).double(), (ROWS.double(),)),
    Case("rms_norm-double", Rms(eps=1e-3, scaled=True).double(), (ROWS.double(),)),
    Case("layer_norm-half", prepared(nn.LayerNorm(8)).half(), (ROWS.half(),)),
    Case("layer_norm-bf16", prepared(nn.LayerNorm(8)).bfloat16(), (ROWS.bfloat16(),)),
    Case("instance_norm", prepared(nn.InstanceNorm2d(4, affine=True)), (IMAGE,)),
    Case("instance_norm-plain", nn.InstanceNorm1d(5), (ROWS,)),
    Case(
        "instance_norm-tracked",
        prepared(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        (IMAGE,),
    ),
    Case("normalize", lambda x: F.normalize(x, dim=1), (IMAGE,)),
    Case("local_response_norm", nn.LocalResponseNorm(3), (IMAGE,)),
    Case("weight_norm", nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), (ROWS,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(opset, groups):
    check(Case("group_norm", prepared(nn.GroupNorm(groups, 4)), (IMAGE,)), opset=opset)


def test_group_norm_keeps_its_digits_far_from_zero():
    x = IMAGE + 20
    module = nn.GroupNorm(2, 4)
    artifact = opened(
        OnnxTarget().emit(program_of(Case("group_norm", module, (x,))), opset=23, optimize=False)
    )
    exact = copy.deepcopy(module).double()(x.double()).detach()
    errors = [float((y.double() - exact).norm()) for y in (artifact(x), module(x).detach())]
    assert errors[0] <= 4 * errors[1]


def test_group_norm_reads_its_weights_as_they_are_stored():
    emitted = check(Case("group_norm", prepared(nn.GroupNorm(2, 4)), (IMAGE,)))
    assert op_types(emitted) == ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]


def test_group_norm_of_rows():
    check(Case("group_norm", nn.GroupNorm(5, 5, affine=False), (ROWS,)))


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize(("eps", "scaled"), [(1e-5, True), (None, True), (1e-3, False)])
def test_rms_norm(opset, eps, scaled):
    emitted = check(Case("rms_norm", prepared(Rms(eps=eps, scaled=scaled)), (ROWS,)), opset=opset)
    assert ("RMSNormalization" in op_types(emitted)) == (opset >= 23)


@pytest.mark.parametrize("opset", [20, 23])
def test_rms_norm_in_half_precision(opset):
    check(Case("rms_norm", prepared(Rms(eps=1e-5, scaled=True)).half(), (ROWS.half(),)), opset=opset)


@pytest.mark.parametrize("norm", [F.layer_norm, F.rms_norm])
def test_over_a_dynamic_size(norm):
    others = [torch.randn(2, n, 8, generator=GENERATOR) for n in (1, 3, 9)]
    check_sizes(lambda x: norm(x, x.shape[1:]), ROWS, {0: "batch", 1: "length"}, *others, opsets=(18, 20, 23))
