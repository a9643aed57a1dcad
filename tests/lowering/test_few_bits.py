"""Weights of 2 to 4 bits in files: packed, and the same integers when they are opened."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxopt
from fxopt.errors import ArtifactError
from fxopt.lowering import lower
from fxopt.lowering.few_bits import Few, few_bits, packed_bits, unpacked_bits, with_dense_weights
from fxopt.lowering.integers import with_integer_weights
from fxopt.program import Program
from fxopt.verification import check_programs
from tests.passes.helpers import calls, program, rand

X = rand(4, 64)


def net() -> Program:
    w, v, b = rand(256, 64, seed=1), rand(64, 256, seed=2), rand(256, seed=3)
    return program(lambda x, w, v, b: F.linear(F.linear(x, w, b).relu(), v), X, dynamic=True, w=w, v=v, b=b)


def rounded(options: str) -> Program:
    return fxopt.run_pipeline(net(), options)


@given(st.sampled_from([2, 4]), st.booleans(), st.lists(st.integers(0, 5), max_size=3), st.integers(0, 99))
def test_what_is_packed_comes_back(width: int, signed: bool, shape: list[int], seed: int) -> None:
    low = -(2 ** (width - 1)) if signed else 0
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(low, low + 2**width, shape, generator=generator).to(torch.int8)
    packed = packed_bits(q, few := Few(width, signed))
    assert packed.dtype is torch.uint8 and packed.numel() == -(-q.numel() * width // 8)
    assert torch.equal(unpacked_bits(packed, few, shape), q)


def test_the_first_integer_is_in_the_low_bits() -> None:
    assert packed_bits(torch.tensor([1, -1], dtype=torch.int8), Few(4, True)).tolist() == [0xF1]
    assert packed_bits(torch.tensor([1, 0, -1, -2, 1], dtype=torch.int8), Few(2, True)).tolist() == [0xB1, 1]


@pytest.mark.parametrize(
    ("options", "few"),
    [
        ("int8-weights{bits=2}", Few(2, True)),
        ("int8-weights{bits=3}", Few(4, True)),
        ("int8-weights{bits=4}", Few(4, True)),
        ("int4-weights", Few(4, True)),
        ("int4-weights{symmetric=false}", Few(4, False)),
    ],
)
def test_which_weights_are_of_few_bits(options: str, few: Few) -> None:
    simulated = rounded(options)
    stored = with_integer_weights(simulated)
    found = few_bits(stored)
    assert {n: f for n, f in found.items() if n in "wv"} == {"w": few, "v": few}
    assert all(stored.weights[n].dtype is torch.int8 for n in found)
    points = [n for n in found if n.endswith("_zero_points")]
    assert len(points) == (0 if few.signed else 2), "zero points by block are integers too"
    report = check_programs(simulated, stored, "exact")
    assert report.ok, report.reason


def test_weights_of_8_bits_are_none() -> None:
    assert few_bits(with_integer_weights(rounded("int8-weights"))) == {}
    assert "packed" not in str(with_integer_weights(rounded("int8-weights")).attached)


@pytest.mark.parametrize(("bits", "share"), [(4, 2), (3, 2), (2, 4)])
def test_eager_files_are_smaller(bits: int, share: int, tmp_path: Path) -> None:
    whole = lower(rounded("int8-weights"), "eager").size
    simulated = rounded(f"int8-weights{{bits={bits}}}")
    artifact = lower(simulated, "eager", path=tmp_path / "net.fxopt")
    integers = 2 * 64 * 256
    assert whole - artifact.size == pytest.approx(integers - integers / share, abs=600)
    opened = fxopt.load(tmp_path / "net.fxopt")
    assert torch.equal(opened(X), artifact(X))
    assert fxopt.verify(simulated, opened).ok


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ("int8-weights{bits=4}", 2),
        ("int8-weights{bits=3}", 2),
        ("int8-weights{bits=2}", 4),
        ("int8-weights{bits=4,weights=unsigned}", 2),
    ],
)
def test_torchscript_files_are_smaller(options: str, share: int, tmp_path: Path) -> None:
    whole = lower(rounded("int8-weights"), "torchscript").size
    simulated = rounded(options)
    artifact = lower(simulated, "torchscript", path=tmp_path / "net.pt")
    integers = 2 * 64 * 256
    assert whole - artifact.size == pytest.approx(integers - integers / share, abs=4000)
    opened = fxopt.load(tmp_path / "net.pt")
    assert torch.equal(opened(X), artifact(X)) and torch.equal(opened(X), artifact(X)), "the second time too"
    assert fxopt.verify(simulated, opened).ok


@pytest.mark.parametrize(
    "options", ["int8-weights{bits=3}", "int8-weights{bits=2}", "int4-weights{symmetric=false}"]
)
def test_a_torchscript_file_has_the_program_s_integers(options: str, tmp_path: Path) -> None:
    simulated = rounded(options)
    lower(simulated, "torchscript", path=tmp_path / "net.pt")
    wanted = with_integer_weights(simulated)
    names = list(few_bits(wanted))
    code = (
        "import sys, torch\n"
        f"module = torch.jit.load({str(tmp_path / 'net.pt')!r})\n"
        "before = {n: b.numel() for n, b in module.named_buffers()}\n"
        "result = module(torch.ones(4, 64))\n"
        f"for n in {names}: getattr(module, n).zero_()\n"
        "assert torch.equal(module(torch.ones(4, 64))[0], result[0]), 'bytes are read once'\n"
        f"torch.save((before, dict(module.named_buffers())), {str(tmp_path / 'found.pt')!r})\n"
        "assert 'fxopt' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)
    before, found = torch.load(tmp_path / "found.pt")
    assert len(names) >= 2
    for name in names:
        unpacked = found[f"{name}_unpacked"]
        assert before[f"{name}_unpacked"] == 0, "nothing but the bytes is stored"
        assert torch.equal(unpacked, wanted.weights[name]) and unpacked.dtype is torch.int8


def test_entry_points_of_a_torchscript_file_share_packed_weights(tmp_path: Path) -> None:
    simulated = rounded("int8-weights{bits=4}")
    both = lower({"a": simulated, "b": simulated}, "torchscript", path=tmp_path / "both")
    files = [f.stat().st_size for f in (tmp_path / "both").iterdir()]
    assert sum(files) < 1.5 * lower(simulated, "torchscript").size
    assert torch.equal(both.a(X), both.b(X))


def test_blocks_are_packed_in_eager_files() -> None:
    """Integers, and zero points where blocks have them: half a byte each."""
    plain, shifted = (
        lower(rounded(o), "eager").size for o in ("int4-weights", "int4-weights{symmetric=false}")
    )
    integers, blocks = 2 * 64 * 256, 2 * 64 * 256 // 32
    assert plain < integers / 2 + 4 * blocks + 8000
    assert shifted - plain == pytest.approx(blocks / 2, abs=600)


def test_entry_points_share_packed_weights(tmp_path: Path) -> None:
    simulated = rounded("int8-weights{bits=4}")
    one = lower(simulated, "eager").size
    both = lower({"a": simulated, "b": simulated}, "eager", path=tmp_path / "both")
    files = [f.stat().st_size for f in (tmp_path / "both").iterdir()]
    assert sum(files) < 1.5 * one
    assert torch.equal(both.a(X), both.b(X)) and torch.equal(both.a(X), lower(simulated, "eager")(X))


def test_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    x = rand(2, 3, 12, 12)
    simulated = fxopt.run_pipeline(fxopt.trace(model, (x,)), "int8-weights{bits=4}")
    for target in ("eager", "torchscript", "onnx"):
        assert lower(simulated, target).report.ok


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (3, "malformed"),
        ({"w": [3, 1, 4]}, "malformed"),
        ({"w": [4, 2, 4]}, "malformed"),
        ({"w": [4, 1, -4]}, "malformed"),
        ({"w": [4, 1, "4"]}, "malformed"),
        ({"w": 4}, "malformed"),
        ({"w": [4, 1, 6]}, "its packed weight 'w' has another size than its table says"),
        ({"v": [4, 1, 4]}, "its packed weight 'v' has another size than its table says"),
    ],
)
def test_a_table_that_does_not_fit(table: object, message: str) -> None:
    weights = {"w": torch.zeros(2, dtype=torch.uint8), "v": torch.zeros(2)}
    with pytest.raises(ArtifactError, match=message):
        with_dense_weights(weights, table)


def test_weights_that_are_not_packed_stay() -> None:
    weights = {"w": torch.tensor([0xF1], dtype=torch.uint8), "v": torch.zeros(2)}
    dense = with_dense_weights(weights, {"w": [4, 1, 2], "another": [2, 1, 4]})
    assert dense["w"].tolist() == [1, -1] and dense["v"] is weights["v"]


def test_a_damaged_table_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fxopt.lowering.eager import target

    path = tmp_path / "net.fxopt"
    monkeypatch.setattr(target, "_settings", lambda table: {"prepack": [], "packed": [1]})
    with pytest.raises(
        ArtifactError, match=r"can't read .*net.fxopt: its table of packed weights is malformed"
    ):
        lower(rounded("int8-weights{bits=4}"), "eager", path=path, verify=False)


def stored(artifact_path: Path) -> tuple[int, dict[str, int]]:
    """The opset of an ONNX file and the types of its matrices."""
    model = onnx.load(artifact_path)
    (opset,) = (o.version for o in model.opset_import if not o.domain)
    return opset, {i.name: i.data_type for i in model.graph.initializer if len(i.dims) > 1}


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_onnx_files_hold_two_integers_a_byte(bits: int, tmp_path: Path) -> None:
    simulated = rounded(f"int8-weights{{bits={bits}}}")
    artifact = lower(simulated, "onnx", path=tmp_path / "net.onnx")
    opset, kinds = stored(tmp_path / "net.onnx")
    assert (opset, artifact.opset) == (21, 21) and set(kinds.values()) == {onnx.TensorProto.INT4}
    whole = lower(rounded("int8-weights"), "onnx").size
    zero_points = 64 + 256  # which are left out where all are 0
    assert whole - artifact.size == pytest.approx(64 * 256 + zero_points, abs=100)
    assert artifact.report.ok


def test_the_integers_in_an_onnx_file_are_those_of_the_simulation(tmp_path: Path) -> None:
    simulated = rounded("int8-weights{bits=4}")
    lower(simulated, "onnx", path=tmp_path / "net.onnx")
    wanted = with_integer_weights(simulated).weights["w"]
    (found,) = (i for i in onnx.load(tmp_path / "net.onnx").graph.initializer if list(i.dims) == [256, 64])
    assert onnx.numpy_helper.to_array(found).astype("int8").tolist() == wanted.tolist()


def test_the_opset_is_raised_only_where_the_type_needs_it(tmp_path: Path) -> None:
    """Not for 8 bits, not for blocks, which are onnxruntime's own ops, not for tables, whose rows are looked up."""
    table = program(lambda i, t: F.embedding(i, t), torch.tensor([1, 2]), t=rand(6, 8))
    for before, options in (
        (net(), "int8-weights"),
        (net(), "int4-weights"),
        (table, "int8-weights{bits=4}"),
    ):
        artifact = lower(fxopt.run_pipeline(before, options), "onnx", path=tmp_path / "net.onnx")
        assert stored(tmp_path / "net.onnx")[0] == artifact.opset == 20
        assert onnx.TensorProto.INT4 not in stored(tmp_path / "net.onnx")[1].values()


