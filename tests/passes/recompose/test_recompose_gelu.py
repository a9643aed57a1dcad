"""recompose-gelu: the ways in which public code writes GELU, and what only looks like it."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.recompose.recompose_gelu import RecomposeGelu
from fxopt.program import origins_of
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

GELU = RecomposeGelu()
X = rand(3, 4)
ROOT = math.sqrt(2 / math.pi)

Fn = Callable[[torch.Tensor], torch.Tensor]

ERF: dict[str, Fn] = {
    "bert": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "half last": lambda x: x * (1.0 + torch.erf(x / math.sqrt(2.0))) * 0.5,
    "half inside": lambda x: x * (0.5 + 0.5 * torch.erf(x * math.sqrt(0.5))),
    "divided": lambda x: x * (torch.erf(x * (1 / math.sqrt(2))) + 1) / 2,
    "distributed": lambda x: 0.5 * x + 0.5 * x * torch.erf(x / math.sqrt(2)),
}
TANH: dict[str, Fn] = {
    "gpt2": lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3.0)))),
    "products": lambda x: 0.5 * x * (1 + torch.tanh(ROOT * x * (1 + 0.044715 * x * x))),
    "cube": lambda x: x * (1 + torch.tanh(ROOT * (x + 0.044715 * x * x * x))) / 2,
    "square": lambda x: 0.5 * x * (1 + torch.tanh(x * (ROOT + ROOT * 0.044715 * x.square()))),
    "sigmoid": lambda x: x * torch.sigmoid(2 * ROOT * (x + 0.044715 * x**3)),
}


@pytest.mark.parametrize("name", ERF)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_erf_forms(name: str, dynamic: bool):
    after = applied(GELU, program(ERF[name], X, dynamic=dynamic)).program
    assert structure(after) == structure(program(lambda x: F.gelu(x), X, dynamic=dynamic))


@pytest.mark.parametrize("name", TANH)
def test_tanh_forms(name: str):
    after = applied(GELU, program(TANH[name], X, dynamic=True)).program
    assert structure(after) == structure(program(lambda x: F.gelu(x, approximate="tanh"), X, dynamic=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    assert calls(applied(GELU, program(ERF["bert"], X.to(dtype))).program) == ["gelu"]


def test_of_a_value_that_is_arithmetic_itself():
    """The nearest value that fits is taken: not a, and not b."""
    after = applied(GELU, program(lambda a, b: ERF["bert"](a * b + 1), X, X)).program
    assert calls(after) == ["mul", "add", "gelu"]


def test_one_that_another_arithmetic_follows():
    after = applied(GELU, program(lambda x: x + ERF["bert"](x) * 3, X)).program
    assert calls(after) == ["gelu", "mul", "add"]


def test_two_in_a_row():
    after = applied(GELU, program(lambda x: TANH["gpt2"](ERF["bert"](x)), X)).program
    assert calls(after) == ["gelu", "gelu"]


def test_the_call_has_the_sources_of_all():
    before = program(ERF["bert"], X)
    [gelu] = applied(GELU, before).program.calls()
    assert {o for n in before.calls() for o in origins_of(n)} == set(origins_of(gelu))


LOOKALIKES: dict[str, tuple[Fn, str]] = {
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), ""),
    "another divisor": (
        lambda x: 0.5 * x * (1 + torch.erf(x / 1.5)),
        "its coefficients are 0.666666666666667, not 0.707106781186548",
    ),
    "a rounded constant": (
        lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
        "its coefficients are 0.7978845608, 0.035677408136172, not 0.797884560802865, 0.0356774081363001",
    ),
    "another half": (
        lambda x: 0.4 * x * (1 + torch.erf(x / math.sqrt(2))),
        "its coefficients are 0.4, 0.4, not 0.5, 0.5",
    ),
    "a square for the cube": (lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x * x))), ""),
    "less one": (
        lambda x: 0.5 * x * (torch.erf(x / math.sqrt(2)) - 1),
        "its coefficients are -0.5, 0.5, not 0.5, 0.5",
    ),
    "rounded quotients": (lambda x: 0.5 * x * (1 + torch.erf(torch.div(x, math.sqrt(2), rounding_mode="floor"))), ""),
    "a reversed quotient": (lambda x: 0.5 * x * (1 + torch.erf(math.sqrt(0.5) / x)), ""),
    "a fourth power": (lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**4))), ""),
    "a root": (lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**0.5))), ""),
    "tanh of erf's argument": (lambda x: 0.5 * x * (1 + torch.tanh(x / math.sqrt(2))), ""),
    "a factor of the summand": (
        lambda x: 0.5 * x * torch.add(torch.ones_like(x), torch.erf(x / math.sqrt(2)), alpha=2), "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_is_no_gelu_stays(name: str):
    function, why = LOOKALIKES[name]
    assert unchanged(GELU, program(function, X)) == ([why] if why else [])


def test_of_two_values_stays():
    unchanged(GELU, program(lambda x, y: y * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), X, X))


def test_an_inner_value_with_another_user_stays():
    def function(x):
        e = torch.erf(x / math.sqrt(2.0))
        return x * 0.5 * (1.0 + e), e

    assert unchanged(GELU, program(function, X)) == ["erf has another user, output"]


def test_an_argument_with_another_user_stays():
    def function(x):
        a = x / math.sqrt(2.0)
        return x * 0.5 * (1.0 + torch.erf(a)), a.sum()

    assert unchanged(GELU, program(function, X)) == ["div has another user, sum_1"]


def test_a_cast_between_stays():
    unchanged(GELU, program(lambda x: x * 0.5 * (1.0 + torch.erf(x.double() / math.sqrt(2.0)).float()), X))


def test_of_integers_stays():
    x = torch.arange(12).reshape(3, 4)
    unchanged(GELU, program(lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), x))


def test_long_arithmetic_is_not_read_to_its_end():
    def function(x):
        y = torch.erf(x)
        for _ in range(2000):
            y = y * x
        return y

    unchanged(GELU, program(function, X))


def test_drawn_programs():
    check_pass(GELU, examples=25, min_fired=0.2, targets=())
