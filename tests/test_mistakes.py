"""Mistakes in calls of the public functions: one `FxoptError` with what, where and what to do; nothing ignored."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from fxopt.errors import ArtifactError, FxoptError, InputError, LoweringError, PipelineError, TraceError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


MODEL = Net().eval()
X = torch.randn(3, 4)


@pytest.fixture(scope="module")
def program() -> fxopt.Program:
    return fxopt.trace(MODEL, (X,), dynamic_shapes={"x": {0: "batch"}})


Call = Callable[[fxopt.Program], object]


def drop(value: object) -> Call:
    return lambda p: fxopt.optimize(p, target="eager", metric=lambda run: 1.0, max_drop=value)


CALLS: list[tuple[str, Call, type[FxoptError], str]] = [
    ("pipeline of a module", lambda p: fxopt.run_pipeline(MODEL, "O1"), InputError, "got a Net.*fxopt.trace"),
    ("lower a module", lambda p: fxopt.lower(MODEL, "onnx"), InputError, "got a Net.*fxopt.trace"),
    ("manager", lambda p: fxopt.PassManager.parse("O1").run(MODEL), InputError, "got a Net.*fxopt.trace"),
    ("no pipeline", lambda p: fxopt.run_pipeline(p, None), PipelineError, "expected pipeline text.*None"),
    ("a number", lambda p: fxopt.run_pipeline(p, 3), PipelineError, "expected pipeline text.*got 3"),
    ("names", lambda p: fxopt.run_pipeline(p, ["O1"]), PipelineError, "got 'O1'; names stand in one text"),
    ("a class", lambda p: fxopt.trace(Net, (X,)), TraceError, r"trace an instance of it, Net\(\.\.\.\)"),
    (
        "fixpoint",
        lambda p: fxopt.run_pipeline(p, "fixpoint"),
        PipelineError,
        r"in parentheses: fixpoint\(a,b\)",
    ),
    (
        "one program",
        lambda p: fxopt.ensemble(p),
        InputError,
        "ensemble takes a list of programs, got <Program",
    ),
    ("o1", lambda p: fxopt.run_pipeline(p, "o1"), PipelineError, "did you mean 'O1'"),
    ("O3", lambda p: fxopt.run_pipeline(p, "O3"), PipelineError, "did you mean 'O[012]'"),
    ("a float", lambda p: fxopt.lower(p, "onnx", opset=20.0), LoweringError, "opset 20.0 .* 18 to 23"),
    (
        "a word",
        lambda p: fxopt.lower(p, "onnx", opset="18"),
        LoweringError,
        "opset '18' .* 18 to 23, as an int",
    ),
    ("opset", lambda p: fxopt.lower(p, "onnx", opset=99), LoweringError, "opset 99 .* 18 to 23"),
    ("opset of eager", lambda p: fxopt.lower(p, "eager", opset=18), LoweringError, "eager has none"),
    ("ONNX", lambda p: fxopt.lower(p, "ONNX"), LoweringError, "did you mean 'onnx'"),
    ("variant", lambda p: fxopt.lower(p, "onnx:mobil"), LoweringError, "did you mean 'onnx"),
    ("no target", lambda p: fxopt.lower(p, None), LoweringError, "expected the name of a target.*None"),
    ("target", lambda p: fxopt.run_pipeline(p, "O1", target="onxx"), LoweringError, "did you mean 'onnx'"),
    (
        "two targets",
        lambda p: fxopt.run_pipeline(p, "fixpoint(O2{target=eager})", target="onnx"),
        PipelineError,
        r"O2\{target=eager\}.*'onnx'",
    ),
    (
        "O2 for another target",
        lambda p: fxopt.optimize(p, pipeline="O2{target=eager}", target="onnx"),
        PipelineError,
        r"O2\{target=eager\}.*'onnx'",
    ),
    ("O2's target", lambda p: fxopt.run_pipeline(p, "O2{target=onxx}"), LoweringError, "did you mean 'onnx'"),
    ("args", lambda p: fxopt.optimize(p, (X,)), InputError, "a Program brings its own .*leave args out"),
    (
        "dynamic_shapes",
        lambda p: fxopt.optimize(p, dynamic_shapes={"x": {0: "n"}}, state=True),
        InputError,
        "leave dynamic_shapes and state out",
    ),
    ("max_drop", lambda p: fxopt.optimize(p, max_drop=0.1), InputError, "max_drop needs a metric"),
    ("a negative drop", drop(-1), InputError, "max_drop is -1; expected a number from 0"),
    ("a drop of NaN", drop(float("nan")), InputError, "max_drop is nan; expected a number from 0"),
    ("a drop in words", drop("0.1"), InputError, "max_drop is '0.1'; expected a number from 0"),
    (
        "NaN of the model itself",
        lambda p: fxopt.optimize(p, target="eager", metric=lambda run: float("nan"), max_drop=0.1),
        InputError,
        "the metric of the model itself is NaN",
    ),
    (
        "metric",
        lambda p: fxopt.optimize(p, target="eager", metric=lambda run: None),
        InputError,
        "metric returned None; expected a number",
    ),
    (
        "a metric that is none",
        lambda p: fxopt.optimize(p, target="eager", metric=0.5),
        InputError,
        "metric.*expected a function",
    ),
    ("a function", lambda p: fxopt.optimize(lambda x: x, (X,)), FxoptError, "wrap the function in a module"),
    ("suffix", lambda p: fxopt.optimize(MODEL, (X,), path="m.pt"), ArtifactError, "ends in .onnx"),
    ("load", lambda p: fxopt.load(3), ArtifactError, "expected a path, got 3"),
    ("save", lambda p: p.save(3), ArtifactError, "expected a path, got 3"),
    ("lower to 3", lambda p: fxopt.lower(p, "eager", path=3), ArtifactError, "expected a path, got 3"),
    ("verify 3", lambda p: fxopt.verify(p, 3), FxoptError, "can't verify a int"),
    ("one tensor", lambda p: fxopt.verify(p, p, inputs=X), InputError, r"expected the calls.*inputs=\[\(x"),
    ("numpy", lambda p: p(X.numpy()), InputError, r"numpy array; pass torch\.from_numpy\(x\)"),
    ("numpy traced", lambda p: fxopt.trace(MODEL, (X.numpy(),)), FxoptError, "torch.from_numpy"),
    ("a list", lambda p: p([1.0, 2.0]), InputError, "must be a tensor, got"),
    ("meta", lambda p: p(X.to("meta")), InputError, "is on the meta device: it has no values"),
]


@pytest.mark.parametrize(("call", "kind", "says"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_a_mistake_is_one_line(call: Call, kind: type[FxoptError], says: str, program: fxopt.Program):
    with pytest.raises(kind) as caught:
        call(program)
    said = str(caught.value)
    assert re.search(says, said.splitlines()[0]), said
    assert len(said.splitlines()) == 1 or said.splitlines()[-1].strip() == "^"


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_a_tensor_without_values_is_refused_by_artifacts(target: str, program: fxopt.Program):
    artifact = fxopt.lower(program, target, verify=False)
    for _ in range(2):
        with pytest.raises(InputError, match="meta device"):
            artifact(X.to("meta"))
    assert artifact(X).shape == (3, 2)  # type: ignore[attr-defined]


def test_a_wrong_option_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr("fxopt.optimizer.optimizing.trace", never)
    for wrong in (
        {"opset": 99},
        {"target": "onxx"},
        {"pipeline": "O9"},
        {"pipeline": "int8"},
        {"path": tmp_path / "m.pt"},
        {"path": tmp_path / "none" / "m.onnx"},
        {"max_drop": 0.1},
        {"max_drop": -0.1, "metric": lambda run: 1.0},
    ):
        with pytest.raises(FxoptError):
            fxopt.optimize(MODEL, (X,), **wrong)  # type: ignore[arg-type]


def test_calibration_that_nobody_reads_is_said(program: fxopt.Program):
    with pytest.warns(UserWarning, match="calibration is not used: no pass of 'clean' needs it"):
        fxopt.run_pipeline(program, "clean", calibration=[X])
    report = fxopt.optimize(program, pipeline="clean", target="eager", calibration=[X]).report
    assert any("calibration is not used" in note for note in report.notes)


def test_a_target_that_agrees_is_taken(program: fxopt.Program):
    fxopt.run_pipeline(program, "O2{target=onnx}", target="onnx")
    fxopt.run_pipeline(program, "O1", target="torchscript")
