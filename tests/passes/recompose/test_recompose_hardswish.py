"""recompose-hardswish: x times its clamped self, and clamps between other bounds."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.recompose.recompose_hardswish import RecomposeHardswish
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

HARDSWISH = RecomposeHardswish()
X = rand(3, 4)

Fn = Callable[[torch.Tensor], torch.Tensor]

FORMS: dict[str, Fn] = {
    "relu6": lambda x: x * F.relu6(x + 3) / 6,
    "mobilenetv3": lambda x: x * (F.relu6(x + 3.0) / 6.0),
    "multiplied": lambda x: (x + 3).clamp(0, 6) * (1 / 6) * x,
    "hardtanh": lambda x: x * F.hardtanh(3 + x, 0.0, 6.0) / 6.0,
    "clamp between 0 and 1": lambda x: x * (x / 6 + 0.5).clamp(0, 1),
    "hardsigmoid": lambda x: F.hardsigmoid(x) * x,
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_forms(name: str, dynamic: bool):
    after = applied(HARDSWISH, program(FORMS[name], X, dynamic=dynamic)).program
    assert structure(after) == structure(program(lambda x: F.hardswish(x), X, dynamic=dynamic))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    function = next(iter(FORMS.values()))
    assert calls(applied(HARDSWISH, program(function, X.to(dtype))).program) == ["hardswish"]


LOOKALIKES: dict[str, tuple[Fn, str]] = {
    "another shift": (lambda x: x * F.relu6(x + 2) / 6, "its coefficients are 2, 1, not 3, 1"),
    "another divisor": (
        lambda x: x * F.relu6(x + 3) / 5,
        "its coefficients are 0.2, not 0.166666666666667",
    ),
    "another upper bound": (lambda x: x * (x + 3).clamp(0, 5) / 6, ""),
    "another lower bound": (lambda x: x * (x + 3).clamp(-1, 6) / 6, ""),
    "no upper bound": (lambda x: x * (x + 3).clamp(min=0) / 6, ""),
    "a relu": (lambda x: x * F.relu(x + 3) / 6, ""),
    "between 0 and 1, another slope": (
        lambda x: x * (x / 5 + 0.5).clamp(0, 1),
        "its coefficients are 0.5, 0.2, not 0.5, 0.166666666666667",
    ),
    "hardsigmoid alone": (lambda x: F.hardsigmoid(x), ""),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_is_another_function_stays(name: str):
    function, why = LOOKALIKES[name]
    assert unchanged(HARDSWISH, program(function, X)) == ([why] if why else [])


def test_of_two_values_stays():
    unchanged(HARDSWISH, program(lambda x, y: y * F.relu6(x + 3) / 6, X, X))


def test_an_inner_value_with_another_user_stays():
    def function(x):
        h = F.relu6(x + 3)
        return x * h / 6, h

    assert unchanged(HARDSWISH, program(function, X)) == ["relu6 has another user, output"]


def test_bounds_that_are_tensors_stay():
    def function(x, low, high):
        return x * torch.clamp(x + 3, low, high) / 6

    unchanged(HARDSWISH, program(function, X, torch.zeros(4), torch.full((4,), 6.0)))


def test_drawn_programs():
    check_pass(HARDSWISH, examples=20, min_fired=0.2, targets=())
