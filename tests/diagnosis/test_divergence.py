"""Where two sides part first, by provenance and by value, with the user's line."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from fxopt.diagnosis.divergence import first_parting, program_values
from fxopt.diagnosis.inner import InnerValue
from fxopt.frontend import trace
from fxopt.report import Parting, VerifyReport
from tests.diagnosis.broken_passes import WrongThird, net


class Small(nn.Module):
    """conv, bn, gelu, linear, tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.gelu(self.bn(self.conv(x)))
        return self.head(y.mean((2, 3))).tanh()


def small() -> nn.Module:
    torch.manual_seed(0)
    model = Small().eval()
    with torch.no_grad():
        model.bn.running_mean.normal_()
        model.bn.running_var.uniform_(0.5, 1.5)
    return model


def with_other_bias() -> nn.Module:
    other = copy.deepcopy(small())
    with torch.no_grad():
        other.head.bias[2] += 0.1
    return other


IMAGE = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))
SIZES = [{0: "batch"}]


def parting(report: VerifyReport) -> Parting:
    assert report.verdict == "different" and report.parting is not None
    return report.parting


def test_by_provenance_through_a_right_fusion():
    program = trace(small(), (IMAGE,), dynamic_shapes=SIZES)
    fused = fxopt.run_pipeline(trace(with_other_bias(), (IMAGE,), dynamic_shapes=SIZES), "O1")
    found = parting(fxopt.verify(program, fused))
    assert (
        found.op == "aten.linear.default" and "head" in found.where and "test_divergence.py:" in found.where
    )
    assert found.candidate.startswith("aten.linear") and found.after


def test_a_wrong_rewrite_is_named():
    program = net()
    found = parting(fxopt.verify(program, fxopt.run_pipeline(program, [WrongThird()])))
    assert found.op == "aten.relu.default" and found.candidate.startswith("aten.clamp")


def test_by_value_in_a_file_of_anothers(tmp_path: Path):
    """The file of the wrong model, all that fxopt knows of it taken out."""
    onnx = pytest.importorskip("onnx")
    program = trace(small(), (IMAGE,), dynamic_shapes=SIZES)
    fused = fxopt.run_pipeline(trace(with_other_bias(), (IMAGE,), dynamic_shapes=SIZES), "O1")
    fxopt.lower(fused, "onnx", path=tmp_path / "own.onnx")
    proto = onnx.load(tmp_path / "own.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    report = fxopt.verify(program, str(tmp_path / "foreign.onnx"))
    found = parting(report)
    assert found.op == "aten.linear.default" and "head" in found.where and found.after == ("mean",)
    again = VerifyReport.from_json(report.to_json())
    assert again.parting == found


def test_two_modules():
    report = fxopt.verify(small(), with_other_bias(), inputs=[(IMAGE,)])
    assert parting(report).op == "aten.linear.default"


def test_nothing_parts_where_nothing_does():
    program = trace(small(), (IMAGE,), dynamic_shapes=SIZES)
    values = program_values(fxopt.run_pipeline(program, "O1"), [IMAGE])
    assert first_parting(program, values, [IMAGE]) is None
    bare = [InnerValue(v.name, v.op, v.tensor) for v in values]
    assert first_parting(program, bare, [IMAGE]) is None


def test_what_is_told_of_each_output():
    report = fxopt.verify(small(), with_other_bias(), inputs=[(IMAGE,)])
    (output,) = report.outputs
    assert output.index[-1] == 2 and output.abs_required == pytest.approx(output.max_abs_error, rel=1e-3)
    assert 0 < output.abs_tolerance < 1e-5 < output.abs_required
    assert output.histogram["0"] == 9 and sum(output.histogram.values()) == 12
