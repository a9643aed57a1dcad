"""Quantized programs as files: integers in them, fused kernels, and the numbers of the simulation on every target."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import fxopt
from fxopt.lowering import lower
from fxopt.lowering.integers import with_integer_weights
from fxopt.ops import dequantize
from fxopt.program import Program
from fxopt.report import Verdict
from fxopt.verification import check_programs
from tests import zoo
from tests.passes.helpers import calls, rand

TARGETS = ("eager", "torchscript", "onnx")
CHEAP = ("mlp", "digits", "tied_encoder")


def small() -> nn.Module:
    torch.manual_seed(0)
    conv, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
    return nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), last, nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()  # fmt: skip


def int8(model: nn.Module, args: tuple[torch.Tensor, ...], target: str = "onnx") -> Program:
    program = fxopt.trace(model, args, dynamic_shapes=zoo.dynamic_batch(args))
    return fxopt.run_pipeline(program, "int8", calibration=[args], target=target)


@pytest.fixture(scope="module")
def quantized() -> Program:
    return int8(small(), (rand(4, 3, 12, 12),))


def test_weights_are_the_integers_that_they_are_rounded_to(quantized: Program) -> None:
    stored = with_integer_weights(quantized)
    kinds = Counter(t.dtype for t in stored.weights.values() if t.dim() and t.numel() > 1)
    assert kinds[torch.int8] == 3
    assert kinds[torch.int32] == 3, "the biases"
    assert calls(stored).count("dequantize") == 6
    report = check_programs(quantized, stored, "exact")
    assert report.ok, report.reason


def test_a_program_without_rounding_stays_itself() -> None:
    program = fxopt.trace(small(), (rand(4, 3, 12, 12),))
    assert with_integer_weights(program) is program


def test_a_wrong_bias_scale_is_seen(quantized: Program) -> None:
    stored = with_integer_weights(quantized)
    node = next(n for n in stored.calls() if n.target is dequantize and n.meta["val"].dim() == 1)
    name = str(node.args[1].target)
    stored.weights[name] = stored.weights[name] * 2
    assert not check_programs(quantized, stored).ok


@pytest.mark.parametrize("target", TARGETS)
def test_files_are_smaller_and_agree_with_the_simulation(
    quantized: Program, target: str, tmp_path: Path
) -> None:
    whole = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).eval()
    x = (rand(4, 256),)
    size = lower(fxopt.trace(whole, x), target).size
    artifact = lower(int8(whole, x, target), target)
    assert artifact.report.ok
    assert artifact.size < 0.3 * size


def test_onnxruntime_runs_the_whole_network_on_integers(quantized: Program, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    lower(quantized, "onnx", path=path)
    assert {i.data_type for i in onnx.load(path).graph.initializer if len(i.dims) > 1} == {
        onnx.TensorProto.INT8
    }
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(path, options)
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] == 2
    assert kinds["QGemm"] == 1
    assert kinds["QuantizeLinear"] == 1, "of the input"
    assert not {"Conv", "Gemm", "Relu", "DequantizeLinear"} & set(kinds)


def test_a_linear_layer_of_sequences_is_one_integer_product(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    lower(int8(nn.Linear(16, 8).eval(), (rand(2, 5, 16),)), "onnx", path=path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(path, options)
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QGemm"] == 1
    assert not {"Gemm", "MatMul", "DequantizeLinear"} & set(kinds)


def test_torchscript_loads_with_torch_alone(quantized: Program, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    lower(quantized, "torchscript", path=path)
    code = (
        "import sys, torch; m = torch.jit.load(sys.argv[1]); print(m(torch.ones(2, 3, 12, 12))[0].shape);"
        "assert 'fxopt' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "torch.Size([2, 5])", done.stderr


def test_programs_with_rounding_are_saved_and_loaded(quantized: Program, tmp_path: Path) -> None:
    quantized.save(tmp_path / "net.fxopt")
    loaded = fxopt.load(tmp_path / "net.fxopt")
    x = rand(4, 3, 12, 12)
    assert torch.equal(loaded(x), quantized(x))


def test_optimize_takes_the_target_s_placement(tmp_path: Path) -> None:
    x = rand(4, 3, 12, 12)
    result = fxopt.optimize(
        small(), (x,), pipeline="int8", target="onnx", calibration=[x], path=tmp_path / "a.onnx"
    )
    assert result.report.verdict is Verdict.EQUIVALENT
    assert "placement=onnx:onnxruntime" in result.program.history[-1]


def _check_zoo(name: str, target: str) -> None:
    module, args = zoo.model(name)
    artifact = lower(int8(module, args, target), target)
    assert artifact.report.ok, artifact.report.reason


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CHEAP)
def test_the_zoo_s_small_models(name: str, target: str) -> None:
    _check_zoo(name, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", zoo.names(*CHEAP))
def test_the_zoo(name: str, target: str) -> None:
    _check_zoo(name, target)
