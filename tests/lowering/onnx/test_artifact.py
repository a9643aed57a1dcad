"""Opening files: fxopt's own, other exporters', and what is no ONNX file."""

import subprocess
import sys

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from fxopt.errors import ArtifactError, InputError
from fxopt.frontend import trace
from fxopt.lowering import open_artifact
from fxopt.lowering.onnx import run
from fxopt.lowering.onnx.artifact import OnnxArtifact
from fxopt.lowering.onnx.target import OnnxTarget
from fxopt.lowering.tensors import pack, unpack
from tests.lowering.onnx.harness import Apply, Case, assert_same, opened, program_of

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
TARGET = OnnxTarget()


@pytest.fixture
def written(tmp_path):
    """A small file of fxopt's."""
    program = trace(nn.Linear(4, 2).eval(), (X,), dynamic_shapes={"input": {0: "batch"}})
    path = tmp_path / "linear.onnx"
    path.write_bytes(TARGET.emit(program, optimize=False).content)
    return path, program


def test_the_model_s_own_containers_come_back():
    def function(x):
        return {"a": (x + 1, None), "n": x.shape[0], "c": "fixed"}

    program = trace(Apply(function).eval(), (X,), dynamic_shapes={"inputs_0": {0: "batch"}})
    artifact = opened(TARGET.emit(program, optimize=False))
    result = artifact(X)
    assert isinstance(result, dict)
    assert (result["a"][1], result["n"], result["c"]) == (None, 3, "fixed")
    assert_same(result["a"][0], X + 1)
    assert artifact.signature == program.signature


def test_wrong_arguments(written):
    artifact = TARGET.open(str(written[0]))
    with pytest.raises(InputError, match="must have dtype"):
        artifact(X.double())
    with pytest.raises(InputError, match="size 5 at axis 1"):
        artifact(torch.zeros(3, 5))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.bool]
)
def test_dtypes_of_inputs_and_outputs(dtype):
    x = (X * 3).to(dtype)
    artifact = opened(TARGET.emit(program_of(Case("same", lambda t: t.flip(1), (x,))), optimize=False))
    assert_same(artifact.run_flat([x])[0], x.flip(1))
    assert_same(artifact.run_flat([x[:0]])[0], x[:0])


def test_numbers_are_python_s():
    def function(x):
        return x.shape[0], x.shape[0] / 2, x.shape[0] > 2

    program = program_of(Case("numbers", function, (X,)))
    assert opened(TARGET.emit(program, optimize=False)).run_flat([X]) == [3, 1.5, True]


def foreign(tmp_path, *, dims=("N", 4), outputs=("y",), element=TensorProto.FLOAT, out_dims=("N", 4)):
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in outputs]
    values = [helper.make_tensor_value_info(name, element, list(out_dims)) for name in outputs]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", element, list(dims))], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = tmp_path / "foreign.onnx"
    onnx.save(model, str(path))
    return str(path)


def test_a_file_of_another_exporter(tmp_path):
    artifact = TARGET.open(foreign(tmp_path))
    assert [str(s) for s in artifact.signature.inputs] == ["x: f32[N, 4]"]
    assert [str(s) for s in artifact.signature.outputs] == ["y: f32[N, 4]"]
    assert_same(artifact(X), X)
    assert_same(artifact(x=X), X)


def test_several_outputs_are_a_tuple(tmp_path):
    result = TARGET.open(foreign(tmp_path, outputs=("y", "z")))(X)
    assert isinstance(result, tuple)
    assert len(result) == 2


def test_sizes_without_a_usable_name(tmp_path):
    path = foreign(tmp_path, dims=("floor(n/2)", None), out_dims=("floor(n/2)", "2*x_1"))
    signature = TARGET.open(path).signature
    assert [s.shape for s in signature.tensor_inputs] == [("x_0", "x_1")]
    assert [s.shape for s in signature.outputs] == [("y_0", "2*x_1")]
    assert set(signature.symbols) == {"x_0", "x_1"}


def test_what_torch_can_not_hold(tmp_path):
    with pytest.raises(ArtifactError, match="'x' is no tensor that torch can hold"):
        TARGET.open(foreign(tmp_path, element=TensorProto.STRING))


def test_no_file(tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        TARGET.open(str(tmp_path / "none.onnx"))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x09" * 40])
def test_no_onnx_file(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(
        ArtifactError, match=r"bad\.onnx.*no ONNX file|bad\.onnx can't be opened as an ONNX file"
    ):
        TARGET.open(str(path))


def test_truncated_files(written):
    path, _ = written
    content = path.read_bytes()
    for sixteenth in range(16):
        path.write_bytes(content[: len(content) * sixteenth // 16])
        with pytest.raises(ArtifactError):
            TARGET.open(str(path))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"inputs": []}'])
def test_a_damaged_signature(written, text):
    path, _ = written
    model = onnx.load(str(path))
    next(p for p in model.metadata_props if p.key == "fxopt.signature").value = text
    onnx.save(model, str(path))
    with pytest.raises(ArtifactError, match="signature"):
        TARGET.open(str(path))


def test_a_signature_of_another_graph(written, tmp_path):
    path, _ = written
    model = onnx.load(str(path))
    entry = next(p for p in model.metadata_props if p.key == "fxopt.signature")
    other = onnx.load(foreign(tmp_path, outputs=("y", "z")))
    other.metadata_props.add(key=entry.key, value=entry.value)
    onnx.save(other, str(path))
    with pytest.raises(ArtifactError, match="was changed since fxopt wrote it"):
        TARGET.open(str(path))
    with pytest.raises(ArtifactError, match="does not fit the graph"):
        open_artifact(path, trust=True)


def test_without_onnxruntime_the_reference_evaluator_runs_the_file(written, monkeypatch):
    path, program = written
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    artifact = TARGET.open(str(path))
    assert isinstance(artifact, OnnxArtifact)
    assert "reference evaluator" in artifact.notes[0]
    assert_same(artifact(X), program(X))


def test_the_runner_needs_no_torch(written):
    path, program = written
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from fxopt.lowering.onnx.run import open_run\n"
        "from fxopt.lowering.wire import Packed\n"
        f"(result,) = open_run({str(path)!r})([Packed('float32', (3, 4), bytes.fromhex(sys.argv[1]))])\n"
        "print(result.dtype, result.shape, bytes(result.data).hex())"
    )
    packed = pack(X)
    assert not isinstance(packed, (int, float))
    text = bytes(packed.data).hex()
    done = subprocess.run([sys.executable, "-c", code, text], check=True, capture_output=True, text=True)
    dtype, *_, data = done.stdout.split()
    expected = program(X)
    assert isinstance(expected, torch.Tensor)
    got = unpack(type(packed)(dtype, tuple(expected.shape), bytes.fromhex(data)))
    assert_same(got, expected)
