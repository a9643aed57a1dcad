"""Activation functions against torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.lowering.onnx.harness import Case, check, op_types

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) * 3
IMAGE = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
SPECIAL = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1.5, -2.5, 40.0]]).repeat(3, 1)

MODULES = [
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SELU(), nn.CELU(0.6), nn.GELU(),
    nn.GELU("tanh"), nn.SiLU(),
    nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid(), nn.Tanh(), nn.Softplus(),
    nn.Softplus(2.0, 3.0), nn.Softsign(), nn.Tanhshrink(), nn.Hardshrink(0.7), nn.Softshrink(0.7),
    nn.Threshold(0.3, -1.0), nn.LogSigmoid(), nn.GLU(), nn.Hardtanh(-0.5, 2.0), nn.Softmax(-1), nn.Softmax(0),
    nn.LogSoftmax(-1), nn.Softmin(-1), nn.RReLU(),
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module(module):
    check(Case(str(module), module, (X,)))


@pytest.mark.parametrize("channels", [1, 4])
def test_prelu(channels):
    module = nn.PReLU(channels)
    nn.init.uniform_(module.weight, -0.5, 0.5)
    check(Case("prelu", module, (IMAGE,)))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("opset", [18, 20])
def test_gelu_is_one_node_from_opset_20(approximate, opset):
    emitted = check(Case("gelu", nn.GELU(approximate), (X,)), opset=opset)
    assert ("Gelu" in op_types(emitted)) == (opset >= 20)


@pytest.mark.parametrize("name", ["relu", "softmax", "sigmoid", "silu", "hardtanh", "softplus", "leaky_relu"])
def test_nan_and_infinities(name):
    check(Case(name, lambda x: getattr(F, name)(x, **({"dim": 1} if name == "softmax" else {})), (SPECIAL,)))


@pytest.mark.parametrize("module", [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Softmax(-1), nn.Hardswish()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(module, dtype):
    check(Case(str(module), module, (X.to(dtype),)))


CASES = [
    Case("relu-int", torch.relu, (X.long(),)),
    Case("softmax-casts", lambda x: torch.softmax(x, -1, dtype=torch.float32), (X.half(),)),
    Case("softmax-of-size-1", lambda x: torch.softmax(x.mean(1, keepdim=True), 1), (X,)),
    Case("log_softmax-3d", lambda x: torch.log_softmax(x.reshape(-1, 2, 4), 1), (X,)),
    Case("elu-scaled", lambda x: torch.ops.aten.elu(x, 1.5, 1.2, 0.7), (X,)),
    Case("glu-dim", lambda x: F.glu(x, 1), (X,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)
