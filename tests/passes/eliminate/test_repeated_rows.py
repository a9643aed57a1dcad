"""Dead rows whose places are needed are made once, where that saves more than the copy costs."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.lowering import lower
from fxopt.passes.eliminate.eliminate_dead_weights import EliminateDeadWeights
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.report import Verdict
from fxopt.verification import double_program
from tests.passes.helpers import applied, calls, program, rand, unchanged


def normed(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(F.linear(x, w, b), [8])


def sizes(of: Program) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in of.weights.items()}


def dead(tensor: torch.Tensor, *rows: int) -> torch.Tensor:
    return tensor.index_fill(0, torch.tensor(rows), 0)


def same(before: Program, after: Program, *shape: int) -> bool:
    x = rand(*shape, seed=3).double()
    return torch.allclose(before(x), after(x), rtol=1e-12, atol=1e-13)


def test_rows_of_zeros_are_made_once() -> None:
    before = double_program(
        program(normed, rand(2, 64), w=dead(rand(8, 64), 1, 4, 6), b=dead(rand(8), 1, 4, 6))
    )
    after = applied(EliminateDeadWeights(), before).program
    assert sizes(after) == {"w": (6, 64), "b": (6,), "places": (8,)}
    assert after.weights["places"].tolist() == [0, 1, 2, 3, 1, 4, 1, 5]
    assert calls(after) == ["linear", "index_select", "layer_norm"]
    assert same(before, after, 2, 64)


def test_each_constant_is_made_once() -> None:
    bias = torch.tensor([0.5, 2.0, 0.5, 1.0, 2.0, 2.0, 0.0, 0.5])
    before = double_program(program(normed, rand(2, 64), w=dead(rand(8, 64), 0, 1, 2, 4, 5, 7), b=bias))
    after = applied(EliminateDeadWeights(), before).program
    assert after.weights["places"].tolist() == [0, 1, 0, 2, 1, 1, 3, 0]
    assert after.weights["b"].tolist() == [0.5, 2.0, 1.0, 0.0]
    assert same(before, after, 2, 64)


def test_rows_that_give_the_same_but_live_stay() -> None:
    w = rand(8, 64)
    w[3] = w[2]
    unchanged(EliminateDeadWeights(), program(normed, rand(2, 64), w=w, b=torch.zeros(8)))


@pytest.mark.parametrize(("width", "places"), [(63, False), (64, True)])
def test_a_copy_has_to_pay(width: int, places: bool) -> None:
    w = dead(rand(8, width), 1, 4, 6)  # two rows go: 2 * 64 multiplications for 8 elements
    before = program(normed, rand(2, width), w=w, b=dead(rand(8), 1, 4, 6))
    if places:
        assert "places" in applied(EliminateDeadWeights(), before).program.weights
    else:
        (reason,) = unchanged(EliminateDeadWeights(), before)
        assert reason.startswith("3 of 8 rows of w are dead, blocked by layer_norm")


def convolved(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.group_norm(F.conv2d(x, w, padding=1), 2)


def transposed(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.group_norm(F.conv_transpose2d(x, w), 2)


@pytest.mark.parametrize(
    ("function", "w", "left"),
    [
        (convolved, dead(rand(8, 16, 3, 3), 0, 5), (7, 16, 3, 3)),
        (transposed, dead(rand(8, 16, 3, 3), 0, 5, 6).transpose(0, 1), (16, 6, 3, 3)),
    ],
)
def test_convolutions(function: Callable[..., torch.Tensor], w: torch.Tensor, left: tuple[int, ...]) -> None:
    before = double_program(program(function, rand(2, 16, 5, 5), w=w.contiguous(), dynamic=True))
    after = applied(EliminateDeadWeights(), before).program
    assert sizes(after)["w"] == left
    assert same(before, after, 3, 16, 5, 5)


def test_operands_in_a_list() -> None:
    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(torch.einsum("bi,oi->bo", x, w), [8])

    after = applied(
        EliminateDeadWeights(), program(function, rand(2, 64), w=dead(rand(8, 64), 1, 4, 6))
    ).program
    assert sizes(after)["w"] == (6, 64)


@pytest.mark.parametrize("same_weight", [False, True])
def test_a_product_of_weights_stays(same_weight: bool) -> None:
    def function(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return x + F.layer_norm(F.linear(w if same_weight else v, w), [8])

    weights = {"w": dead(rand(8, 64), 1, 4, 6), "v": dead(rand(8, 64, seed=1), 1, 4, 6)}
    after = applied(EliminateDeadWeights(), program(function, rand(8, 8), **weights)).program
    assert sizes(after)["w"] == (8, 64)


@pytest.mark.parametrize(("groups", "channels", "window"), [(2, 32, 3), (8, 8, 9)])
def test_rows_of_groups_stay(groups: int, channels: int, window: int) -> None:
    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.group_norm(F.conv2d(x, w, groups=groups, padding=4), 1)

    w = dead(rand(8, channels // groups, window, window), 0, 5, 6)
    unchanged(EliminateDeadWeights(), program(function, rand(2, channels, 9, 9), w=w))


def test_weights_that_others_read_stay() -> None:
    def function(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.layer_norm(F.linear(x, w), [8]), w.sum(1)

    unchanged(EliminateDeadWeights(), program(function, rand(2, 64), w=dead(rand(8, 64), 1, 4, 6)))


def test_it_trains_on() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.LayerNorm(8))
    with torch.no_grad():
        module[0].weight[[1, 4, 6]], module[0].bias[[1, 4, 6]] = 0, 0
    after = applied(EliminateDeadWeights(), program(module, rand(2, 64))).program
    assert after.weights["0.weight"].shape == (6, 64)
    assert after.weights["0.weight"].requires_grad


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_files(target: str) -> None:
    before = program(
        normed, rand(2, 64), w=dead(rand(8, 64), 1, 4, 6), b=dead(rand(8), 1, 4, 6), dynamic=True
    )
    small = lower(PassManager.of([EliminateDeadWeights()]).run(before).program, target)
    assert small.report is not None
    assert small.report.verdict is Verdict.EQUIVALENT
