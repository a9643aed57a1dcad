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
from fxopt.errors import VerificationError
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


def int8(
    model: nn.Module, args: tuple[torch.Tensor, ...], target: str = "onnx", scheme: str = "int8"
) -> Program:
    program = fxopt.trace(model, args, dynamic_shapes=zoo.dynamic_batch(args))
    data = [args] if scheme == "int8" else None
    return fxopt.run_pipeline(program, scheme, calibration=data, target=target)


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


class Lookup(nn.Module):
    """A table, a layer that reads its rows, and one whose weight the table is."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(300, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.layer(self.table(x)).tanh(), self.table.weight)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic", "int8-weights"])
def test_tables_are_integers_in_every_file(scheme: str, target: str) -> None:
    torch.manual_seed(0)
    model, x = Lookup().eval(), (torch.randint(0, 300, (4, 7)),)
    whole = lower(fxopt.trace(model, x), target).size
    program = int8(model, x, target, scheme)
    artifact = lower(program, target)
    assert artifact.report.ok, artifact.report.reason
    copies = 2 if (scheme, target) == ("int8-dynamic", "onnx") else 1  # that kernel reads it transposed
    assert artifact.size < (0.1 + 0.25 * copies) * whole + 12_000


def test_a_table_s_rows_are_looked_up_as_integers(tmp_path: Path) -> None:
    found = kernels(int8(Lookup().eval(), (torch.randint(0, 300, (4, 7)),), scheme="int8-weights"), tmp_path)
    assert found["Gather"] == 2, "of the integers and of their scales"
    assert found["DequantizeLinear"] == 2, "of the two layers' weights, not of the table for its rows"


def test_a_dynamic_product_is_one_kernel(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8, bias=False)).eval()
    found = kernels(int8(model, (rand(4, 5, 16),), scheme="int8-dynamic"), tmp_path)
    assert found["DynamicQuantizeMatMul"] == 2
    assert not {"MatMul", "Gemm", "MatMulInteger", "DequantizeLinear", "QuantizeLinear"} & set(found)


def test_layers_that_read_one_value_share_its_rounding(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 8), nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.a(x), self.b(x)

    found = kernels(int8(Two().eval(), (rand(4, 16),), scheme="int8-dynamic"), tmp_path)
    assert found["DynamicQuantizeLinear"] == 1
    assert found["MatMulIntegerToFloat"] == 2


@pytest.mark.parametrize(
    "x",
    [torch.zeros(3, 16), torch.full((3, 16), -2.5), torch.full((3, 16), 1e-40), rand(3, 16) * 1e30, rand(0, 16)],
    ids=["zeros", "constant", "denormal", "large", "empty"],
)  # fmt: skip
@pytest.mark.parametrize("target", TARGETS)
def test_dynamic_ranges_at_the_edge(x: torch.Tensor, target: str) -> None:
    torch.manual_seed(0)
    program = int8(nn.Linear(16, 8).eval(), (rand(4, 16),), target, "int8-dynamic")
    wanted, got = program(x), lower(program, target)(x)
    assert torch.allclose(wanted, got, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()) if x.numel() else 0)


@pytest.mark.parametrize("spoil", ["scale", "zero point", "axis"])
def test_a_dynamic_rounding_that_is_wrong_is_seen(spoil: str) -> None:
    """The file of a program whose numbers are a little off is not that of the right one."""
    program = int8(nn.Linear(16, 8).eval(), (rand(4, 16),), scheme="int8-dynamic")
    wrong = program.copy()
    name = next(n for n in wrong.weights if n.endswith("weight_scale"))
    if spoil == "zero point":
        zero = next(n for n in wrong.weights if n.startswith("zero_point"))
        wrong.weights[zero] = wrong.weights[zero] + 1
    else:
        scale = wrong.weights[name]
        wrong.weights[name] = scale * 1.05 if spoil == "scale" else scale.roll(1, 0)
    with pytest.raises(VerificationError):
        lower(wrong, "onnx", reference=program)


def _check_zoo(name: str, target: str, scheme: str = "int8") -> None:
    module, args = zoo.model(name)
    artifact = lower(int8(module, args, target, scheme), target)
    assert artifact.report.ok, artifact.report.reason


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CHEAP)
def test_the_zoo_s_small_models(name: str, target: str) -> None:
    _check_zoo(name, target)


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8-weights"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CHEAP)
def test_the_zoo_s_small_models_without_calibration(name: str, target: str, scheme: str) -> None:
    _check_zoo(name, target, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", zoo.names(*CHEAP))
def test_the_zoo(name: str, target: str) -> None:
    _check_zoo(name, target)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt2", "minilm"])
def test_the_zoo_by_the_ranges_at_each_call(name: str) -> None:
    _check_zoo(name, "onnx", "int8-dynamic")


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names(*CHEAP))
def test_the_zoo_with_weights_alone_rounded(name: str) -> None:
    module, args = zoo.model(name)
    program = int8(module, args, scheme="int8-weights")
    for target in TARGETS:
        report = lower(program, target).report
        assert report.ok, (target, report.reason)
