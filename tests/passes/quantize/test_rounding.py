"""Weights of 0 to 255, one scale and zero point a tensor."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.analysis.ranges import Grid
from fxopt.lowering import lower
from fxopt.ops import fake_quantize
from fxopt.passes.quantize._rounding import weight_affine
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.program import Program
from fxopt.testing import check_pass
from tests.lowering.test_integers import kernels
from tests.passes.helpers import program, rand

BYTES = Grid(8, signed=False)
NONE = torch.zeros(())
X = rand(4, 3, 8, 8)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, 5)).eval()  # fmt: skip


def rounded(pipeline: str = "int8{weights=unsigned}") -> Program:
    calibration = None if "-" in pipeline else [X]
    return fxopt.run_pipeline(
        program(net(), X, dynamic=True), pipeline, calibration=calibration, target="onnx"
    )


@pytest.mark.parametrize(
    ("values", "scale", "zero_point"),
    [
        ([-1.0, 1.55], 2.55 / 255, 100),
        ([0.5, 2.55], 2.55 / 255, 0),
        ([-2.55, -0.5], 2.55 / 255, 255),
        ([-2.55, 0.0], 2.55 / 255, 255),
        ([0.0, 0.0], 2.0**-60, 0),
        ([], 2.0**-60, 0),
    ],
)
def test_the_range_is_covered(values: list[float], scale: float, zero_point: int) -> None:
    found, zero = weight_affine(torch.tensor(values), BYTES, NONE)
    assert math.isclose(float(found), scale, rel_tol=1e-6)
    assert zero == zero_point


def test_a_scale_that_a_bias_needs_moves_the_zero_point() -> None:
    found, zero = weight_affine(torch.tensor([-1.0, 1.55]), BYTES, torch.tensor([0.01, 0.02]))
    assert math.isclose(float(found), 0.02, rel_tol=1e-6)
    assert zero == 50
    assert weight_affine(torch.tensor([1.0]), BYTES, torch.tensor(1.0))[1] == 0


def test_one_scale_and_zero_point_a_weight() -> None:
    after = rounded()
    weights = [
        n
        for n in after.calls()
        if n.target is fake_quantize and n.args[0].op == "get_attr" and n.meta["val"].dim() > 1
    ]
    assert len(weights) == 3
    for node in weights:
        assert tuple(node.args[3:]) == (0, 255)
        x, scale, zero = (after.weights[str(a.target)].detach() for a in node.args[:3])
        assert scale.dim() == 0
        assert 0 < int(zero) < 255
        assert float((fake_quantize(x, scale, zero, 0, 255) - x).abs().max()) <= 0.51 * float(scale)


def test_onnxruntime_runs_them_on_integers(tmp_path) -> None:
    found = kernels(rounded(), tmp_path)
    assert found["QLinearConv"] == 2
    assert found["QGemm"] == 1
    assert not {"Conv", "Gemm", "DequantizeLinear"} & set(found)


@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic", "int8-weights"])
@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_files_agree_with_the_simulation(scheme: str, target: str) -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table, self.head = nn.Embedding(30, 16), nn.Linear(16, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return F.relu(self.head(self.table(ids)))

    ids = torch.randint(0, 30, (3, 5))
    before = program(Table(), ids, dynamic=True)
    calibration = [ids] if scheme == "int8" else None
    after = fxopt.run_pipeline(
        before, f"{scheme}{{weights=unsigned}}", calibration=calibration, target=target
    )
    artifact = lower(after, target)
    assert artifact.report.ok, artifact.report.reason


def test_drawn_programs() -> None:
    check_pass(InsertFakeQuant(weights="unsigned"), examples=15)
