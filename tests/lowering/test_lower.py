import gc
import inspect
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from fxopt import lowering
from fxopt.errors import ArtifactError, InputError, LoweringError, VerificationError
from fxopt.frontend import trace
from fxopt.lowering import Artifact, Emitted, Target, get_target, lower
from fxopt.lowering import check as check_module
from fxopt.lowering.eager.target import EagerTarget
from fxopt.lowering.remote import Worker
from fxopt.lowering.torchscript.target import TorchScriptTarget
from fxopt.program import Program, signature_to_json
from fxopt.report import Verdict, VerifyReport
from tests.lowering.targets import Wrong, content_of, files
from tests.traced import inputs, traced

SUFFIXES = {"eager": ".fxopt", "torchscript": ".pt", "onnx": ".onnx"}
MODELS = ("digits", "mlp", "bert", "lstm", "resnet10", "unet")


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("target", ["eager", "torchscript"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_becomes_a_verified_file(name: str, target: str, dynamic: bool, tmp_path: Path):
    program = traced(name, dynamic)
    path = tmp_path / f"model{SUFFIXES[target]}"
    artifact = lower(program, target, path=path)
    assert isinstance(artifact.report, VerifyReport)
    assert artifact.report.verdict is Verdict.EQUIVALENT, artifact.report.reason
    assert files(tmp_path) == [path.name]
    assert (artifact.path, artifact.size) == (str(path), path.stat().st_size)
    assert signature_to_json(artifact.signature) == signature_to_json(program.signature)
    tensors = inputs(name, dynamic)
    got, expected = artifact(*tensors), program(*tensors)
    assert type(got) is type(expected)
    assert torch.equal(got, expected)  # type: ignore[arg-type]


def test_onnx_is_verified_in_a_process_without_torch(tmp_path: Path):
    artifact = lower(traced("digits", True), "onnx", path=tmp_path / "m.onnx", opset=18)
    assert artifact.report.verdict is Verdict.EQUIVALENT  # type: ignore[attr-defined]
    assert files(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("target", SUFFIXES)
def test_the_same_program_gives_the_same_bytes(target: str, tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
        lower(traced("mlp", True), target, path=tmp_path / name / f"m{SUFFIXES[target]}", verify=False)
    first, second = ((tmp_path / n / f"m{SUFFIXES[target]}").read_bytes() for n in "ab")
    assert first == second
    for secret in (
        str(tmp_path),
        os.path.expanduser("~"),
        os.uname().nodename,
        os.path.dirname(torch.__file__),
    ):
        assert secret.encode() not in first


@pytest.mark.parametrize("target", SUFFIXES)
def test_in_memory_an_artifact_keeps_its_file_as_long_as_it_lives(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    artifact = lower(traced("mlp", True), target)
    assert artifact.path is None
    assert artifact.report.ok  # type: ignore[attr-defined]
    assert artifact(torch.zeros(3, 64)).shape == (3, 10)  # type: ignore[attr-defined]
    assert len(files(tmp_path)) == 1
    del artifact
    gc.collect()
    assert files(tmp_path) == []


def test_without_verification_there_is_no_report(tmp_path: Path):
    artifact = lower(traced("mlp", True), "eager", path=tmp_path / "m.fxopt", verify=False)
    assert artifact.report is None
    assert artifact(torch.zeros(2, 64)).shape == (2, 10)  # type: ignore[attr-defined]


def test_an_artifact_checks_its_arguments():
    artifact = lower(traced("mlp", True), "torchscript", verify=False)
    with pytest.raises(InputError, match="float64"):
        artifact(torch.zeros(2, 64, dtype=torch.float64))


# --- the user's mistakes


@pytest.mark.parametrize("name", ["m.pt", "m", "m.fxopt.onnx", ".fxopt"])
def test_a_wrong_suffix_is_refused_before_anything_is_done(name: str, tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"a name that ends in \.fxopt"):
        lower(traced("mlp", True), "eager", path=tmp_path / name)
    assert files(tmp_path) == []


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(LoweringError, match="unknown target 'torchscrip'; did you mean 'torchscript'"):
        lower(traced("mlp", True), "torchscrip")


def test_a_missing_folder_is_refused_before_anything_is_done(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"the folder .*nowhere does not exist"):
        lower(traced("mlp", True), "eager", path=tmp_path / "nowhere" / "m.fxopt")
    (tmp_path / "d.fxopt").mkdir()
    with pytest.raises(ArtifactError, match="it is a folder"):
        lower(traced("mlp", True), "eager", path=tmp_path / "d.fxopt")


@pytest.mark.parametrize("target", ["eager", "torchscript"])
def test_an_opset_is_for_onnx(target: str):
    with pytest.raises(LoweringError, match="opset is an option of onnx"):
        lower(traced("mlp", True), target, opset=20)


def test_weights_on_meta_have_nothing_to_write():
    with torch.device("meta"):
        program = trace(nn.Linear(3, 3).eval(), (torch.empty(2, 3),))
    with pytest.raises(LoweringError, match="'weight' is on the meta device"):
        lower(program, "eager")


class Without(EagerTarget):
    """A target that lacks a rule for some ops."""

    name = "without"

    def has_rule(self, node: torch.fx.Node) -> bool:
        return "relu" not in str(node.target) and "max_pool" not in str(node.target)

    def emit(self, *args: object, **kwargs: object) -> Emitted:  # type: ignore[override]
        raise AssertionError("nothing is emitted before every op has a rule")


class Block(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        return nn.functional.max_pool2d(torch.tanh(y), 2)


def test_every_op_without_a_rule_is_named_with_its_place(tmp_path: Path):
    model = nn.Sequential(Block(), Block()).eval()
    with pytest.raises(LoweringError) as caught:
        lower(trace(model, (torch.zeros(1, 1, 8, 8),)), Without(), path=tmp_path / "m.fxopt")
    text = str(caught.value)
    assert "\n" not in text
    line = inspect.getsourcelines(Block.forward)[1]
    for i in range(2):
        assert f"test_lower.py:{line + 1} {i}" in text
        assert f"test_lower.py:{line + 2} {i}" in text
    assert "aten.relu.default (" in text
    assert "aten.max_pool2d.default (" in text
    assert "tanh" not in text
    assert files(tmp_path) == []


# --- verification


def test_a_wrong_file_is_not_left(tmp_path: Path):
    with pytest.raises(VerificationError, match=r"not equivalent.*no file was left$") as caught:
        lower(traced("mlp", True), Wrong(), path=tmp_path / "m.pt")
    report = caught.value.report
    assert isinstance(report, VerifyReport)
    assert report.verdict is Verdict.DIFFERENT
    assert report.counterexample is not None
    assert files(tmp_path) == []


def test_a_wrong_file_leaves_the_old_one(tmp_path: Path):
    lower(traced("mlp", True), "torchscript", path=tmp_path / "m.pt", verify=False)
    before = (tmp_path / "m.pt").read_bytes()
    with pytest.raises(VerificationError):
        lower(traced("mlp", True), Wrong(), path=tmp_path / "m.pt")
    assert files(tmp_path) == ["m.pt"]
    assert (tmp_path / "m.pt").read_bytes() == before


def test_a_wrong_file_is_kept_under_its_name_if_asked_for(tmp_path: Path):
    with pytest.raises(VerificationError, match=r"kept as m\.pt\.unverified"):
        lower(traced("mlp", True), Wrong(), path=tmp_path / "m.pt", keep_unverified=True)
    assert files(tmp_path) == ["m.pt.unverified"]


def test_in_memory_a_wrong_artifact_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(VerificationError):
        lower(traced("mlp", True), Wrong())
    assert files(tmp_path) == []


def test_verify_false_keeps_what_it_is_told_to(tmp_path: Path):
    lower(traced("mlp", True), Wrong(), path=tmp_path / "m.pt", verify=False)
    assert files(tmp_path) == ["m.pt"]


def test_it_can_be_compared_with_the_program_that_was_rewritten():
    program = traced("mlp", True)
    rewritten = program.copy()
    next(n for n in rewritten.calls() if "relu" in str(n.target)).target = torch.ops.aten.tanh.default
    assert lower(rewritten, "eager").report.ok  # type: ignore[attr-defined]
    with pytest.raises(VerificationError):
        lower(rewritten, "eager", reference=program)


class Optimizing(TorchScriptTarget):
    """A target whose optimized content may be wrong, with a plainer one behind it."""

    def __init__(self, first: Target) -> None:
        self.first = first
        self.optimized: list[bool] = []

    def emit(
        self, program: Program, *, opset: int | None = None, stem: str = "model", optimize: bool = True
    ) -> Emitted:
        self.optimized.append(optimize)
        plain = Emitted(content_of(TorchScriptTarget()), ("plain",))
        return Emitted(content_of(self.first), ("optimized",), fallback=plain) if optimize else plain


def test_a_right_optimized_content_is_used():
    artifact = lower(traced("mlp", True), Optimizing(TorchScriptTarget()))
    assert artifact.notes == ("optimized",)


def test_a_wrong_optimized_content_gives_way_to_the_plain_one(tmp_path: Path):
    artifact = lower(traced("mlp", True), Optimizing(Wrong()), path=tmp_path / "m.pt")
    assert artifact.report.ok  # type: ignore[attr-defined]
    assert artifact.notes[0] == "plain"
    assert artifact.notes[1].startswith("the simplified file was not used: ")
    assert (tmp_path / "m.pt").read_bytes() == content_of(TorchScriptTarget())
    assert files(tmp_path) == ["m.pt"]


def test_without_verification_nothing_is_optimized():
    target = Optimizing(Wrong())
    lower(traced("mlp", True), target, verify=False)
    assert target.optimized == [False]


def test_an_undecided_file_is_kept_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    undecided = VerifyReport(Verdict.UNDECIDED, "no sizes were taken")
    monkeypatch.setattr(check_module, "verify_runs", lambda *_, **__: undecided)
    artifact = lower(traced("mlp", True), "eager", path=tmp_path / "m.fxopt")
    assert artifact.notes == ("not verified: no sizes were taken",)
    assert files(tmp_path) == ["m.fxopt"]


class Broken(TorchScriptTarget):
    """Emits what no runtime opens."""

    def emit(self, *args: object, **kwargs: object) -> Emitted:  # type: ignore[override]
        return Emitted(b"nonsense")


def test_a_file_that_does_not_open_is_a_difference(tmp_path: Path):
    with pytest.raises(VerificationError, match=r"PytorchStreamReader|RemoteError"):
        lower(traced("mlp", True), Broken(), path=tmp_path / "m.pt")
    assert files(tmp_path) == []


def test_a_crash_of_the_runtime_is_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = Worker.ask

    def crash(self: Worker, header: dict[str, object], values: tuple[object, ...] = ()) -> object:
        if header["do"] == "run":
            self.process.kill()
            self.process.wait()
        return original(self, header, values)  # type: ignore[arg-type]

    monkeypatch.setattr(Worker, "ask", crash)
    with pytest.raises(VerificationError, match=r"died \(signal 9\)"):
        lower(traced("mlp", True), "torchscript", path=tmp_path / "m.pt")
    assert files(tmp_path) == []


def test_a_users_target_without_a_runner_is_verified_here():
    class Own(EagerTarget):
        name, runner = "own", "nothing that fxopt knows"

    artifact = lower(traced("mlp", True), Own())
    assert artifact.report.ok  # type: ignore[attr-defined]
    assert "verified in this process: own names no runner" in artifact.notes[0]


def test_user_ops_are_verified_here():
    @torch.library.custom_op("fxopt_lower_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.ops.fxopt_lower_test.twice(x))

    program = trace(Model().eval(), (torch.randn(3),))
    for target in ("eager", "torchscript"):
        artifact = lower(program, target)
        x = torch.randn(3)
        assert torch.equal(artifact(x), torch.relu(x * 2))  # type: ignore[arg-type]
        assert artifact.notes == (
            "verified in this process: a fresh one must import what defines the ops of "
            "fxopt_lower_test first",
        )


# --- the package


def test_the_package_lists_and_finds_its_names():
    assert set(lowering.__all__) == set(dir(lowering))
    for name in lowering.__all__:
        assert getattr(lowering, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lover'"):
        _ = lowering.lover  # type: ignore[attr-defined]


def test_lower_stays_the_function_whoever_imports_the_module():
    import importlib

    importlib.reload(importlib.import_module("fxopt.lowering.lower"))
    assert callable(lowering.lower)


def test_another_name_for_the_package_is_refused():
    with pytest.raises(ImportError, match=r"import fxopt\.lowering, not lowering"):
        __import__("lowering")


@pytest.mark.parametrize("name", SUFFIXES)
def test_targets_are_found_by_name(name: str):
    target = get_target(name)
    assert (target.name, target.suffix) == (name, SUFFIXES[name])
    assert issubclass(Artifact, object)
