"""Rules that say which ops they need: prepared for programs that have them, and not before."""

import pytest
import torch

from fxopt.errors import PassError
from fxopt.pipeline import registry
from fxopt.pipeline.base import RewritePass
from fxopt.rewriting import Rewriter, Rule, apply_rules
from fxopt.rewriting.candidates import Candidates
from fxopt.rewriting.template import rule_templates
from tests.passes.helpers import calls, program, rand


def counting(needs: tuple[str, ...]) -> tuple[Rule, list[int]]:
    """relu(relu(x)) -> relu(x), and a list that grows with each run of the pattern."""
    runs: list[int] = []

    def pattern(x: torch.Tensor) -> torch.Tensor:
        runs.append(1)
        return torch.relu(torch.relu(x))

    return Rule(pattern, lambda x: torch.relu(x), name="counting", needs=needs), runs


def test_a_rule_is_not_prepared_for_a_program_without_its_ops():
    rule, runs = counting(("aten.relu",))
    rewriter = Rewriter(program(lambda x: x.neg(), rand(2)))
    apply_rules(rewriter, [rule])
    assert not runs
    assert [(r.rule, r.reason) for r in rewriter.refusals] == [("counting", "the program has no aten.relu")]


def test_a_rule_is_prepared_where_its_ops_are():
    rule, runs = counting(("aten.relu.default",))
    before = program(lambda x: x.relu().relu(), rand(2))
    apply_rules(Rewriter(before), [rule])
    assert runs
    assert calls(before) == ["relu"]


def test_an_op_that_no_rule_waits_for_is_not_lacked():
    rule, _ = counting(("aten.relu",))
    before = program(lambda x: x.neg(), rand(2))
    candidates = Candidates([rule])
    assert candidates.wake(before) == frozenset()
    relu, neg = torch.ops.aten.relu.default, torch.ops.aten.neg.default
    assert candidates.lack(relu) and not candidates.lack(neg)
    assert not Candidates([]).lack(relu)


def test_of_single_calls_no_user_of_a_user_is_looked_at():
    candidates = Candidates([Rule(lambda x: x.neg(), lambda x: x, name="negation")])
    candidates.wake(program(lambda x: x.neg(), rand(2)))
    assert (candidates.depth, candidates.fan_out) == (1, 0)


def test_a_rule_that_needs_nothing_is_always_prepared():
    rule, runs = counting(())
    apply_rules(Rewriter(program(lambda x: x.neg(), rand(2))), [rule])
    assert runs


def test_a_rewrite_may_make_what_another_rule_needs():
    rule, _ = counting(("aten.relu",))
    clamp = Rule(lambda x: x.clamp(0.0), lambda x: x.relu(), name="clamp", needs=("aten.clamp",))
    before = program(lambda x: x.clamp(0.0).clamp(0.0).clamp(0.0), rand(2))
    apply_rules(Rewriter(before), [rule, clamp])
    assert calls(before) == ["relu"]


def test_rules_that_wake_late_keep_their_order():
    """Two rules fit the last call once the first has made a relu; the one that stands before wins."""
    first = Rule(lambda x: x.relu().neg(), lambda x: x.tanh(), name="first", needs=("aten.relu",))
    second = Rule(lambda x: x.neg(), lambda x: x.sin(), name="second")
    clamp = Rule(lambda x: x.clamp(0.0), lambda x: x.relu(), name="clamp")
    before = program(lambda x: x.clamp(0.0).neg(), rand(2))
    apply_rules(Rewriter(before), [first, second, clamp])
    assert calls(before) == ["tanh"]


def test_a_need_that_the_pattern_has_not_is_an_error():
    rule, _ = counting(("aten.relu", "aten.neg"))
    with pytest.raises(
        PassError, match=r"says that it needs aten\.neg, but its pattern calls only aten\.relu"
    ):
        apply_rules(Rewriter(program(lambda x: x.relu().neg(), rand(2))), [rule])


def test_what_the_passes_say_is_so():
    rules = [r for cls in registry.all().values() if issubclass(cls, RewritePass) for r in cls().all_rules()]
    assert any(rule.needs for rule in rules)
    for rule in rules:
        for template in rule_templates(rule):
            names = {str(n.target) for n in template.nodes}
            assert all(any(name.startswith(op) for name in names) for op in rule.needs), rule.title


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([lambda x: x.relu().neg()], 1),
        ([lambda x: x.relu().neg(), lambda x: (y := x.tanh()) * y.neg()], 2),
        ([lambda x: (y := x.tanh()) * y.neg(), lambda x: x.relu().neg()], 2),
        ([lambda x: ((y := x.relu()), y.neg())], None),  # a result may have any number of users
        ([lambda x: ((y := x.relu()), y.neg()), lambda x: x.relu().neg()], None),
        ([lambda x: x.relu().neg(), lambda x: ((y := x.relu()), y.neg())], None),
    ],
)
def test_inner_values_have_as_many_users_as_some_pattern_gives_them(patterns, expected):
    rules = [Rule(p, p, name=str(i)) for i, p in enumerate(patterns)]
    candidates = Candidates(rules)
    candidates.wake(program(lambda x: x.relu().neg(), rand(2)))
    assert candidates.fan_out == expected


def test_a_rule_that_needs_two_ops_waits_for_the_other_when_it_has_one():
    rule = Rule(lambda x: x.sin().cos(), lambda x: x, needs=("aten.sin", "aten.cos"))
    candidates = Candidates([rule])
    assert not candidates.wake(program(lambda x: x.neg(), rand(2)))
    sin, cos = torch.ops.aten.sin.default, torch.ops.aten.cos.default
    assert candidates.lack(sin) and not candidates.lack(cos)
    assert not candidates.wake(program(lambda x: x.sin(), rand(2)))
    assert candidates.lack(cos) and not candidates.lack(sin)
    assert candidates.wake(program(lambda x: x.sin().cos(), rand(2))) == {id(cos)}
    assert not candidates.lack(cos)
