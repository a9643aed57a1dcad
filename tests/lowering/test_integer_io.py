"""`int8{io=int8}`: files that take and give integers, held to the simulation, which takes and gives floats."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.cli import main
from fxopt.errors import InputError, VerificationError
from fxopt.lowering import lower
from fxopt.lowering.integer_io import with_integer_io
from fxopt.lowering.integers import with_integer_weights
from fxopt.lowering.kernels.packing import why_not
from fxopt.lowering.kernels.plan import plan_kernels
from fxopt.ops import dequantize, fake_quantize, to_integers
from fxopt.program import Program, Quantized
from fxopt.verification import subject_of, verify_runs
from tests import zoo
from tests.lowering.kernels.test_plan import steps
from tests.lowering.test_integer_coverage import MOVES
from tests.lowering.test_integers import kernels, small
from tests.passes.helpers import calls, program, rand

X = rand(8, 6)


def integer_io(before: Program, *data: object, target: str = "onnx", options: str = "") -> Program:
    text = f"int8{{coverage=full,io=int8{options}}}"
    return fxopt.run_pipeline(before, text, calibration=list(data), target=target)


def linear() -> Program:
    weights = {"w": rand(6, 6, seed=1), "v": rand(4, 6, seed=2)}
    return program(lambda x, w, v: F.linear(F.linear(x, w).relu(), v), X, dynamic=True, **weights)


def named(artifact: fxopt.Artifact) -> tuple[Quantized, Quantized]:
    (x,), (y,) = artifact.signature.integer_inputs.values(), artifact.signature.integer_outputs.values()
    return x, y


def test_the_twin_takes_and_gives_the_integers_of_the_same_numbers() -> None:
    simulated = with_integer_weights(integer_io(linear(), X))
    twin = with_integer_io(simulated)
    assert calls(twin).count("to_integers") == 1
    assert twin.placeholders()[0].meta["val"].dtype is torch.uint8
    assert twin.output_nodes()[0].meta["val"].dtype is torch.uint8
    x, y = (s.quantized for s in (twin.signature.inputs[0], twin.signature.outputs[0]))
    for seed in range(5):
        values = 2 * rand(8, 6, seed=seed)
        assert torch.equal(twin(x.integers(values)), y.integers(simulated(values)))
    report = verify_runs(subject_of(simulated), subject_of(twin))
    assert report.ok, report.reason


def test_no_rounding_of_an_input_or_output_is_left() -> None:
    """What is an integer before it is read is not rounded once more; the output is rounded once."""
    simulated = with_integer_weights(integer_io(linear(), X))
    twin = with_integer_io(simulated)
    assert calls(simulated).count("fake_quantize") == 3
    assert calls(twin).count("fake_quantize") == 1
    scales = [n for n in twin.weights if n.startswith("args_0_scale")]
    assert not scales, "nothing is kept that nothing reads"


def test_the_float_program_stays_as_it_was() -> None:
    simulated = integer_io(linear(), X)
    text, weights = str(simulated), set(simulated.weights)
    with_integer_io(simulated)
    assert (str(simulated), set(simulated.weights)) == (text, weights)


def test_a_program_without_marks_stays_itself() -> None:
    before = linear()
    assert with_integer_io(before) is before


def test_an_output_that_is_read_too() -> None:
    """Its integers are given, its floats are read."""
    net = lambda x, w: (y := F.linear(x, w), y.tanh())  # noqa: E731
    simulated = integer_io(program(net, X, dynamic=True, w=rand(4, 6)), X)
    twin = with_integer_io(with_integer_weights(simulated))
    report = verify_runs(subject_of(simulated), subject_of(twin))
    assert report.ok, report.reason
    for target in ("eager", "torchscript", "onnx"):
        assert lower(simulated, target).report.ok


def test_an_input_that_is_returned() -> None:
    before = program(lambda x, w: (F.linear(x, w), x), X, dynamic=True, w=rand(4, 6))
    simulated = integer_io(before, X)
    for target in ("eager", "torchscript", "onnx"):
        artifact = lower(simulated, target)
        q = artifact.io_scales["args_0"].integers(X)
        assert torch.equal(artifact(q)[1], q)


def test_an_input_that_another_rounding_reads() -> None:
    """A rounding by other numbers rounds the floats that the integers stand for."""
    simulated = integer_io(linear(), X)
    (x,) = simulated.placeholders()
    (first,) = x.users
    twin = with_integer_io(simulated)
    (floats,) = twin.placeholders()[0].users
    assert floats.target is dequantize and first.target is fake_quantize
    scale = str(first.args[1].target)
    simulated.weights[scale] = simulated.weights[scale] * 2
    twin = with_integer_io(simulated)
    (floats,) = twin.placeholders()[0].users
    assert fake_quantize in {u.target for u in floats.users}


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx", "onnx:mobile"])
def test_files(target: str, tmp_path: Path) -> None:
    """Their scales are in the file; integers in and out are the simulation's."""
    data = rand(4, 3, 12, 12)
    before = fxopt.trace(small(), (data,), dynamic_shapes=({0: "batch"},))
    simulated = integer_io(before, data, target=target)
    suffix = {"eager": ".fxopt", "torchscript": ".pt", "onnx": ".onnx"}.get(target, ".ort")
    lower(simulated, target, path=tmp_path / f"net{suffix}")
    artifact = fxopt.load(tmp_path / f"net{suffix}")
    x, y = named(artifact)
    assert artifact.io_scales == {"input": x, "output": y}
    kind = torch.int8 if target == "onnx:mobile" else torch.uint8
    assert x.dtype is y.dtype is kind
    assert (x, y) == (simulated.signature.inputs[0].quantized, simulated.signature.outputs[0].quantized)
    got = artifact(x.integers(data))
    assert got.dtype is kind
    steps = (y.integers(simulated(data)).int() - got.int()).abs()
    assert int(steps.max()) <= 1 and float((steps > 0).float().mean()) <= 0.02
    assert fxopt.verify(simulated, artifact).ok


