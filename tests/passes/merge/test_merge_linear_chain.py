"""merge-linear-chain: two linear layers with nothing between are one, unless that costs more."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.passes.merge.merge_linear_chain import MergeLinearChain
from fxopt.program import origins_of
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

MERGE = MergeLinearChain()
X = rand(2, 3, 4)


def chain(*widths: int, bias: tuple[bool, ...] = (True,) * 9) -> nn.Sequential:
    torch.manual_seed(0)
    pairs = zip(widths, widths[1:], bias, strict=False)
    return nn.Sequential(*(nn.Linear(a, b, bias=c) for a, b, c in pairs))


@pytest.mark.parametrize("bias", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_before_and_after(bias: tuple[bool, bool], dynamic: bool):
    model = chain(4, 6, 5, bias=bias)
    after = applied(MERGE, program(model, X, dynamic=dynamic)).program
    expected = program(nn.Linear(4, 5, bias=any(bias)), X, dynamic=dynamic)
    assert structure(after) == structure(expected)
    torch.testing.assert_close(after(X), model(X))


def test_the_weights_are_rounded_once_and_named_after_both():
    model = chain(4, 6, 5)
    after = applied(MERGE, program(model, X)).program
    first, second = model.double()
    assert torch.equal(after.weights["0_1.weight"], (second.weight @ first.weight).float())
    assert torch.equal(after.weights["0_1.bias"], (second.weight @ first.bias + second.bias).float())
    assert {o.module for n in after.calls() for o in origins_of(n)} == {"0", "1"}


def test_a_chain_of_three():
    assert calls(applied(MERGE, program(chain(4, 6, 6, 5), X)).program) == ["linear"]


def test_what_is_merged_is_merged_with_what_it_reads():
    """8 to 2 to 8 stays at first; of 2 to 8 to 2 comes 2 to 2."""
    result = applied(MERGE, program(chain(8, 2, 8, 2), rand(3, 8)))
    assert calls(result.program) == ["linear"]
    assert result.passes[0].rules == {"merge-linear-chain": 2}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    after = applied(MERGE, program(chain(4, 6, 5).to(dtype), X.to(dtype))).program
    assert {w.dtype for w in after.weights.values()} == {dtype}


@pytest.mark.parametrize("trains", [(True, False), (False, True), (False, False)])
def test_what_trains_goes_on_doing_so(trains: tuple[bool, bool]):
    model = chain(4, 6, 5)
    for layer, learns in zip(model, trains, strict=True):
        layer.requires_grad_(learns)
    after = applied(MERGE, program(model, X)).program
    assert {w.requires_grad for w in after.weights.values()} == {any(trains)}


def test_low_rank_stays():
    assert unchanged(MERGE, program(chain(6, 2, 6), rand(3, 6))) == [
        "one product of 36 multiplications at each place costs more than two of 24"
    ]


def test_as_many_multiplications_are_no_more():
    """4 to 2 to 4: 16 and 8 + 8."""
    assert calls(applied(MERGE, program(chain(4, 2, 4), X)).program) == ["linear"]


def test_a_nonlinearity_between():
    assert unchanged(MERGE, program(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)), X)) == []


def test_another_user_between():
    def function(x, v, w):
        y = F.linear(x, v)
        return y, F.linear(y, w)

    [why] = unchanged(MERGE, program(function, X, v=rand(6, 4), w=rand(5, 6)))
    assert why.endswith("has another user")


@pytest.mark.parametrize("name", ["v", "w"])
def test_a_weight_with_another_user(name: str):
    def function(x, **k):
        return F.linear(F.linear(x, k["v"]), k["w"]), k[name].sum()

    assert unchanged(MERGE, program(function, X, v=rand(6, 4), w=rand(5, 6))) == []


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_bias_with_rows_of_its_own(place: str):
    biases = {"first": rand(6), "second": rand(5), place: rand(3, 6 if place == "first" else 5)}

    def function(x, v, w, first, second):
        return F.linear(F.linear(x, v, first), w, second)

    before = program(function, X, v=rand(6, 4), w=rand(5, 6), **biases)
    assert unchanged(MERGE, before) == ["a bias has rows of its own"]


@pytest.mark.parametrize("large", ["v", "b"])
def test_weights_that_would_be_infinite(large: str):
    weights = {"v": rand(6, 4), "b": rand(6), "w": rand(5, 6) * 1e20}
    weights[large] *= 1e20
    before = program(lambda x, v, b, w: F.linear(F.linear(x, v, b), w), X, **weights)
    assert unchanged(MERGE, before) == ["a weight would not be finite"]


def test_drawn_programs():
    check_pass(MERGE, examples=20, targets=())
