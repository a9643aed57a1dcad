"""eliminate-common-subexpressions: what is equal, and what only looks so."""

from collections.abc import Callable

import pytest
import torch

from fxopt.ops import OpInfo, info
from fxopt.passes.eliminate.eliminate_common_subexpressions import EliminateCommonSubexpressions
from fxopt.program import origins_of
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

CSE = EliminateCommonSubexpressions()

X, Y = rand(3, 4), rand(3, 4, seed=1)
Fn = Callable[..., object]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_before_and_after(dynamic: bool):
    def expected(x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        return y + y

    before = program(lambda x: torch.relu(x) + torch.relu(x), X, dynamic=dynamic)
    after = applied(CSE, before).program
    assert structure(after) == structure(program(expected, X, dynamic=dynamic))


def test_chains_merge_in_one_run():
    before = program(lambda x: x.relu().neg().exp() * x.relu().neg().exp(), X)
    assert calls(applied(CSE, before).program) == ["relu", "neg", "exp", "mul"]


def test_sums_and_products_with_swapped_operands_merge():
    before = program(lambda x, y: (x + y) * (y + x) + x * y - y * x, X, Y)
    assert calls(applied(CSE, before).program) == ["add", "mul", "mul", "add", "sub"]


def test_calls_of_literals_and_weights_merge():
    before = program(lambda x, w: x * torch.ones(4) * w.exp() + x * torch.ones(4) * w.exp(), X, w=rand(4))
    assert calls(applied(CSE, before).program) == ["ones", "mul", "exp", "mul", "add"]


def test_lists_and_several_results_merge():
    def function(x, y):
        a, b = torch.cat([x, y], 1).split(4, 1)
        c, d = torch.cat([x, y], 1).split(4, 1)
        return a + d, b + c

    after = applied(CSE, program(function, X, Y)).program
    assert calls(after) == ["cat", "split", "getitem", "getitem", "add"]


def test_size_arithmetic_merges():
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    first, second = (b.call("aten.sym_size.int", x, 0) for _ in range(2))
    before = b.finish(b.call("aten.expand", x, [first, 4]), b.call("aten.arange", second))
    assert calls(applied(CSE, before).program).count("sym_size") == 1


def test_outputs_may_become_one():
    after = applied(CSE, program(lambda x: (x.relu(), x.relu()), X)).program
    assert structure(after)[-1] == "return %1, %1"


def test_the_kept_call_is_the_first():
    before = program(lambda x: x.relu().exp() + x.relu().neg(), X)
    after = applied(CSE, before).program
    assert calls(after) == ["relu", "exp", "neg", "add"]
    assert all(origins_of(n) for n in after.calls())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 1 - x * 1.0,
        lambda x: (x + 0.0) * (x + -0.0),
        lambda x: x.softmax(0) + x.softmax(1),
        lambda x: (x - x.relu()) * (x.relu() - x),
        lambda x: x.clamp(0.0, 1.0) + x.clamp(0.0, 2.0),
        lambda x: torch.add(x, x.relu(), alpha=2) * torch.add(x.relu(), x, alpha=2),
        lambda x: torch.add(x, x.relu(), alpha=2) * torch.add(x, x.relu(), alpha=3),
        lambda x: torch.maximum(x, x.relu()) + torch.maximum(x.relu(), x),
        lambda x: x.sum(0, keepdim=True) * x.sum(0),
        lambda x: x.double() + x.half(),
        lambda x: torch.cat([x, x.relu()]) + torch.cat([x.relu(), x]),
    ],
)
def test_other_literals_operands_and_orders_stay(function: Fn):
    before = program(function, X)
    merged = applied(CSE, before).program
    assert calls(merged).count("relu") <= 1
    kept = [c for c in calls(before) if c != "relu"]
    assert [c for c in calls(merged) if c != "relu"] == kept


def test_an_op_of_a_user_that_may_count_its_calls_stays():
    library = torch.library.Library("fxopt_cse_test", "DEF")
    library.define("count(Tensor x) -> Tensor")
    library.impl("count", lambda x: x.clone(), "CPU")
    library.impl("count", torch.empty_like, "Meta")
    try:
        op = torch.ops.fxopt_cse_test.count
        assert unchanged(CSE, program(lambda x: op(x) + op(x), X)) == []
    finally:
        library._destroy()


def test_an_op_of_a_user_that_is_said_to_be_pure_is_merged(monkeypatch: pytest.MonkeyPatch):
    name = "fxopt_cse_pure_test.twice"
    monkeypatch.setitem(info._TABLE, name, OpInfo(op=name, pure=True))
    library = torch.library.Library("fxopt_cse_pure_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CPU")
    library.impl("twice", torch.empty_like, "Meta")
    try:
        op = torch.ops.fxopt_cse_pure_test.twice
        assert calls(applied(CSE, program(lambda x: op(x) + op(x), X)).program) == ["twice", "add"]
    finally:
        library._destroy()


def test_drawn_programs():
    check_pass(CSE, examples=20, min_fired=0.2, targets=())


def test_sizes_that_depend_on_values_are_not_known_to_be_the_same():
    before = program(lambda x, m: (x.masked_select(m), x.masked_select(m)), X, X > 0)
    assert calls(applied(CSE, before).program) == ["masked_select", "masked_select"]


def test_calls_behind_one_that_stays_are_merged():
    library = torch.library.Library("fxopt_cse_test_2", "DEF")
    library.define("count(Tensor x) -> Tensor")
    library.impl("count", lambda x: x.clone(), "CPU")
    library.impl("count", torch.empty_like, "Meta")
    try:
        op = torch.ops.fxopt_cse_test_2.count
        after = applied(CSE, program(lambda x: (y := op(x)).relu() + y.relu(), X)).program
        assert calls(after) == ["count", "relu", "add"]
    finally:
        library._destroy()