@pytest.mark.parametrize(("opset", "kind"), [(20, onnx.TensorProto.INT8), (23, onnx.TensorProto.INT4)])
def test_an_opset_that_is_asked_for_stays(opset: int, kind: int, tmp_path: Path) -> None:
    lower(rounded("int8-weights{bits=4}"), "onnx", path=tmp_path / "net.onnx", opset=opset)
    found, kinds = stored(tmp_path / "net.onnx")
    assert found == opset and set(kinds.values()) == {kind}


def test_the_report_tells_the_opset() -> None:
    model = nn.Linear(64, 8).eval()
    for pipeline, opset in (("int8-weights{bits=4}", 21), ("int8-weights", 20)):
        result = fxopt.optimize(model, (X,), pipeline=pipeline, target="onnx")
        assert result.report.artifact.opset == opset
    assert fxopt.optimize(model, (X,), target="eager").report.artifact.opset is None


def test_tensorrt_files_hold_a_byte_for_each(tmp_path: Path) -> None:
    lower(rounded("int8-weights{bits=4}"), "onnx:tensorrt", path=tmp_path / "net.onnx")
    opset, kinds = stored(tmp_path / "net.onnx")
    assert opset == 20 and onnx.TensorProto.INT4 not in kinds.values()


def test_weights_beside_an_onnx_file(tmp_path: Path) -> None:
    from fxopt.lowering.onnx.target import OnnxTarget

    simulated = rounded("int8-weights{bits=4}")
    artifact = lower(simulated, OnnxTarget(external_threshold=1), path=tmp_path / "net.onnx")
    assert artifact.report.ok and len(list(tmp_path.iterdir())) == 2


