"""Programs that draw random numbers: the model's own numbers from the same state, at every target that has torch."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.draws import rewind_draws, same_draws
from fxopt.report import Verdict
from tests.frontend.good_models import Function, noise


def drawing(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    torch.rand(2)  # nobody reads it; what follows is drawn after it
    first, second = torch.rand_like(x), torch.rand_like(x)
    noisy = torch.empty_like(x).normal_(std=0.1)
    return (
        F.dropout(x, 0.5),
        first - second,
        noisy * 1.0,
        torch.bernoulli(torch.sigmoid(x)),
        F.rrelu(x, training=True),
    )


def drawn(function, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(5)
    return list(function(x))


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.allclose(p, q, atol=1e-6) for p, q in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def program() -> fxopt.Program:
    return fxopt.trace(Function(drawing).eval(), (noise(4, 3),), dynamic_shapes={"x": {0: "n"}}, state=True)


def test_a_comparison_leaves_the_generator_as_it_was():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with same_draws():
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    rewind_draws()
    assert torch.equal(torch.rand(3), first)


def test_a_program_draws_what_the_model_draws(program: fxopt.Program):
    x = noise(7, 3)
    assert same(drawn(program, x), drawn(drawing, x))
    assert not same(list(program(x)), list(program(x)))  # each call draws anew


@pytest.mark.parametrize("target", ["eager", "torchscript"])
def test_an_optimized_file_draws_what_the_model_draws(target: str):
    """No draw is merged with an equal one, dropped, folded or moved before another."""
    result = fxopt.optimize(
        Function(drawing).eval(), (noise(4, 3),), dynamic_shapes={"x": {0: "n"}}, target=target, state=True
    )
    x = noise(7, 3)
    assert result.artifact is not None
    assert same(drawn(result.artifact, x), drawn(drawing, x))
    assert result.artifact.report is not None
    assert result.artifact.report.verdict is Verdict.EQUIVALENT
    assert "random numbers were compared from equal states of torch's generator" in result.artifact.notes


def test_a_program_that_draws_is_kept_in_a_file(program: fxopt.Program, tmp_path: Path):
    program.save(tmp_path / "drawing.fxopt")
    again = fxopt.load(tmp_path / "drawing.fxopt")
    assert same(drawn(again, noise(2, 3)), drawn(drawing, noise(2, 3)))


def test_other_draws_are_another_function(program: fxopt.Program):
    def swapped(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = drawing(x)
        return (*kept[:1], -kept[1], *kept[2:])

    other = fxopt.trace(Function(swapped).eval(), (noise(4, 3),), dynamic_shapes={"x": {0: "n"}}, state=True)
    assert fxopt.verify(program, program.copy()).ok
    assert fxopt.verify(program, other).verdict is Verdict.DIFFERENT
    assert fxopt.verify(Function(drawing).eval(), program).ok


def test_onnx_names_what_it_can_not_draw(program: fxopt.Program):
    with pytest.raises(
        fxopt.LoweringError, match=r"no rule for aten\.rand_like\.default \(test_draws\.py:\d+\)"
    ):
        fxopt.lower(program, "onnx")


def test_a_model_with_a_seed_of_its_own_is_refused():
    def seeded(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return x + torch.rand_like(x)

    with pytest.raises(fxopt.TraceError, match="must not set a seed"):
        fxopt.trace(Function(seeded).eval(), (noise(2, 3),), state=True)


def test_a_branch_may_not_draw():
    def branching(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + torch.rand_like(x), lambda x: x - 1, (x,))

    with pytest.raises(fxopt.TraceError, match=r"a branch of torch\.cond draws"):
        fxopt.trace(Function(branching).eval(), (noise(2, 3),), state=True)


class Adapting(nn.Module):
    """Normalises by the batch's own statistics at inference too, and keeps the running ones."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True)


@pytest.mark.parametrize("target", ["eager", "torchscript"])
def test_running_statistics_are_state(target: str):
    model, x = Adapting().eval(), noise(6, 3)
    with pytest.raises(fxopt.TraceError, match=r"training op aten\.batch_norm.*state=True"):
        fxopt.trace(model, (x,))
    program = fxopt.trace(model, (x,), state=True)
    states = {"state.norm.running_mean": torch.zeros(3), "state.norm.running_var": torch.ones(3)}
    y, mean, variance = fxopt.lower(program, target)(x, **states)
    torch.testing.assert_close(y, model(x))
    torch.testing.assert_close(mean, model.norm.running_mean)
    torch.testing.assert_close(variance, model.norm.running_var)


@pytest.mark.parametrize("target", ["eager", "torchscript"])
def test_a_draw_that_one_branch_reads_is_made_in_any_case(target: str):
    def reading(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.rand_like(x)
        return torch.cond(x.sum() > 0, lambda x, n: x + n, lambda x, n: x - 1, (x, noise)), torch.rand_like(x)

    program = fxopt.trace(Function(reading).eval(), (noise(2, 3),), state=True)
    artifact = fxopt.lower(program, target)
    for x in (torch.ones(2, 3), -torch.ones(2, 3)):
        assert same(drawn(artifact, x), drawn(reading, x))
