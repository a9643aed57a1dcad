"""The public functions end to end: one model through all of them, and what goes wrong."""

from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt


class Net(nn.Module):
    """A convolution with BatchNorm, a branch, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 1.5)

    def forward(self, image: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        h = torch.relu(self.norm(self.conv(image))) * scale
        return {"logits": self.head(h.mean((2, 3))), "features": h}


@pytest.fixture
def model() -> nn.Module:
    return Net().eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


DYNAMIC = {"image": {0: "batch"}}


@pytest.mark.parametrize(
    ("target", "suffix"), [("eager", ".fxopt"), ("torchscript", ".pt"), ("onnx", ".onnx")]
)
def test_optimize_writes_a_verified_file_that_takes_and_returns_the_models_own_containers(
    model: nn.Module, image: torch.Tensor, tmp_path: Path, target: str, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    result = fxopt.optimize(model, (image,), target=target, path=path, dynamic_shapes=DYNAMIC)

    assert result.report.ok
    assert result.report.artifact is not None and result.report.artifact.size == path.stat().st_size
    assert "fuse-conv-bn" in [p.name for p in result.report.passes if p.changed]
    assert "aten.batch_norm" not in (result.report.after.ops if result.report.after else {})
    for artifact in (result.artifact, fxopt.load(path)):
        outputs = artifact(image=torch.cat([image, image, image]))
        assert isinstance(outputs, dict) and list(outputs) == ["logits", "features"]
        torch.testing.assert_close(outputs, dict(model(torch.cat([image, image, image]))))


def test_run_pipeline_leaves_its_program_alone(model: nn.Module, image: torch.Tensor) -> None:
    program = fxopt.trace(model, (image,), dynamic_shapes=DYNAMIC)
    before = str(program)
    after = fxopt.run_pipeline(program, "O1", check_each=True)
    assert str(program) == before
    assert program.diff(after)
    assert after.history == (fxopt.PassManager.parse("O1").expand(),)


def test_verify_compares_any_two_sides(model: nn.Module, image: torch.Tensor, tmp_path: Path) -> None:
    program = fxopt.trace(model, (image,), dynamic_shapes=DYNAMIC)
    artifact = fxopt.lower(program, "onnx", path=tmp_path / "m.onnx")
    program.save(str(tmp_path / "m.fxopt"))
    sides = [model, program, artifact, tmp_path / "m.onnx", str(tmp_path / "m.fxopt")]
    for side in sides:
        assert fxopt.verify(program, side).verdict == "equivalent"
        assert fxopt.verify(side, artifact).verdict == "equivalent"
    assert fxopt.verify(model, Net().eval(), inputs=[(image,)]).verdict == "equivalent"


def test_verify_finds_a_difference_and_shows_the_inputs(model: nn.Module, image: torch.Tensor) -> None:
    program = fxopt.trace(model, (image,), dynamic_shapes=DYNAMIC)
    wrong = Net().eval()
    with torch.no_grad():
        wrong.head.bias += 1e-3
    report = fxopt.verify(program, wrong)
    assert report.verdict == "different" and not report.ok
    assert report.counterexample is not None and report.counterexample.output == "logits"
    right, left = (
        side(*report.counterexample.args, **report.counterexample.kwargs) for side in (program, wrong)
    )
    assert not torch.allclose(right["logits"], left["logits"], atol=1e-4)


def test_two_modules_need_inputs(model: nn.Module) -> None:
    with pytest.raises(fxopt.FxoptError, match="neither side says what it takes"):
        fxopt.verify(model, model)


class Sum(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


@pytest.mark.parametrize("swapped", [False, True])
def test_sides_that_take_other_arguments_are_a_mistake(image: torch.Tensor, swapped: bool) -> None:
    one = fxopt.trace(nn.ReLU().eval(), (image,))
    two = fxopt.trace(Sum().eval(), (image, image))
    for program, module, said in (
        (
            one,
            Sum().eval(),
            r"Sum takes \(a: torch.Tensor, b: torch.Tensor\), the other side 1 argument: input",
        ),
        (two, nn.ReLU().eval(), r"ReLU takes \(input: torch.Tensor\), the other side 2 arguments: a, b"),
    ):
        sides = (module, program) if swapped else (program, module)
        with pytest.raises(fxopt.InputError, match=f"the two sides can't be compared: {said}"):
            fxopt.verify(*sides)


def test_a_metric_that_falls_too_far_leaves_no_file(
    model: nn.Module, image: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    scores = iter([0.9, 0.8])
    with pytest.raises(fxopt.VerificationError, match=r"fell from 0\.9 to 0\.8"):
        fxopt.optimize(model, (image,), path=path, metric=lambda _: next(scores), max_drop=0.05)
    assert not path.exists()


def test_a_constant_argument_is_checked(model: nn.Module, image: torch.Tensor) -> None:
    result = fxopt.optimize(model, (image, 2.0), target="eager", dynamic_shapes=DYNAMIC)
    with pytest.raises(fxopt.InputError, match=r"was fixed at 2\.0"):
        result.artifact(image, 3.0)


def test_a_pass_that_changes_the_function_is_caught_by_check_each(
    model: nn.Module, image: torch.Tensor
) -> None:
    class DropRelu(fxopt.RewritePass):
        """relu(x) -> x"""

        @staticmethod
        def pattern(x):
            return torch.relu(x)

        @staticmethod
        def replacement(x):
            return x.abs()

    program = fxopt.trace(model, (image,), dynamic_shapes=DYNAMIC)
    with pytest.raises(fxopt.VerificationError, match="pass 'drop-relu' changed the function"):
        fxopt.run_pipeline(program, [DropRelu()], check_each=True)


def test_a_size_that_the_model_branches_on_is_said(image: torch.Tensor) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.shape[0] > 4 else x - 1

    with pytest.warns(UserWarning, match="another way"):
        result = fxopt.optimize(
            Branches().eval(), (image,), target="eager", dynamic_shapes={"x": {0: "batch"}}
        )
    assert any("batch is at most 4" in note for note in result.report.notes)
    assert "# batch is at most 4" in str(result.program)
    with pytest.raises(fxopt.InputError, match="batch"):
        result.artifact(torch.cat([image] * 4))


def test_two_files_of_a_kind_are_told_apart(tmp_path: Path):
    for width in (4, 5):
        program = fxopt.trace(nn.Linear(width, 2).eval(), (torch.zeros(2, width),))
        fxopt.lower(program, "onnx", path=tmp_path / f"{width}.onnx", verify=False)
    with pytest.raises(
        fxopt.InputError, match=r"5\.onnx takes input: f32\[2, 5\], .*4\.onnx takes input: f32"
    ):
        fxopt.verify(tmp_path / "4.onnx", tmp_path / "5.onnx")
