"""`bits=`: weights of 2, 3 and 4 bits, trained through the rounding, and the same numbers in files."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.analysis.ranges import Grid
from fxopt.errors import PipelineError
from fxopt.lowering import lower
from fxopt.ops import fake_quantize
from fxopt.passes.quantize._rounding import weight_scale
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.program import Program
from fxopt.testing import check_pass
from tests.passes.helpers import program, rand

X = rand(6, 3, 8, 8)


class Net(nn.Module):
    """A convolution, one by groups, a linear layer, a table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=4)
        self.c = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x).relu()).relu().mean((2, 3)))


def rounded(bits: int) -> Program:
    return fxopt.run_pipeline(program(Net(), X, dynamic=True), f"int8-weights{{bits={bits}}}")


def levels(after: Program) -> set[int]:
    """How many values each rounded weight may have, and has at most."""
    found = set()
    for node in after.calls():
        if node.target is fake_quantize:
            x, scale = (after.weights[str(a.target)].detach() for a in node.args[:2])
            low, high = node.args[3:]
            integers = torch.round(x / scale).clamp(low, high)
            assert float(integers.abs().max()) <= max(-low, high)
            found.add(high - low + 1)
    return found


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_weight_has_as_many_values_as_bits_say(bits: int) -> None:
    after = rounded(bits)
    assert sum(n.target is fake_quantize for n in after.calls()) == 3, "convolutions are rounded too"
    assert levels(after) == {2**bits}


def test_bits_that_there_are_not() -> None:
    with pytest.raises(PipelineError, match="bits"):
        fxopt.PassManager.parse("int8-weights{bits=5}")


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("channel", [0, 1])
def test_few_integers_are_spent_where_the_values_are(bits: int, channel: int) -> None:
    """Of at most 3 bits the scale has the least squared error of those tried; of more it holds the largest value."""
    weight = rand(5, 64) if channel == 0 else rand(64, 5)
    grid = Grid(bits, signed=True, narrow=True)
    scale = weight_scale(weight, channel, grid, torch.zeros(()))
    largest = weight.abs().amax(1 - channel, keepdim=True) / grid.high

    def error(tried: torch.Tensor) -> torch.Tensor:
        q = torch.round(weight / tried).clamp(grid.lowest, grid.high)
        return (q * tried - weight).square().sum(1 - channel, keepdim=True)

    assert scale.shape == largest.shape
    if bits == 4:
        assert torch.allclose(scale, largest)
        return
    assert bool((scale < largest).any())
    for share in (0.2, 0.36, 0.5, 0.64, 0.8, 1.0):
        assert bool((error(scale) <= error(largest * share) * (1 + 1e-5)).all())


def test_a_dead_channel_has_a_scale() -> None:
    weight = rand(3, 8)
    weight[1] = 0
    scale = weight_scale(weight, 0, Grid(2, signed=True, narrow=True), torch.zeros(()))
    assert bool((scale > 0).all())
    assert weight_scale(torch.ones(3), 0, Grid(2, signed=True), torch.zeros(())).shape == (3,)


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_files_agree_with_the_simulation(target: str) -> None:
    artifact = lower(rounded(2), target)
    assert artifact.report.ok, artifact.report.reason


@pytest.mark.parametrize("pipeline", ["int8", "int8-weights{bits=2}"])
def test_distillation_through_the_rounding(pipeline: str) -> None:
    """It trains, scales stay, and what is lowered is what was trained."""
    before = program(Net(), X, dynamic=True)
    calibration = [X] if pipeline == "int8" else None
    student = fxopt.run_pipeline(before, pipeline, calibration=calibration, target="onnx")
    data = [(rand(16, 3, 8, 8, seed=s),) for s in range(4)]
    trained = fxopt.distill(before, student, data, loss="mse", epochs=12, learning_rate=3e-3, progress=False)

    def error(found: Program) -> float:
        return float(sum(F.mse_loss(found(x), before(x)) for (x,) in data))

    assert error(trained) < 0.7 * error(student)
    scales = [n for n in student.weights if n.endswith("_scale")]
    assert scales
    assert all(torch.equal(trained.weights[n], student.weights[n]) for n in scales)
    artifact = lower(trained, "onnx")
    assert artifact.report.ok, artifact.report.reason


def test_finetuning_through_the_rounding() -> None:
    student = rounded(2)
    data = [(X, torch.arange(6) % 5)]
    trained = fxopt.finetune(
        student, data, loss=F.cross_entropy, epochs=60, learning_rate=2e-2, progress=False
    )
    loss = [float(F.cross_entropy(p(X), data[0][1])) for p in (student, trained)]
    assert loss[1] < 0.8 * loss[0]
    assert levels(trained) == {4}


def test_drawn_programs() -> None:
    check_pass(InsertFakeQuant(scheme="int8-weights", bits=2), examples=15)
