"""simplify-broadcasts: operands that broadcast need no expansion."""

import pytest
import torch

from fxopt.passes.simplify.simplify_broadcasts import SimplifyBroadcasts
from fxopt.pipeline import PassManager
from fxopt.testing import ProgramBuilder, check_once, check_pass
from tests.passes.helpers import applied, at_sizes, calls, program, rand, structure, unchanged

BROADCASTS = SimplifyBroadcasts()
X, ROW, COLUMN = rand(3, 4), rand(4, seed=1), rand(3, 1, seed=2)

GONE = {
    "a row": (lambda x, y: x / y.expand(3, 4), lambda x, y: x / y, ROW),
    "a column on the left": (lambda x, y: y.expand(3, 4) - x, lambda x, y: y - x, COLUMN),
    "a number": (lambda x, y: x * y.expand(3, 4), lambda x, y: x * y, ROW[0]),
    "one of two": (lambda x, y: y.expand(3, 4) + x[:1].expand(3, 4), lambda x, y: y + x[:1], COLUMN),
}  # fmt: skip


@pytest.mark.parametrize("name", GONE)
def test_expansions_go(name: str):
    function, expected, y = GONE[name]
    before = PassManager.parse("eliminate-common-subexpressions").run(program(function, X, y)).program
    after = applied(BROADCASTS, before).program
    assert structure(after) == structure(program(expected, X, y))


def test_of_a_choice():
    """The condition alone has no operand of the whole shape, its expansion stays."""

    def function(x, y):
        return torch.where(y.expand(3, 4) > 0, x, y.expand(3, 4))

    after = applied(BROADCASTS, program(function, X, COLUMN)).program
    assert calls(after) == ["expand", "gt", "where"]


def test_the_literals_of_a_call_stay():
    def function(x, y):
        return torch.div(x, y.expand(3, 4), rounding_mode="floor")

    [div] = applied(BROADCASTS, program(function, X, COLUMN)).program.calls()
    assert div.kwargs == {"rounding_mode": "floor"}


def test_of_a_dynamic_size():
    def function(x, y):
        return x / y.expand(x.shape[0], 4)

    before = program(function, X, COLUMN, dynamic=True)
    after = applied(BROADCASTS, before).program
    assert calls(after) == ["div"]
    at_sizes(before, after)


SIZED = {
    "and a size": (
        lambda x, y: torch.add(y.expand(x.shape[0], 4), x, alpha=x.shape[0]),
        lambda x, y: torch.add(y, x, alpha=x.shape[0]),
    ),
    "and a size where a number is chosen": (
        lambda x, y: torch.where(x > 0, y.expand(x.shape[0], 4), x.shape[0]),
        lambda x, y: torch.where(x > 0, y, x.shape[0]),
    ),
}


@pytest.mark.parametrize("name", SIZED)
def test_beside_a_size(name: str):
    before, expected = (program(lambda x, f=f: f(x, x[:1]), X, dynamic=True) for f in SIZED[name])
    after = applied(BROADCASTS, before).program
    assert calls(after) == calls(expected)
    at_sizes(before, after)


def test_an_only_operand_beside_a_size_stays():
    before = program(lambda x: x[:1].expand(x.shape[0], 4) * x.shape[0], X, dynamic=True)
    assert unchanged(BROADCASTS, before) == []


STAY = {
    "the only operand": (lambda x, y: y.expand(3, 4).relu(), ROW),
    "with a smaller one": (lambda x, y: y.expand(2, 3, 4) + x, ROW),
    "of a product": (lambda x, y: x.mT @ y.expand(3, 5), COLUMN),
}


@pytest.mark.parametrize("name", STAY)
def test_expansions_that_are_needed_stay(name: str):
    function, y = STAY[name]
    assert unchanged(BROADCASTS, program(function, X, y)) == []


def test_a_number_of_another_dtype_stays():
    """Beside a tensor the dtype of a number does not count: the comparison would be in float32."""
    number = torch.tensor(0.1, dtype=torch.float64)
    before = program(lambda x, y: x > y.expand(3, 4), X, number)
    assert unchanged(BROADCASTS, before) == ["args_1 is one number of another dtype"]
    row = ROW.double()
    assert calls(applied(BROADCASTS, program(lambda x, y: x > y.expand(3, 4), X, row)).program) == ["gt"]


def test_drawn_programs():
    check_pass(BROADCASTS, examples=15, min_fired=0.2, targets=())


def test_of_a_quotient_of_integers():
    """Its float64 twin divides casts, behind which the expansion is not seen: the check holds all the same."""
    b = ProgramBuilder()
    x, y = (b.input((b.batch, n), dtype=torch.int64, low=1, high=2) for n in (4, 1))
    divided = b.finish(b.call("aten.div.Tensor", x, b.call("aten.expand", y, [-1, 4])))
    assert check_once(BROADCASTS, divided) == 1
