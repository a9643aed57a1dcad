"""recompose-mish: x times the tanh of its softplus, and what only looks like it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.recompose.recompose_mish import RecomposeMish
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

MISH = RecomposeMish()
X = rand(3, 4)

Fn = Callable[[torch.Tensor], torch.Tensor]

FORMS: dict[str, Fn] = {
    "softplus": lambda x: x * torch.tanh(F.softplus(x)),
    "log1p": lambda x: torch.tanh(torch.log1p(torch.exp(x))) * x,
    "log": lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_forms(name: str, dynamic: bool):
    after = applied(MISH, program(FORMS[name], X, dynamic=dynamic)).program
    assert structure(after) == structure(program(lambda x: F.mish(x), X, dynamic=dynamic))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    function = next(iter(FORMS.values()))
    assert calls(applied(MISH, program(function, X.to(dtype))).program) == ["mish"]


LOOKALIKES: dict[str, tuple[Fn, str]] = {
    "another slope": (lambda x: x * torch.tanh(F.softplus(x, 2.0)), ""),
    "another threshold": (lambda x: x * torch.tanh(F.softplus(x, 1.0, 10.0)), ""),
    "without softplus": (lambda x: x * torch.tanh(torch.exp(x)), ""),
    "without a constant": (lambda x: x * torch.tanh(torch.log(torch.exp(x))), ""),
    "two constants": (lambda x: x * torch.tanh(torch.log1p(1 + torch.exp(x))), ""),
    "another constant": (lambda x: x * torch.tanh(torch.log(2 + torch.exp(x))), ""),
    "of another argument": (lambda x: x * torch.tanh(F.softplus(2 * x)), "its coefficients are 2, not 1"),
    "log without exp": (lambda x: x * torch.tanh(torch.log(1 + x)), ""),
    "twice": (lambda x: 2 * x * torch.tanh(F.softplus(x)), "its coefficients are 2, not 1"),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_is_another_function_stays(name: str):
    function, why = LOOKALIKES[name]
    assert unchanged(MISH, program(function, X)) == ([why] if why else [])


def test_of_two_values_stays():
    unchanged(MISH, program(lambda x, y: y * torch.tanh(F.softplus(x)), X, X))


@pytest.mark.parametrize("inner", ["tanh", "log", "add", "exp"])
def test_an_inner_value_with_another_user_stays(inner: str):
    def function(x):
        e = torch.exp(x)
        a = e + 1
        s = torch.log(a)
        t = torch.tanh(s)
        return x * t, {"tanh": t, "log": s, "add": a, "exp": e}[inner]

    assert unchanged(MISH, program(function, X)) == [f"{inner} has another user, output"]


def test_drawn_programs():
    check_pass(MISH, examples=20, min_fired=0.2, targets=())
