"""`onnx:tensorrt`, `onnx:mobile`, `onnx:onnxruntime`: what their files hold, and how they are checked."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import fxopt
from fxopt.errors import ArtifactError, LoweringError
from fxopt.lowering import Artifact, get_target, lower
from fxopt.ops import fake_quantize
from fxopt.program import Program
from tests import zoo
from tests.passes.helpers import program, rand

X = rand(4, 3, 8, 8)


class Net(nn.Module):
    """Convolutions with both kinds of relu, a sum, a pool, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu6(self.a(x))
        y = torch.relu(y + self.b(y))
        return self.c(nn.functional.adaptive_avg_pool2d(y, 1).flatten(1))


def quantized(target: str, pipeline: str = "int8") -> Program:
    return fxopt.run_pipeline(program(Net(), X, dynamic=True), pipeline, calibration=[X], target=target)


def lowered(target: str, path: Path) -> Artifact:
    return lower(quantized(target), target, path=path)


@pytest.mark.parametrize("target", ["onnx:tensorrt", "onnx:mobile"])
def test_activations_are_symmetric(target: str) -> None:
    after = quantized(target)
    roundings = [n for n in after.calls() if n.target is fake_quantize]
    kinds = {tuple(n.args[3:]) for n in roundings if n.meta["val"].dim() > 1}
    assert kinds == {(-128, 127)}
    assert not any(bool(after.weights[str(n.args[2].target)]) for n in roundings)
    first = roundings[0]
    assert first.args[0].op == "placeholder"
    assert 0.9 < 127 * float(after.weights[str(first.args[1].target)]) / float(X.abs().max()) < 1.01


def test_mobile_is_onnxruntime_s_own_format(tmp_path: Path) -> None:
    path = tmp_path / "net.ort"
    artifact = lowered("onnx:mobile", path)
    assert artifact.report.ok
    assert path.read_bytes()[4:8] == b"ORTM"
    assert torch.equal(fxopt.load(path)(X), artifact(X))
    assert artifact(X[:3]).shape == (3, 5), "sizes stay dynamic"
    listed = (tmp_path / "net.required_operators.config").read_text().splitlines()
    ops = {domain: set(names.split(",")) for domain, _, names in (line.split(";") for line in listed)}
    assert "QLinearConv" in ops["ai.onnx"]
    assert {"QLinearAdd", "QLinearLeakyRelu", "QGemm"} <= ops["com.microsoft"]
    assert not {"Conv", "FusedConv", "Clip", "Relu", "Gemm"} & ops["ai.onnx"]
    assert [line.split(";")[1] for line in listed] == ["20", "1"]


def test_a_mobile_file_that_is_damaged_or_another_s(tmp_path: Path) -> None:
    path = tmp_path / "net.ort"
    lower(program(nn.Linear(3, 2), rand(4, 3)), "onnx:mobile", path=path)
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(ArtifactError, match="it is damaged, or not written by fxopt"):
        fxopt.load(path)
    with pytest.raises(ArtifactError, match="No such file"):
        get_target("onnx:mobile").open(str(tmp_path / "none.ort"))


def test_mobile_has_no_files_of_several_entry_points(tmp_path: Path) -> None:
    one = program(nn.Linear(3, 2), rand(4, 3))
    with pytest.raises(LoweringError, match="onnx:mobile has no files of several entry points"):
        lower({"a": one, "b": one}, "onnx:mobile", path=tmp_path)


def test_tensorrt_has_floating_biases_and_no_rounded_results(tmp_path: Path) -> None:
    artifact = lowered("onnx:tensorrt", tmp_path / "net.onnx")
    assert artifact.report.ok, artifact.report.reason
    graph = onnx.load(tmp_path / "net.onnx").graph
    made = {o: n for n in graph.node for o in n.output}
    rounded = [
        made[n.input[0]].op_type for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in made
    ]
    assert "Conv" not in rounded, "a convolution's result is added to before it is rounded"
    assert {i.data_type for i in graph.initializer if len(i.dims) > 1} == {onnx.TensorProto.INT8}
    stored = {i.name: i.data_type for i in graph.initializer}
    biases = [n.input[2] for n in graph.node if n.op_type in ("Conv", "Gemm")]
    assert {stored[b] for b in biases} == {onnx.TensorProto.FLOAT}


def test_the_variant_of_onnxruntime_is_onnx(tmp_path: Path) -> None:
    plain, named = quantized("onnx"), quantized("onnx:onnxruntime")
    assert plain.history == named.history
    lower(plain, "onnx", path=tmp_path / "a.onnx")
    lower(named, "onnx:onnxruntime", path=tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("most", "op"),
    [(None, "LeakyRelu"), (6.0, "LeakyRelu"), (1.0, "Clip")],
    ids=["relu", "above the integers", "among the integers"],
)
def test_a_relu_between_roundings_is_a_kernel_that_there_is(most: float | None, op: str) -> None:
    def net(x: torch.Tensor, s: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        y = torch.ops.fxopt.fake_quantize(x, s, z, -128, 127)
        return torch.ops.fxopt.fake_quantize(y.clamp(0, most), s, z, -128, 127)

    before = program(net, rand(4, 5), s=torch.tensor(4 / 127), z=torch.tensor(0))
    artifact = lower(before, "onnx")
    assert artifact.report.ok, artifact.report.reason
    graph = onnx.load_from_string(get_target("onnx").emit(before).content).graph
    assert [n.op_type for n in graph.node][2] == op


def test_a_relu_that_floats_read_stays() -> None:
    def net(x: torch.Tensor, s: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.ops.fxopt.fake_quantize(x, s, z, -128, 127).relu()
        return torch.ops.fxopt.fake_quantize(y, s, z, -128, 127), y

    before = program(net, rand(4, 5), s=torch.tensor(0.1), z=torch.tensor(0))
    ops = [n.op_type for n in onnx.load_from_string(get_target("onnx").emit(before).content).graph.node]
    assert "Relu" in ops
    unrounded = program(lambda x, s, z: torch.ops.fxopt.fake_quantize(x.relu(), s, z, 0, 255), rand(4, 5),
                        s=torch.tensor(0.1), z=torch.tensor(0))  # fmt: skip
    assert "Relu" in [
        n.op_type for n in onnx.load_from_string(get_target("onnx").emit(unrounded).content).graph.node
    ]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx:tensorrt", "onnx:mobile"])
@pytest.mark.parametrize("name", ["digits", "unet", "bert", "convnext", "squeezenet", "mobilenetv2"])
def test_the_zoo(name: str, target: str) -> None:
    module, args = zoo.model(name)
    before = fxopt.trace(module, args, dynamic_shapes=zoo.dynamic_batch(args))
    artifact = lower(fxopt.run_pipeline(before, "int8", calibration=[args], target=target), target)
    assert artifact.report.ok, artifact.report.reason
