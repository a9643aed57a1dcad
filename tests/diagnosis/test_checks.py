"""Passes that change the function on purpose are held to the budgets that they state, on the data that there are."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import fxopt
from fxopt.diagnosis import EachCheck, FailureReproducer, Trial, check_values
from fxopt.errors import InputError, PipelineError, VerificationError
from fxopt.passes.prune import Prune
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import Contract, Pass, PassManager
from fxopt.rewriting import Rewriter
from tests.passes.helpers import program, rand
from tests.passes.quantize.test_insert_fake_quant import DATA, two_layers


class Clip(Pass):
    """Clips what relu gives: for data below 3 it changes nothing."""

    contract = Contract.APPROXIMATE
    share: float | None = None
    """the budget"""

    def budget(self) -> float | None:
        return self.share

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.relu"):
            with rewriter.rewrite("clip", node):
                rewriter.replace(node, rewriter.call("aten.clamp", node.args[0], 0.0, 3.0))


SMALL, LARGE = torch.ones(4), torch.full((4,), 4.0)
RELU = program(lambda x: x.relu(), rand(4))


@pytest.mark.parametrize(
    ("data", "budget", "holds"),
    [([SMALL], 0.0, True), ([SMALL, LARGE], 0.25, True), ([SMALL, LARGE], 0.2, False)],
)
def test_a_budget_is_held_to_on_the_data(data: list[torch.Tensor], budget: float | None, holds: bool) -> None:
    if holds:
        fxopt.run_pipeline(RELU, [Clip(share=budget)], calibration=iter(data), check_each=True)
        return
    with pytest.raises(VerificationError) as error:
        fxopt.run_pipeline(RELU, [Clip(share=budget)], calibration=iter(data), check_each=True)
    assert (
        "pass 'clip' is over its budget: at batch 1 of the calibration data: output 'output' moved by 25% of"
        in str(error.value)
    )
    fxopt.run_pipeline(RELU, [Clip(share=budget)], calibration=data)  # asked for by check_each only


def test_what_a_pass_moved_is_told() -> None:
    check = EachCheck()
    check.data = [LARGE]
    after = PassManager.of([Clip()]).run(RELU).program
    check(RELU, after, Clip())
    check(RELU, after, Clip(share=0.5))
    assert list(check.notes) == [
        "check of clip: outputs moved by at most 25% of their norm; it states no budget",
        "check of clip: outputs moved by at most 25% of their norm; its budget is 50%",
    ]


def test_a_wrong_shape_is_no_matter_of_budgets() -> None:
    check = EachCheck()
    other = program(lambda x: x.relu()[:3], rand(4))
    with pytest.raises(VerificationError, match=r"changed the function: .* has shape"):
        check(RELU, other, Clip(share=9.0))


def test_optimize_reports_the_budget() -> None:
    passes = [Prune(ratio=0.25, max_error=1.0)]
    result = fxopt.optimize(two_layers(), pipeline=passes, target="eager", check_each=True)
    (note,) = [n for n in result.report.notes if "budget" in n]
    assert note.startswith("check of prune: outputs moved by at most ")
    assert note.endswith("of their norm; its budget is 100%")
    text = "prune{ratio=0.5,max_error=0.01}"
    with pytest.raises(VerificationError, match=r"'prune' is over its budget: at .*; the budget is 1%"):
        fxopt.optimize(two_layers(), pipeline=text, target="eager", check_each=True)


@pytest.mark.parametrize(("budget", "holds"), [(0.1, True), (1e-4, False)])
def test_rounding_to_eight_bits_has_a_budget(budget: float, holds: bool) -> None:
    def data() -> Iterator[torch.Tensor]:
        yield from DATA

    def run() -> None:
        passes = [InsertFakeQuant(max_error=budget)]
        fxopt.run_pipeline(two_layers(), passes, calibration=data(), check_each=True)

    if holds:
        run()
    else:
        with pytest.raises(VerificationError, match="'insert-fake-quant' is over its budget"):
            run()


def test_budgets_that_are_none() -> None:
    with pytest.raises(InputError, match="max_error is -1; expected a share"):
        Prune(max_error=-1)
    with pytest.raises(PipelineError, match="max_error is -1; expected a share"):
        InsertFakeQuant(max_error=-1)


def test_a_trial_is_held_to_the_budgets_together() -> None:
    found = check_values(RELU, Trial((Clip(share=0.2),), calibration=[LARGE]))
    assert found is not None
    assert found.manner == "budget: values"
    assert check_values(RELU, Trial((Clip(share=0.2), Clip(share=0.1)), calibration=[LARGE])) is None
    assert check_values(RELU, Trial((Clip(),), calibration=[LARGE])) is None


def test_what_is_over_its_budget_is_bisected_and_written(tmp_path: Path) -> None:
    before = program(lambda x: x.abs().relu().exp().log().neg().sigmoid() * x.abs(), rand(4))
    watch = FailureReproducer(tmp_path)
    with pytest.raises(VerificationError, match=r"pass 'clip' .*, rewrite 1: rule 'clip'"):
        fxopt.run_pipeline(
            before, [Clip(share=0.01)], calibration=[LARGE], check_each=True, instruments=[watch]
        )
    assert watch.written is not None
    assert "moved by" in (watch.written / "report.txt").read_text()
