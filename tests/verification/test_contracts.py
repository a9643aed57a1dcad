"""Programs before and after a pass."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.pipeline import Pass, PassManager
from fxopt.program import Program
from fxopt.report import Verdict
from fxopt.rewriting import Rewriter
from fxopt.verification import check_programs
from tests.verification.models import block, conv_bn, folded


def wide_folds(module: nn.Module, **how: float) -> Callable[[Program], Program]:
    """The fold as a rewrite of the float64 program."""
    wide = copy.deepcopy(module).double()
    example = (torch.randn(2, 3, 8, 8, dtype=torch.float64),)

    def transform(twin: Program) -> Program:
        assert twin.weights["conv.weight"].dtype is torch.float64
        return trace(folded(wide, **how), example, dynamic_shapes=[{0: "batch"}])

    return transform


def fold(module: nn.Module, **how: float) -> Program:
    return trace(folded(module, **how), (torch.randn(2, 3, 8, 8),), dynamic_shapes=[{0: "batch"}])


def test_a_right_rewrite():
    module, program = conv_bn()
    after = fold(module)
    report = check_programs(program, after, transform=wide_folds(module))
    assert report.ok, report.reason
    assert report.oracle == "algebra, float64"
    algebra = [o for o in report.outputs if o.name == "output in float64"]
    assert 0 < algebra[0].ratio < 32
    assert check_programs(program, after, "exact").verdict is Verdict.DIFFERENT
    assert check_programs(program, program.copy(), "exact").ok


@pytest.mark.slow
def test_a_pass_on_both_programs():
    def fused(program: Program) -> Program:
        return PassManager.parse("fuse-conv-bn").run(program).program

    _, program = conv_bn()
    report = check_programs(program, fused(program), transform=fused)
    assert report.ok, report.reason
    assert report.oracle == "algebra, float64"


class OtherEps(Pass):
    """An epsilon of 1.01e-5 for 1e-5: rounding hides it in float32."""

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.layer_norm"):
            with rewriter.rewrite("other-eps", node):
                rewriter.replace(node, rewriter.call("aten.layer_norm", *node.args[:4], 1.01e-5, False))


def test_a_bug_below_rounding_is_found_in_float64():
    def run(program: Program) -> Program:
        result = program.copy()
        OtherEps().run(Rewriter(result))
        return result

    _, program = block()
    after = run(program)
    assert check_programs(program, after).ok  # the rounding oracle alone can't see it
    report = check_programs(program, after, transform=run)
    assert report.verdict is Verdict.DIFFERENT
    assert "in float64" in report.reason
    assert report.ratio > 1000


@pytest.mark.parametrize("options", [{"eps": 1.1}, {"eps": 0}, {"sign": -1}, {"bias": False}])
def test_wrong_folds_in_float64(options: dict[str, float]):
    """The float32 program is right, the rewrite of the float64 one is not."""
    module, program = conv_bn()
    report = check_programs(program, fold(module), transform=wide_folds(module, **options))
    assert report.verdict is Verdict.DIFFERENT
    assert "in float64" in report.reason


def test_without_a_float64_form_rounding_is_judged_by_noise():
    class Bits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x) @ (x.view(torch.int32).view(torch.float32).t())

    program = trace(Bits().eval(), (torch.randn(4, 8),))
    report = check_programs(program, program.copy(), transform=lambda twin: twin)
    assert report.ok
    assert report.oracle == "noise"
    assert any("reinterprets the bits" in note for note in report.notes)


def test_errors_of_the_pass_are_its_own():
    _, program = conv_bn()

    def broken(twin: Program) -> Program:
        raise KeyError("conv")

    with pytest.raises(KeyError):
        check_programs(program, program.copy(), transform=broken)


def test_an_approximate_pass_keeps_shapes():
    module, program = conv_bn()
    after = fold(module, sign=-1)
    assert check_programs(program, after, "approximate").verdict is Verdict.UNDECIDED
    assert check_programs(program, after, "equivalent").verdict is Verdict.DIFFERENT
