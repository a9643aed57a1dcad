"""How far a change on purpose moves the outputs."""

import math

import pytest
import torch

from fxopt.errors import InputError
from fxopt.program import Program
from fxopt.report import Verdict
from fxopt.verification import Change, budget_report, largest_change
from tests.passes.helpers import program, rand


def scaled(by: float, dynamic: bool = False) -> Program:
    return program(lambda x, w: (x.sum(), x * w), rand(3, 2), w=torch.full((2,), by), dynamic=dynamic)


def test_the_largest_share_of_a_norm_and_where() -> None:
    change = largest_change(scaled(1.0, dynamic=True), scaled(1.25, dynamic=True))
    assert change.share == pytest.approx(0.25)
    assert change.output == "output_1"
    assert change.case.startswith("batch=")
    assert "normal" in change.case
    assert largest_change(scaled(1.0), scaled(1.0)).share == 0.0


def test_it_is_measured_on_the_data_that_there_are() -> None:
    """A clip moves what is large only; targets beside the inputs are passed by."""
    before = program(lambda x: x * 1.5, rand(4))
    after = program(lambda x: (x * 1.5).clamp(-3.0, 3.0), rand(4))
    small, large = torch.ones(4), torch.full((4,), 4.0)
    target = torch.zeros(1)
    assert largest_change(before, after, [(small, target), small]).share == 0.0
    change = largest_change(before, after, [small, (large, target)])
    assert (change.share, change.case) == (0.5, "batch 1 of the calibration data")
    with pytest.raises(InputError, match="no inputs"):
        largest_change(before, after, [])


def test_other_values_than_floats() -> None:
    places = program(lambda x: x.argmax(1), rand(4, 3)), program(lambda x: x.argmin(1), rand(4, 3))
    x = torch.tensor([[0.0, 1, 2], [1, 1, 1], [2, 1, 0], [0, 5, 1]])
    assert largest_change(*places, [x]).share == 0.75
    zeros = program(lambda x: x * 0.0, rand(2)), program(lambda x: x + 1.0, rand(2))
    assert largest_change(*zeros, [rand(2)]).share == math.inf
    roots = program(lambda x: x.abs().sqrt(), rand(2)), program(lambda x: x.sqrt(), rand(2))
    assert largest_change(*roots, [-torch.ones(2)]).share == math.inf
    assert largest_change(*roots, [torch.ones(2)]).share == 0.0
    shapes = program(lambda x: x.sum(0), rand(2, 3)), program(lambda x: x.sum(1), rand(2, 3))
    assert largest_change(*shapes, [rand(2, 3)]).share == math.inf


def test_what_is_beyond_a_budget_is_a_difference() -> None:
    change = Change(0.25, "y", "batch=2, normal, seed 0")
    assert budget_report(change, 0.25) is None
    report = budget_report(change, 0.1)
    assert report is not None and report.verdict is Verdict.DIFFERENT
    assert (
        report.reason == "at batch=2, normal, seed 0: output 'y' moved by 25% of its norm; the budget is 10%"
    )
