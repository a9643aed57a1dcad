"""simplify-reductions: two reductions that are one, axes that it keeps or drops by itself."""

from collections.abc import Callable

import pytest
import torch

from fxopt.passes.simplify.simplify_reductions import SimplifyReductions
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

SIMPLIFY = SimplifyReductions()
Fn = Callable[..., object]
X = rand(2, 3, 4, 5)

SAME: dict[str, tuple[Fn, Fn]] = {
    "sums": (lambda x: x.sum(2).sum(1), lambda x: x.sum([1, 2])),
    "sums, the first axis first": (lambda x: x.sum(1).sum(2), lambda x: x.sum([1, 3])),
    "means": (lambda x: x.mean([1]).mean([1, 2]), lambda x: x.mean([1, 2, 3])),
    "largest": (lambda x: x.amax(3).amax(1), lambda x: x.amax([1, 3])),
    "smallest": (lambda x: x.amin(3, True).amin(1, True), lambda x: x.amin([1, 3], True)),
    "kept": (lambda x: x.mean(2, True).mean(3, True), lambda x: x.mean([2, 3], True)),
    "kept, then all": (lambda x: x.sum(2, True).sum([0, 1, 2, 3]), lambda x: x.sum([0, 1, 2, 3])),
    "three": (lambda x: x.sum(3).sum(2).sum(1), lambda x: x.sum([1, 2, 3])),
    "all": (lambda x: x.sum(1).sum(), lambda x: x.sum([0, 1, 2, 3])),
    "kept and flattened": (lambda x: x.mean([2, 3], True).flatten(1), lambda x: x.mean([2, 3])),
    "kept and squeezed": (lambda x: x.var(2, keepdim=True).squeeze(2), lambda x: x.var(2)),
    "dropped and put back": (lambda x: x.amax(1).unsqueeze(1), lambda x: x.amax(1, True)),
    "one place": (lambda x: x.argmax(1, True).squeeze(1), lambda x: x.argmax(1)),
    "over nothing": (lambda x: x.unsqueeze(1).sum(1).relu(), lambda x: x.unsqueeze(1).squeeze((1,)).relu()),
    "over nothing, all": (
        lambda x: x[:1, :1, :1, :1].sum().relu(),
        lambda x: x[:1, :1, :1, :1].squeeze((0, 1, 2, 3)).relu(),
    ),
    "of one number over its axis": (
        lambda x: x.exp().prod().amax(0) + x.prod().sum(-1, True),
        lambda x: x.exp().prod() + x.prod(),
    ),
    "of a sum over its axis": (lambda x: x.sum().sum(0).relu(), lambda x: x.sum().relu()),
    "over nothing, kept": (lambda x: x.unsqueeze(1).mean(1, True).relu(), lambda x: x.unsqueeze(1).relu()),
}


@pytest.mark.parametrize("name", SAME)
def test_before_and_after(name: str):
    before, expected = (program(f, X) for f in SAME[name])
    assert structure(applied(SIMPLIFY, before).program) == structure(expected)


@pytest.mark.parametrize("name", ["sums", "means", "kept", "kept and flattened", "dropped and put back"])
def test_with_a_batch_that_varies(name: str):
    before, expected = (program(f, X, dynamic=True) for f in SAME[name])
    assert calls(applied(SIMPLIFY, before).program) == calls(expected)


STAYS: dict[str, Fn] = {
    "two kinds": lambda x: x.sum(2).mean(1),
    "products": lambda x: x.prod(2).prod(1),
    "another dtype": lambda x: x.sum(2, dtype=torch.float64).sum(1),
    "the outer's dtype": lambda x: x.sum(2).sum(1, dtype=torch.float64),
    "another shape": lambda x: x.mean(2, True).reshape(2, 15),
    "another place": lambda x: x.mean(2, True).reshape(2, 1, 3, 5),
    "fewer axes": lambda x: x[..., :1].mean(2, True).reshape(2, 3),
    "axes in another order": lambda x: x.mean(2, True).reshape(3, 2, 5),
    "all at once": lambda x: x.sum().reshape(1, 1, 1, 1),
    "booleans over nothing": lambda x: (x > 0).unsqueeze(1).sum(1),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays(name: str):
    assert unchanged(SIMPLIFY, program(STAYS[name], X)) == []


def test_only_one_keeps_its_axes():
    assert unchanged(SIMPLIFY, program(lambda x: x.sum(2).sum(1, True), X)) == [
        "only one of the two keeps its axes"
    ]
    assert unchanged(SIMPLIFY, program(lambda x: x.sum(2, True).sum(1), X)) == [
        "only one of the two keeps its axes"
    ]


def test_another_user():
    def function(x):
        y = x.sum(2)
        return y, y.sum(1)

    [why] = unchanged(SIMPLIFY, program(function, X))
    assert why.endswith("has another user")


def test_kept_axes_with_another_user():
    def function(x):
        y = x.sum(2, True)
        return y, y.squeeze(2)

    assert unchanged(SIMPLIFY, program(function, X)) == []


def test_drawn_programs():
    check_pass(SIMPLIFY, examples=25, targets=())
