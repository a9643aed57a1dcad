"""recompose-normalize: the norm of a vector."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.recompose.recompose_normalize import RecomposeNormalize
from fxopt.pipeline import PassManager
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

NORMALIZE = RecomposeNormalize()
X = rand(3, 4, 8)

FORMS = {
    "of the last axis": (lambda x: (x * x).sum(-1, True).sqrt(), ([2], True)),
    "of an axis that goes": (lambda x: x.pow(2).sum(1) ** 0.5, ([1], False)),
    "of two axes": (lambda x: torch.sqrt(x.square().sum((1, 2), keepdim=True)), ([1, 2], True)),
    "of all": (lambda x: (x * x).sum().sqrt(), (None, False)),
    "of all axes": (lambda x: (x * x).sum((), keepdim=True).sqrt(), (None, True)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_forms(name: str, dynamic: bool):
    function, (dim, keepdim) = FORMS[name]
    after = applied(NORMALIZE, program(function, X, dynamic=dynamic)).program
    expected = program(lambda x: torch.linalg.vector_norm(x, 2, dim, keepdim), X, dynamic=dynamic)
    assert structure(after) == structure(expected)


def test_normalize():
    def by_hand(x):
        return x / torch.sqrt((x * x).sum(-1, keepdim=True)).clamp_min(1e-12)

    o1 = PassManager.parse("O1")
    after = o1.run(program(by_hand, X, dynamic=True)).program
    assert calls(after) == ["linalg_vector_norm", "clamp_min", "div"]
    expected = o1.run(program(lambda x: F.normalize(x, dim=-1), X, dynamic=True)).program
    assert calls(after) == calls(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    before = program(lambda x: (x * x).sum(-1).sqrt(), X.to(dtype))
    assert calls(applied(NORMALIZE, before).program) == ["linalg_vector_norm"]


NONE = {
    "a cube": (lambda x: x.pow(3).sum(-1).sqrt(), ""),
    "a mean": (lambda x: (x * x).mean(-1).sqrt(), ""),
    "another root": (lambda x: (x * x).sum(-1) ** 0.25, ""),
    "no root": (lambda x: (x * x).sum(-1).exp(), ""),
    "a product": (lambda x: (x * x.exp()).sum(-1).sqrt(), ""),
    "a sum of the input": (lambda x: x.sum(-1).sqrt(), ""),
    "twice the square": (lambda x: (2 * x * x).sum(-1).sqrt(), ""),
    "a complex square": (lambda x: (x.to(torch.complex64) ** 2).sum(-1).sqrt().real, ""),
    "another dtype": (lambda x: (x * x).sum(-1, dtype=torch.float64).sqrt(), "the sum is in another dtype"),
    "a sum of one element": (lambda x: (x[..., :1] * 2).pow(2).sum(-1).sqrt(), "the sum may be of one element"),
    "a sum of two axes of one element": (
        lambda x: (x[..., :1, :1] * 2).pow(2).sum((-1, -2)).sqrt(), "the sum may be of one element",
    ),
    "a sum with another user": (
        lambda x: (s := (x * x).sum(-1, keepdim=True)).sqrt() + s, "sum_1 has another user, add",
    ),
    "a square with another user": (
        lambda x: (s := x * x).sum(-1, keepdim=True).sqrt() + s, "mul has another user, add",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_norm_stays(name: str):
    function, why = NONE[name]
    assert unchanged(NORMALIZE, program(function, X)) == ([why] if why else [])


def test_a_sum_over_a_size_that_may_be_one_stays():
    before = program(lambda x: x.pow(2).sum(0).sqrt(), X, dynamic=True)
    assert unchanged(NORMALIZE, before) == ["the sum may be of one element"]


def test_a_sum_of_all_elements():
    before = program(lambda x: x.pow(2).sum().sqrt(), X, dynamic=True)
    assert calls(applied(NORMALIZE, before).program) == ["linalg_vector_norm"]


def test_what_is_made_of_a_size_stays():
    def function(x):
        return x / torch.full((x.shape[0],), 2.0).sum().sqrt()

    assert unchanged(NORMALIZE, program(function, X, dynamic=True)) == []


def test_drawn_programs():
    check_pass(NORMALIZE, examples=15, min_fired=0.2, targets=())
