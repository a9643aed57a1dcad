"""simplify-symbolic-arithmetic: each dynamic size once, from the inputs, in as few calls as it takes."""

import operator
from collections.abc import Callable, Sequence

import pytest
import torch
from torch.fx import Node

from fxopt.frontend import trace
from fxopt.lowering import lower
from fxopt.passes.simplify.simplify_symbolic_arithmetic import SimplifySymbolicArithmetic
from fxopt.program import Program
from fxopt.rewriting import Rewriter
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import Function, applied, at_sizes, calls, program, rand, unchanged

SIZES = SimplifySymbolicArithmetic()
X = rand(3, 4)
Make = Callable[[ProgramBuilder, Node], Sequence[Node]]


def built(make: Make) -> Program:
    """A row expanded to each of some sizes, which are made of `size`, that of the input's first axis."""
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    sizes = make(b, b.call("aten.sym_size.int", x, 0))
    row = b.weight((1, 4))
    return b.finish(*[b.call("aten.expand", row, [n, 4]) for n in sizes])


def simplified(before: Program) -> Program:
    after = applied(SIZES, before).program
    at_sizes(before, after)
    return after


def sizes_of(after: Program) -> list[str]:
    """The functions that compute sizes, reads aside."""
    return [name for name in calls(after) if name not in ("sym_size", "expand", "relu")]


def _chain(*steps: tuple[Callable[..., object], int]) -> Make:
    """Functions of a size and a number, one after the other."""

    def make(b: ProgramBuilder, size: Node) -> list[Node]:
        for function, number in steps:
            size = b.call(function, size, number)
        return [size]

    return make


ADD, SUB, MUL, DIV, MOD = operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod

# What computes a size, and the calls that are left of it.
CHAINS: dict[str, tuple[Make, list[str]]] = {
    "times and over one number": (_chain((MUL, 4), (DIV, 4)), []),
    "plus zero": (_chain((ADD, 0)), []),
    "times one": (_chain((MUL, 1)), []),
    "there and back": (_chain((ADD, 3), (SUB, 3)), []),
    "a quotient of a sum": (_chain((MUL, 4), (ADD, 4), (DIV, 4)), ["add"]),
    "sums of numbers": (_chain((ADD, 1), (ADD, 2), (ADD, 3)), ["add"]),
    "products of numbers": (_chain((MUL, 2), (MUL, 3)), ["mul"]),
    "a difference of the negative": (lambda b, n: [b.call(SUB, 3, b.call(operator.neg, n))], ["add"]),
    "twice itself": (lambda b, n: [b.call(SUB, b.call(ADD, b.call(ADD, n, n), n), n)], ["mul"]),
    "the larger of two that are one": (lambda b, n: [b.call(torch.sym_max, n, b.call(MUL, n, 1))], []),
    "the smaller of three": (
        lambda b, n: [b.call(torch.sym_min, b.call(torch.sym_min, n, 5), 4)],
        ["sym_min"],
    ),
}
# What takes as many calls in any other way.
SHORTEST: dict[str, Make] = {
    "a sum": _chain((ADD, 1)),
    "a difference": lambda b, n: [b.call(SUB, 9, b.call(torch.sym_min, n, 9))],
    "a quotient rounded down": _chain((DIV, 2)),
    "a quotient that is multiplied": _chain((DIV, 2), (MUL, 2)),
    "a quotient of a product and a sum": _chain((MUL, 4), (ADD, 3), (DIV, 8)),
    "a remainder": _chain((MOD, 2)),
    "the larger": lambda b, n: [b.call(torch.sym_max, n, 3)],
    "a sum whose part is used": lambda b, n: [m := b.call(ADD, n, 1), b.call(ADD, m, 1)],
}


def test_what_is_left_behind_by_a_size_makes_another_shorter() -> None:
    """`u` is needed for two sizes until the second is found to be `t`; then the first takes fewer calls without `u`."""

    def make(b: ProgramBuilder, size: Node) -> list[Node]:
        t = b.call(MUL, size, 4)
        u = b.call(ADD, t, 4)
        return [b.call(DIV, u, 4), b.call(SUB, u, 4), t]

    assert sizes_of(simplified(built(make))) == ["mul", "add"]


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name: str):
    make, left = CHAINS[name]
    assert sizes_of(simplified(built(make))) == left


@pytest.mark.parametrize("name", SHORTEST)
def test_what_is_short_stays(name: str):
    before = built(SHORTEST[name])
    assert unchanged(SIZES, before) == []
    at_sizes(before, before)


def test_the_docstring_example():
    b = ProgramBuilder()
    x = b.input((b.batch, 8))
    size = b.call("aten.sym_size.int", b.call("aten.relu", x), 0)
    rows = b.call(DIV, b.call(ADD, b.call(MUL, size, 4), 4), 4)
    after = simplified(b.finish(b.call("aten.expand", b.weight((1, 8)), [rows, 8])))
    read, rows, _ = after.calls()
    assert (read.target, read.args) == (torch.ops.aten.sym_size.int, (after.placeholders()[0], 0))
    assert (rows.target, {*rows.args}) == (ADD, {read, 1})


def test_a_number_whatever_the_size_is():
    """Calls are given the number; what the program returns stays a call."""
    before = built(lambda b, n: [b.call(ADD, b.call(SUB, n, n), 3)])
    result = applied(SIZES, before)
    [expand] = result.program.calls()
    assert expand.args[1] == [3, 4]
    assert result.passes[0].rules == {"state-number": 1}
    b = ProgramBuilder()
    n = b.call("aten.sym_size.int", b.input((b.batch, 4)), 0)
    assert unchanged(SIZES, b.finish(b.call(SUB, n, n))) == []


