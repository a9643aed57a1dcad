"""`trial`: what is tried stands in the copy alone, and the next trial finds all as it was."""

import pytest
import torch
from torch import nn

from fxopt.dialect import violations
from fxopt.errors import PassError
from fxopt.program import Program, origins_of
from fxopt.rewriting import Rewriter
from fxopt.rewriting.trial import trial
from tests.passes.helpers import program, rand


@pytest.fixture
def whole() -> Program:
    torch.manual_seed(0)
    return program(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), rand(2, 3))


def halved(rewriter: Rewriter) -> Program:
    """The first layer without half of its rows, the second without what reads them."""
    first, _, last = rewriter.nodes()
    keep = torch.arange(2)

    def edit() -> None:
        shorter = [
            rewriter.constant(w[keep].clone(), name=str(n.target), successor_of=n)
            for n in first.args[1:3]
            if (w := rewriter.value(n)) is not None
        ]
        tall = rewriter.value(last.args[1])
        assert tall is not None
        narrow = rewriter.constant(tall[:, keep].clone(), name="2.weight", successor_of=last.args[1])
        made = rewriter.call("aten.relu", rewriter.call("aten.linear", first.args[0], *shorter))
        with rewriter.before(last):
            rewriter.replace(last, rewriter.call("aten.linear", made, narrow, last.args[2]))

    return trial(rewriter, "halve", first, edit)


def test_the_program_stays_and_the_copy_is_rewritten(whole: Program) -> None:
    before, origins = str(whole), [origins_of(n) for n in whole.calls()]
    made = halved(Rewriter(whole))
    assert str(whole) == before
    assert {n: tuple(w.shape) for n, w in made.weights.items()} == {
        "0.weight": (2, 3), "0.bias": (2,), "2.weight": (2, 2), "2.bias": (2,),
    }  # fmt: skip
    assert list(violations(made, values=True)) == []
    assert set(origins_of(next(iter(made.calls())))) == {o for found in origins for o in found}
    assert whole.weights.keys() == made.weights.keys()
    assert torch.equal(made.weights["0.weight"], whole.weights["0.weight"][:2])


def test_the_next_one_is_the_same(whole: Program) -> None:
    rewriter = Rewriter(whole)
    first, second = halved(rewriter), halved(rewriter)
    assert str(first) == str(second)
    assert rewriter.journal.rewrites == []


def test_names_and_origins_are_those_of_a_rewrite(whole: Program) -> None:
    rewriter = Rewriter(whole)
    first, relu, last = rewriter.nodes()

    def edit() -> None:
        scale = rewriter.constant(torch.ones(4), name="0.weight")
        with rewriter.before(last):
            made = rewriter.call("aten.mul", relu, scale)
        with rewriter.instead(last):
            rewriter.replace(relu, rewriter.call("aten.mul", made, scale))

    for _ in range(2):
        tried = trial(rewriter, "scale", first, edit)
        assert sorted(tried.weights) == ["0.bias", "0.weight", "0.weight_1", "2.bias", "2.weight"]
        one, other = list(tried.calls())[2:4]
        assert set(origins_of(one)) == {*origins_of(first), *origins_of(relu)}
        assert origins_of(other) == origins_of(last)


def test_an_error_goes_on(whole: Program) -> None:
    rewriter = Rewriter(whole)
    root = rewriter.nodes()[0]
    with pytest.raises(PassError, match="dtype and shape must stay"):
        trial(rewriter, "wrong", root, lambda: rewriter.replace(root, root.args[0]))
    assert halved(rewriter)


def test_the_order_is_checked(whole: Program) -> None:
    rewriter = Rewriter(whole)
    first, _, last = rewriter.nodes()

    def edit() -> None:
        with rewriter.before(last):
            late = rewriter.call("aten.linear", *first.args[:3])
        rewriter.replace(first, late)

    with pytest.raises(PassError, match="would use"):
        trial(rewriter, "late", first, edit)
