"""recompose-silu: gates by a value's own sigmoid, and other gates."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.recompose.recompose_silu import RecomposeSilu
from fxopt.pipeline import PassManager
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

SILU = RecomposeSilu()
X = rand(3, 4)

Fn = Callable[[torch.Tensor], torch.Tensor]

FORMS: dict[str, Fn] = {
    "sigmoid": lambda x: x * torch.sigmoid(x),
    "sigmoid first": lambda x: x.sigmoid() * x,
    "quotient": lambda x: x / (1 + torch.exp(-x)),
    "scaled": lambda x: 2 * x * torch.sigmoid(x) / 2,
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_forms(name: str, dynamic: bool):
    after = applied(SILU, program(FORMS[name], X, dynamic=dynamic)).program
    assert structure(after) == structure(program(lambda x: F.silu(x), X, dynamic=dynamic))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    function = next(iter(FORMS.values()))
    assert calls(applied(SILU, program(function, X.to(dtype))).program) == ["silu"]


LOOKALIKES: dict[str, tuple[Fn, str]] = {
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), "its coefficients are 1.702, not 1"),
    "a quotient with another slope": (
        lambda x: x / (1 + torch.exp(-2 * x)),
        "its coefficients are -2, not -1",
    ),
    "a rising quotient": (lambda x: x / (1 + torch.exp(x)), "its coefficients are 1, not -1"),
    "half": (lambda x: x / 2 * torch.sigmoid(x), "its coefficients are 0.5, not 1"),
    "two and exp": (lambda x: x / (2 + torch.exp(-x)), ""),
    "one and twice exp": (lambda x: x / (1 + 2 * torch.exp(-x)), ""),
    "the sigmoid alone": (lambda x: torch.sigmoid(x), ""),
    "squared": (lambda x: x * x * torch.sigmoid(x), ""),
    "a product with one and exp": (lambda x: x * (1 + torch.exp(-x)), ""),
    "exp2": (lambda x: x / (1 + torch.exp2(-x)), ""),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_is_another_function_stays(name: str):
    function, why = LOOKALIKES[name]
    assert unchanged(SILU, program(function, X)) == ([why] if why else [])


def test_swiglu():
    def function(x):
        a, b = x.chunk(2, -1)
        return a * torch.sigmoid(a) * b

    assert calls(applied(SILU, program(function, X)).program) == [
        "chunk",
        "getitem",
        "getitem",
        "silu",
        "mul",
    ]


def test_a_gate_of_another_value_stays():
    unchanged(SILU, program(lambda x, y: x * torch.sigmoid(y), X, X))


@pytest.mark.parametrize("inner", ["sigmoid", "exp", "add"])
def test_an_inner_value_with_another_user_stays(inner: str):
    def function(x):
        e = torch.exp(-x)
        a = 1 + e
        s = torch.sigmoid(x)
        return {"sigmoid": (x * s, s), "exp": (x / a, e), "add": (x / a, a)}[inner]

    before = PassManager.parse("eliminate-dead-code").run(program(function, X)).program
    assert unchanged(SILU, before) == [f"{inner} has another user, output"]


def test_drawn_programs():
    check_pass(SILU, examples=20, min_fired=0.2, targets=())