def test_the_notes_tell_the_scales() -> None:
    artifact = lower(integer_io(linear(), X), "onnx")
    x, y = named(artifact)
    assert f"input args_0: uint8, scale {x.scale:.9g}, zero point {x.zero_point}" in artifact.notes
    assert f"output output: uint8, scale {y.scale:.9g}, zero point {y.zero_point}" in artifact.notes


def test_wrong_scales_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the file, 5% off; a zero point off by one."""
    from fxopt.lowering import integer_io as module

    simulated = integer_io(linear(), X)
    constants = module._Twin._constants
    for wrong in (
        lambda q: Quantized(q.scale * 1.05, q.zero_point, q.kind),
        lambda q: Quantized(q.scale, q.zero_point + 1, q.kind),
    ):
        monkeypatch.setattr(
            module._Twin, "_constants", lambda self, q, wrong=wrong: constants(self, wrong(q))
        )
        with pytest.raises(VerificationError):
            lower(simulated, "onnx")


def test_entry_points_have_integers_too(tmp_path: Path) -> None:
    points = lower({"a": integer_io(linear(), X), "b": linear()}, "onnx", path=tmp_path / "both")
    assert set(points.a.io_scales) == {"args_0", "output"} and not points.b.io_scales


def test_a_saved_simulation_keeps_its_marks(tmp_path: Path) -> None:
    simulated = integer_io(linear(), X)
    simulated.save(tmp_path / "net.fxopt")
    again = fxopt.load(tmp_path / "net.fxopt")
    assert again.signature == simulated.signature
    assert named(lower(again, "onnx")) == named(lower(simulated, "onnx"))


@pytest.mark.skipif(bool(why_not("linear")), reason="needs integer kernels")
def test_torch_runs_integers_alone() -> None:
    twin = with_integer_io(with_integer_weights(integer_io(linear(), X, target="eager")))
    found = steps(plan_kernels(twin))
    assert found == [
        "_make_per_tensor_quantized_tensor",
        "quantized.linear_relu",
        "quantized.linear",
        "int_repr",
    ]


@pytest.mark.skipif(bool(why_not("linear")), reason="needs integer kernels")
def test_torch_gives_integers_that_it_has() -> None:
    """Of an output that is read in floats too, and of an input."""
    before = program(lambda x, w: (y := F.linear(x, w), y.tanh(), x), X, dynamic=True, w=rand(4, 6))
    found = steps(plan_kernels(with_integer_io(with_integer_weights(integer_io(before, X, target="eager")))))
    assert found.count("int_repr") == 2 and found.count("fxopt.to_integers") == 1, "the last is that of tanh"


def ends(found: dict[str, int]) -> set[str]:
    return {op for op in found if op in ("QuantizeLinear", "DequantizeLinear")}


@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "digits",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("squeezenet", "shufflenetv2", "mobilenetv2", "resnet10")
        ),
    ],
)
def test_nothing_but_integers(name: str, tmp_path: Path) -> None:
    """No float is left in onnxruntime's graph of a convolutional net: not even at its ends."""
    module, args = zoo.model(name)
    before = fxopt.trace(module, args, dynamic_shapes=zoo.dynamic_batch(args))
    found = kernels(integer_io(before, args), tmp_path)
    assert ends(found) == set()
    assert {op for op in set(found) - MOVES if not op.startswith(("QLinear", "QGemm"))} == set()
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_optimize_and_the_metric() -> None:
    """The user's metric calls model, simulation and file with the model's own floats."""
    model = nn.Linear(6, 4).eval().requires_grad_(False)
    seen: list[torch.dtype] = []

    def metric(run) -> float:
        seen.append(run(X).dtype)
        return -float((run(X) - model(X)).square().mean())

    options = {"pipeline": "int8{io=int8}", "target": "onnx", "calibration": [X]}
    result = fxopt.optimize(model, (X,), metric=metric, max_drop=0.1, **options)
    assert -0.01 < result.report.metric.after < 0
    assert set(seen) == {torch.float32}
    assert set(result.artifact.io_scales) == {"input", "output"}
    assert [n for n in result.report.notes if n.startswith("input input: uint8")]
    assert not fxopt.optimize(model, (X,), min_sqnr=20, **options).report.missed