def test_only_the_size_that_is_a_number_is_stated():
    before = built(lambda b, n: [b.call(MUL, n, 2), b.call(ADD, b.call(SUB, n, n), 2)])
    first, second = (n for n in simplified(before).calls() if n.target is torch.ops.aten.expand.default)
    assert isinstance(first.args[1][0], Node)  # type: ignore[index]
    assert second.args[1] == [2, 4]


def test_an_op_of_a_user_that_may_count_its_calls_stays():
    library = torch.library.Library("fxopt_size_test", "DEF")
    library.define("count(Tensor(a!) x, SymInt n) -> ()")
    library.impl("count", lambda x, n: None, "CPU")
    library.impl("count", lambda x, n: None, "Meta")
    try:
        before = built(lambda b, n: [b.call(SUB, n, n)])
        expand = list(before.calls())[-1]
        with before.graph.inserting_before(expand):
            node = before.graph.call_function(
                torch.ops.fxopt_size_test.count.default, (before.placeholders()[0], expand.args[1][0])
            )
        node.meta = {"val": None, "origins": expand.meta["origins"]}
        rewriter = Rewriter(before)
        SIZES.run(rewriter)
        assert calls(before) == ["sym_size", "sub", "count", "expand"]
    finally:
        library._destroy()


def test_equal_sizes_are_computed_once():
    """A convolution is not kept alive, nor the arithmetic repeated, for a size that the input has."""
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    y = b.call("aten.relu", x)
    first, second = b.call("aten.sym_size.int", y, 0), b.call("aten.sym_size.int", x, 0)
    twice = b.call(operator.add, first, second)
    again = b.call(operator.add, second, first)
    row = b.weight((1, 4))
    before = b.finish(
        y,
        b.call("aten.expand", row, [twice, 4]),
        b.call("aten.expand", row, [again, 4]),
        b.call("aten.expand", row, [first, 4]),
    )
    after = simplified(before)
    assert calls(after).count("sym_size") == 1
    assert calls(after).count("add") == 1
    [read] = [n for n in after.calls() if n.target is torch.ops.aten.sym_size.int]
    assert read.args[0] is after.placeholders()[0]


def test_a_size_is_read_from_the_axis_that_has_it():
    b = ProgramBuilder()
    x = b.input((4, b.batch))
    size = b.call("aten.sym_size.int", b.call("aten.relu", x), 1)
    before = b.finish(b.call("aten.expand", b.weight((1, 4)), [size, 4]))
    after = simplified(before)
    [read] = [n for n in after.calls() if n.target is torch.ops.aten.sym_size.int]
    assert read.args == (after.placeholders()[0], 1)


def test_a_sum_uses_what_is_computed_before():
    """`n // 2` is there; `3 + n // 2` takes one call more, not two."""

    def make(b: ProgramBuilder, n: Node) -> list[Node]:
        half = b.call(DIV, n, 2)
        return [half, b.call(ADD, b.call(ADD, half, 1), 2)]

    after = simplified(built(make))
    assert sizes_of(after) == ["floordiv", "add"]


def test_what_a_shorter_size_leaves_behind_is_looked_at_again():
    """`n + 1` has two users; when it has one, that is computed without it too."""

    def make(b: ProgramBuilder, n: Node) -> list[Node]:
        one = b.call(ADD, n, 1)
        return [b.call(MUL, one, 2), b.call(SUB, one, 1)]

    before = built(make)
    after = simplified(before)
    assert sizes_of(after) == ["add", "mul"]


def test_sizes_of_one_axis_that_are_equal_at_the_traced_size_only():
    """The example's batch is 3; 6 - n and n are both 3 then, and n * n, n + 6."""

    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n = x.shape[0]
        return x.new_zeros(n * n + 2, 2), x.new_zeros(n + 8, 2)

    before = program(function, X, dynamic=True)
    after = simplified(before)
    assert [n.meta["val"].shape[0].node.expr for n in after.output_nodes()] == [
        n.meta["val"].shape[0].node.expr for n in before.output_nodes()
    ]


def test_two_dynamic_dimensions_are_two():
    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.new_zeros(x.shape[0] + 1, 2), x.new_zeros(y.shape[0] + 1, 2)

    before = trace(Function(function, {}), (X, X), dynamic_shapes=[{0: "n"}, {0: "m"}])
    after = applied(SIZES, before).program
    a, b = after.run_flat([rand(2, 4), rand(5, 4)])
    assert (a.shape, b.shape) == ((3, 2), (6, 2))


def test_a_size_that_depends_on_values_stays():
    before = program(lambda x: x.new_zeros(x.nonzero().shape[0] + 1, 2), X)
    [why] = unchanged(SIZES, before)
    assert "can't be computed from the sizes at hand" in why


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_files_compute_the_same_sizes(target: str):
    before = built(
        lambda b, n: [
            b.call(DIV, b.call(ADD, b.call(MUL, n, 4), 4), 4),
            b.call(SUB, 3, b.call(operator.neg, b.call(DIV, n, 2))),
            b.call(ADD, b.call(MOD, n, 3), 1),
            b.call(torch.sym_max, b.call(torch.sym_max, n, 2), 4),
        ]
    )
    after = applied(SIZES, before).program
    report = lower(after, target, reference=before).report
    assert report.ok, report.reason


def test_drawn_programs():
    check_pass(SIZES, examples=25, min_fired=0.3, targets=())
