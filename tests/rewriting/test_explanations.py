"""What is said of rules that did not fire, and when rules that never end are stopped."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.errors import PassError
from fxopt.program import Program
from fxopt.rewriting import Const, Match, Refused, Rewriter, Rule, apply_rules
from fxopt.rewriting.journal import failed_rewrite
from tests.passes.helpers import calls, program, rand


def told(p: Program, *rules: Rule) -> list[tuple[str, str, str]]:
    rewriter = Rewriter(p.copy())
    apply_rules(rewriter, rules)
    return [(r.rule, r.node, r.reason) for r in rewriter.refusals]


def rule(pattern: Callable[..., object], name: str) -> Rule:
    return Rule(pattern, lambda x: x, name=name)


def test_a_miss_at_the_first_call_is_told_where_nothing_else_matched() -> None:
    p = program(lambda x: x.sin().abs(), rand(3))
    cosine = rule(lambda x: x.cos().abs(), "cosine")
    assert told(p, cosine) == [
        ("cosine", "sin", "nearest miss, 1 matched: expected aten.cos.default, found aten.sin.default")
    ]
    sine = Rule(lambda x: x.sin(), lambda x: x.tan(), name="sine")
    assert told(p, sine, cosine) == []  # another one fired


def test_of_several_misses_the_furthest_is_told() -> None:
    p = program(lambda x: x.sin().abs().neg(), rand(3))
    near, far = rule(lambda x: x.cos().abs().neg(), "near"), rule(lambda x: x.cos().exp().neg(), "far")
    assert [r[:2] for r in told(p, near, far)] == [("near", "sin")]


@pytest.mark.parametrize(
    ("pattern", "function", "why"),
    [
        (lambda x: x + x.relu(), lambda x, y: x + y.relu(), "expected the input args_1 for 'x' again, found the input args_0"),
        (lambda x, s: (x * s).relu() * s, lambda x, y: (x * 2.0).relu() * 3.0, "expected 3.0 for 's' again, found 2.0"),
        (lambda x, s: (x * s).relu(), lambda x, y: (x * y).relu(), "expected float for 's', found the input args_1"),
        (lambda x: (x * 2.0).relu(), lambda x, y: (x * 3.0).relu(), "expected 2.0 for 'other' of aten.mul.Tensor, found 3.0"),
        (lambda x: x.permute(1, 0).relu(), lambda x, y: x[None].permute(1, 0, 2).relu(), "expected a list of 2"),
    ],
)  # fmt: skip
def test_what_was_expected(pattern: Callable[..., object], function: Callable[..., object], why: str) -> None:
    literal = "s" in pattern.__code__.co_varnames
    if literal:
        pattern.__annotations__ = {"s": float}
    p = program(function, rand(3, 2), rand(3, 2, seed=1))
    (found,) = told(p, Rule(pattern, (lambda x, s: x) if literal else (lambda x: x), name="r"))
    assert why in found[2]


def test_as_many_rewrites_as_are_allowed_are_no_error_and_one_more_is() -> None:
    """Eight a node and 256: here three nodes."""
    bound = 8 * 3 + 256

    def run(times: int) -> int:
        left = [times]

        def guard(match: Match) -> Refused | None:
            left[0] -= 1
            return match.refuse("enough") if left[0] < 0 else None

        rewriter = Rewriter(program(lambda x: x.relu(), rand(2)).copy())
        rules = [
            Rule(lambda x: x.relu(), lambda x: x.abs(), guard, "there"),
            Rule(lambda x: x.abs(), lambda x: x.relu(), guard, "back"),
        ]
        apply_rules(rewriter, rules)
        return len(rewriter.journal.rewrites)

    assert run(bound) == bound
    with pytest.raises(
        PassError, match=f"no fixpoint after {bound + 1} rewrites: the rules back, there undo"
    ):
        run(bound + 1)


def test_a_pattern_whose_results_change_places_is_refused() -> None:
    """Of one rank the first result is the inner call, of another the outer one."""

    def pattern(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x.sin()
        z = y.exp()
        return (y, z) if x.dim() < 3 else (z, y)

    r = Rule(pattern, lambda x: (x.cos(), x.tan()), name="r")
    reasons = [told(program(lambda x: (y := x.sin(), y.exp()), rand(*s)), r) for s in ((2, 3), (2, 3, 4, 5))]
    assert sorted(why for each in reasons for _, _, why in each) == [
        "on these values the pattern returns other results"
    ]


def test_a_weight_without_values_refuses_a_guard_that_asks_for_them() -> None:
    def guard(match: Match) -> Refused | None:
        w = match["w"]
        assert isinstance(w, torch.Tensor)
        return None if w.sum().item() > 0 else match.refuse("not positive")

    def pattern(x, w: Const):
        return F.linear(x, w)

    p = program(lambda x, w: F.linear(x, w), rand(2, 3), w=rand(4, 3)).copy()
    p.weights["w"] = torch.empty(4, 3, device="meta")
    assert "the weight 'w' has no values (device meta)" in told(p, Rule(pattern, pattern, guard, "r"))[0][2]
    full = program(lambda x, w: F.linear(x, w), rand(2, 3), w=rand(4, 3))
    broken = Rule(pattern, pattern, lambda match: 1 // 0, "r")  # type: ignore[arg-type,return-value]
    with pytest.raises(PassError, match="the guard fails: ZeroDivisionError"):
        told(full, broken)


def test_of_equal_misses_the_first_is_told() -> None:
    p = program(lambda x: x.sin().abs() + x.exp().abs(), rand(3))
    assert [r[1] for r in told(p, rule(lambda x: x.cos().abs(), "cosine"))] == ["sin"]


def test_a_rule_wakes_when_another_makes_the_op_that_it_needs() -> None:
    p = program(lambda x: x.relu(), rand(3)).copy()
    rules = [
        Rule(lambda x: x.tanh(), lambda x: x.sin(), name="second", needs=("aten.tanh",)),
        Rule(lambda x: x.relu(), lambda x: x.tanh(), name="first"),
    ]
    apply_rules(Rewriter(p), rules)
    assert calls(p) == ["sin"]


def test_errors_that_cause_one_another_have_an_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert failed_rewrite(first) is None


def test_a_miss_beside_a_match_is_told_if_it_got_as_far() -> None:
    """Where one rule matched, another that stopped at its first call is not worth a word; at its second it is."""
    p = program(lambda x: (x.abs().neg(), x.sin().exp().relu()), rand(3))
    fires = Rule(lambda x: x.abs(), lambda x: x.tan(), name="fires")
    assert told(p, fires, rule(lambda x: x.tanh().relu(), "one")) == []
    far = rule(lambda x: x.cos().exp().relu(), "two")
    assert told(p, far)[0][:2] == ("two", "sin")


def test_a_miss_two_calls_deep_is_told_though_another_rule_fired() -> None:
    p = program(lambda x: x.sin().abs().neg() + x.erf(), rand(3))
    fires = Rule(lambda x: x.erf(), lambda x: x.tan(), name="fires")
    assert told(p, fires, rule(lambda x: x.cos().abs().neg(), "deep")) == [
        ("deep", "sin", "nearest miss, 2 matched: expected aten.cos.default, found aten.sin.default")
    ]


def test_after_how_many_rewrites_there_is_no_fixpoint() -> None:
    """Eight for each node and 256."""
    p = program(lambda x: x.neg(), rand(3)).copy()
    assert len(p.graph.nodes) == 3
    with pytest.raises(PassError, match="no fixpoint after 281 rewrites"):
        apply_rules(Rewriter(p), [Rule(lambda x: x.neg(), lambda x: x.abs().neg(), name="grows")])
