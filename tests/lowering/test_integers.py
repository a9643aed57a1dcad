"""Quantized programs as files: integers in them, fused kernels, and the numbers of the simulation on every target."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.lowering import lower
from fxopt.lowering.integers import with_integer_weights
from fxopt.ops import dequantize
from fxopt.program import Program
from fxopt.report import Verdict
from fxopt.verification import check_programs
from tests import zoo
from tests.passes.helpers import calls, program, rand

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


def kernels(program: Program, folder: Path) -> Counter[str]:
    """What onnxruntime makes of the file."""
    ort = pytest.importorskip("onnxruntime")
    lower(program, "onnx", path=folder / "net.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(folder / "net.onnx", options)
    return Counter(n.op_type for n in onnx.load(folder / "optimized.onnx").graph.node)


def test_onnxruntime_runs_the_whole_network_on_integers(quantized: Program, tmp_path: Path) -> None:
    found = kernels(quantized, tmp_path)
    assert found["QLinearConv"] == 2
    assert found["QGemm"] == 1
    assert found["QuantizeLinear"] == 1, "of the input"
    assert not {"Conv", "Gemm", "Relu", "DequantizeLinear"} & set(found)
    stored = onnx.load(tmp_path / "net.onnx").graph.initializer
    assert {i.data_type for i in stored if len(i.dims) > 1} == {onnx.TensorProto.INT8}


def test_a_linear_layer_of_sequences_is_one_integer_product(tmp_path: Path) -> None:
    found = kernels(int8(nn.Linear(16, 8).eval(), (rand(2, 5, 16),)), tmp_path)
    assert found["QGemm"] == 1
    assert not {"Gemm", "MatMul", "DequantizeLinear"} & set(found)


BETWEEN = {
    "average": lambda y: F.avg_pool2d(y, 2),
    "maximum": lambda y: F.max_pool2d(y, 2),
    "sum": lambda y: y + y.flip(0),
    "product": lambda y: y * y.flip(0),
    "gate": lambda y: y * y.mean((2, 3), keepdim=True).sigmoid(),
    "join": lambda y: torch.cat([y[:, :2], y.abs()[:, :2]], 1),
    "upsample": lambda y: F.interpolate(y, scale_factor=2),
    "permute": lambda y: y.permute(0, 1, 3, 2),
    "slice": lambda y: y[:, :, 1:],
    "shuffle": lambda y: F.channel_shuffle(y, 2),
    "relu6": F.relu6,
    "clip": lambda y: y.clamp(-1, 1),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_convolutions_stay_integer_around(name: str, tmp_path: Path) -> None:
    def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.conv2d(BETWEEN[name](F.conv2d(x, w, padding=1)), v, padding=1)

    x = rand(2, 4, 8, 8)
    before = program(net, x, w=rand(4, 4, 3, 3, seed=1), v=rand(4, 4, 3, 3, seed=2))
    found = kernels(fxopt.run_pipeline(before, "int8", calibration=[x], target="onnx"), tmp_path)
    assert found["QLinearConv"] == 2
    assert not {"Conv", "FusedConv", "Add", "Mul", "Concat", "AveragePool"} & set(found)


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