def test_a_convolution_s_weights_in_an_onnx_file(tmp_path: Path) -> None:
    """An odd number of integers: the last half of a byte is empty."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.ConvTranspose2d(5, 3, 3)).eval()
    simulated = fxopt.run_pipeline(fxopt.trace(model, (rand(2, 3, 8, 8),)), "int8-weights{bits=4}")
    assert lower(simulated, "onnx", path=tmp_path / "net.onnx").report.ok
    assert list(stored(tmp_path / "net.onnx")[1].values()).count(onnx.TensorProto.INT4) == 2


def test_products_on_either_side_have_blocks() -> None:
    """`x @ w` becomes a linear layer before weights are rounded."""
    before = program(lambda x, w: x @ w, X, w=rand(64, 32))
    after = fxopt.run_pipeline(before, "int4-weights")
    assert "fake_quantize" in calls(after)
    assert few_bits(with_integer_weights(after))


def test_integers_of_one_sign_are_no_int4(tmp_path: Path) -> None:
    """0 to 15 with a zero point of 0: ONNX's INT4 ends at 7."""
    before = program(lambda x, w: F.linear(x, w), X, w=rand(32, 64).abs())
    simulated = fxopt.run_pipeline(before, "int8-weights{bits=4,weights=unsigned}")
    assert few_bits(with_integer_weights(simulated))["w"] == Few(4, False)
    for target in ("onnx", "eager"):
        assert lower(simulated, target).report.ok
