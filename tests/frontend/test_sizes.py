import pytest
import sympy
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.functions import FloorDiv

from fxopt.frontend.sizes import Guard, broken_guards, narrow_guard, other_sizes, size_guards
from fxopt.frontend.trace import trace
from fxopt.program import Symbol
from tests.frontend.good_models import Function2, noise

n, m = (sympy.Symbol(name, integer=True, positive=True) for name in "nm")
even = Guard(sympy.Eq(sympy.Mod(n, 2), 0), "")
small = Guard(n < 7, "")
free = {"n": Symbol("n"), "m": Symbol("m")}


def test_a_guard_holds_or_not():
    assert even.holds({"n": 4})
    assert not even.holds({"n": 5})
    assert Guard(sympy.Eq(n, m), "").holds({"n": 4, "m": 4})
    assert str(Guard(n < 7, " at model.py:3")) == "n < 7 at model.py:3"


def test_what_cannot_be_decided_holds():
    assert Guard(sympy.Eq(n, m), "").holds({"n": 4})
    assert Guard(sympy.Eq(FloorDiv(m, n - 4), m), "").holds({"n": 4, "m": 2})


def test_other_sizes_are_near_differ_from_one_another_and_keep_the_guards():
    first = next(other_sizes({"n": 4, "m": 4}, free, []))
    assert first == {"n": 5, "m": 6}
    assert next(other_sizes({"n": 4}, free, [even])) == {"n": 6}
    assert all(s["n"] % 2 == 0 for s in other_sizes({"n": 4}, free, [even]))


def test_other_sizes_stay_in_range_and_above_one():
    fixed = {"n": Symbol("n", 3, 5)}
    assert {s["n"] for s in other_sizes({"n": 4}, fixed, [])} == {3, 5}
    assert all(s["n"] >= 2 for s in other_sizes({"n": 2}, free, []))
    assert not list(other_sizes({"n": 4}, {"n": Symbol("n", 4, 4)}, []))


def test_broken_guards_small_sizes_first_each_guard_once():
    found = list(broken_guards({"n": 4}, free, [even, small]))
    assert [(s["n"], g) for s, g in found] == [(3, even), (7, small)]
    assert len(list(broken_guards({"n": 4}, free, [even, small], limit=1))) == 1
    assert not list(broken_guards({"n": 4}, free, []))


@pytest.mark.parametrize(
    ("expression", "narrow"),
    [
        (sympy.Eq(sympy.floor(n / 2), 2), True),
        (sympy.Eq(sympy.Mod(n, 8), 0), False),
        (sympy.Ne(n, 1), False),
        (n > 3, False),
        (n < 7, True),
    ],
)
def test_guards_that_no_far_size_keeps(expression: sympy.Basic, narrow: bool):
    guard = Guard(expression, "")
    assert narrow_guard({"n": 4}, free, [even, guard]) is (guard if narrow else None)
    assert narrow_guard({"n": 4}, {"n": Symbol("n", 0, 6)}, [guard]) is None


def test_guards_by_the_users_names_and_line():
    program = trace(
        Function2(lambda x, y: x[: x.shape[0] // 2] + y.sum()).eval(),
        (noise(8, 3), noise(4)),
        dynamic_shapes={"x": {0: "rows"}, "y": {0: "other"}},
    )
    guards = size_guards(program.fake_mode.shape_env, program.symbol_names)
    assert guards
    assert {str(s) for g in guards for s in g.expression.free_symbols} == {"rows"}
    assert all(f" at {__file__}:" in g.place for g in guards)


def test_without_symbols_there_are_no_guards():
    assert size_guards(None, {}) == []
    assert size_guards(ShapeEnv(), {}) == []
