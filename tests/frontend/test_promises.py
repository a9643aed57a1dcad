"""Branches on values of which one way only raises; whole models are in good_models.py, which pytest does not rewrite."""

import sys

import pytest
import torch

from fxopt.errors import TraceError
from fxopt.frontend import trace
from fxopt.frontend.promises import _other_than_raising
from fxopt.lowering import lower
from fxopt.program.file import load_program
from tests.frontend.good_models import Function, demanding, noise


class Asked:
    """A condition that notes which way does not raise."""

    def __init__(self, answer: bool) -> None:
        self.answer, self.way = answer, None

    def __bool__(self) -> bool:
        self.way = _other_than_raising(sys._getframe(1))
        return self.answer


def raises_if(condition):
    if condition:
        raise ValueError(f"{condition} is so")


def raises_unless(condition):
    if not condition:
        raise ValueError


def returns_if(condition):
    if condition:
        return 1
    raise ValueError


def two_ways(condition):
    return 1 if condition else 2


def computes_first(condition):
    if condition:
        value = 3
        raise ValueError(value)


@pytest.mark.parametrize(
    ("function", "way"),
    [(raises_if, False), (raises_unless, True), (returns_if, True), (two_ways, None), (computes_first, None)],
)
@pytest.mark.parametrize("answer", [True, False])
def test_the_way_that_does_not_raise(function, answer: bool, way: bool | None):
    condition = Asked(answer)
    try:
        function(condition)
    except ValueError:
        assert answer is not way
    assert condition.way is way


def test_a_loss_that_checks_its_variance():
    loss = torch.nn.GaussianNLLLoss()
    args = noise(3, 4), noise(3, 4), noise(3, 4).abs() + 0.1
    torch.testing.assert_close(trace(loss, args)(*args), loss(*args))


def test_a_value_that_is_used_after_it_was_checked_is_still_refused():
    def function(x):
        count = (x > 0).sum().item()
        if count > 100:
            raise ValueError
        return x[:count]

    with pytest.raises(TraceError, match=r"test_promises.py:\d+ \(count = "):
        trace(Function(function), (noise(4),))


DEMANDS = (
    "assert x.max() < 100",
    "if x.isnan().any():",
    'torch._assert((x > -100).all(), "small")',
    "torch._assert_async((x > -200).all())",
    "torch._check(x.min().item() > -300)",
)


def test_what_is_assumed_of_values_is_told_and_kept(tmp_path):
    program = trace(Function(demanding), (noise(3, 4),))
    assert [a.partition(" (good_models.py:")[0] for a in program.assumptions] == list(DEMANDS)
    assert str(program).count("# assumed not to raise: ") == len(DEMANDS)
    assert program.copy().assumptions == program.assumptions
    program.save(f"{tmp_path}/demanding.fxopt")
    assert load_program(f"{tmp_path}/demanding.fxopt").assumptions == program.assumptions
    lower(program, "eager", path=f"{tmp_path}/eager.fxopt")
    assert b"good_models" not in (tmp_path / "eager.fxopt").read_bytes()


def test_what_an_exported_program_demands_is_told():
    class Finite(torch.nn.Module):
        def forward(self, x):
            torch._assert_async(x.isfinite().all())
            return x + 1

    exported = torch.export.export(Finite(), (noise(3, 4),), strict=False)
    (assumed,) = trace(exported).assumptions
    assert assumed.startswith("torch._assert_async(x.isfinite().all()) (test_promises.py:")