def test_the_model_and_its_file_compare() -> None:
    """8 bits are another function than floats, by as little as they should be."""
    model = nn.Linear(6, 4).eval()
    result = fxopt.optimize(model, (X,), pipeline="int8{io=int8}", calibration=[X])
    report = fxopt.verify(model, result.artifact, inputs=[(X,)])
    assert report.verdict.value == "different" and report.max_abs_error < 0.1


def test_floats_are_refused_with_the_way_to_round_them() -> None:
    artifact = lower(integer_io(linear(), X), "onnx")
    with pytest.raises(InputError, match=r"round it with io_scales\['args_0'\].integers\(x\)"):
        artifact(X)


FACTORY = """
import torch
def build():
    torch.manual_seed(0)
    return torch.nn.Linear(6, 4).eval(), (torch.zeros(8, 6),)
"""


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(FACTORY)
    data, made, outputs = (tmp_path / n for n in ("x.npz", "out/model.onnx", "y.npz"))
    np.savez(data, input=X.numpy())

    def optimize(pipeline: str) -> int:
        return main(["optimize", f"{tmp_path}/net.py:build", "--pipeline", pipeline, "--target", "onnx",
                     "--calibration", str(data), "--output", str(tmp_path / "out")])  # fmt: skip

    assert optimize("int8{io=int8}") == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [n for n in report["notes"] if n.startswith("output output: uint8, scale ")]
    assert main(["verify", str(made), str(made)]) == 0
    assert main(["run", str(made), "--data", str(data), "--output", str(outputs)]) == 0
    with np.load(outputs) as arrays:
        assert arrays["output"].dtype == np.uint8 and len(arrays["output"]) == 8
    capsys.readouterr()
    assert optimize("int8{io=int8,io_keep=[logits]}") == 2
    assert "io_keep holds 'logits'" in capsys.readouterr().err


def test_to_integers_is_the_first_half_of_fake_quantize() -> None:
    numbers = torch.tensor(0.25), torch.tensor(7)
    for low, high, kind in ((0, 255, torch.uint8), (-128, 127, torch.int8)):
        q = to_integers(10 * X, *numbers, low, high)
        assert q.dtype is kind
        assert torch.equal(dequantize(q, *numbers), fake_quantize(10 * X, *numbers, low, high))
    with pytest.raises(TypeError, match="8-bit integers are 0 to 255 or -128 to 127, not 0 to 15"):
        to_integers(X, *numbers, 0, 15)
