"""What a template matches at an anchor, told of one matcher by itself; what its nearest miss says."""

from collections.abc import Callable

import pytest
import torch
from torch.fx import Graph, Node

from fxopt.rewriting import Rewriter, Rule, apply_rules
from fxopt.rewriting.matcher import Matcher, Miss, _argument_name, _is_kind
from fxopt.rewriting.rule import ArgumentKind
from fxopt.rewriting.template import rule_templates
from tests.passes.helpers import calls, program, rand


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        (True, {ArgumentKind.BOOL}),
        (3, {ArgumentKind.INT, ArgumentKind.FLOAT}),
        (0.5, {ArgumentKind.FLOAT}),
        ([1, 2], {ArgumentKind.INTS}),
        ((), {ArgumentKind.INTS}),
        ([1, 0.5], set()),
        ([1, True], set()),
        (torch.float16, {ArgumentKind.DTYPE}),
        (None, set()),
        ("mean", set()),
    ],
)
def test_kinds_of_literals(value: object, kinds: set[ArgumentKind]) -> None:
    literals = (
        ArgumentKind.BOOL, ArgumentKind.INT, ArgumentKind.FLOAT, ArgumentKind.INTS, ArgumentKind.DTYPE
    )  # fmt: skip
    assert {k for k in literals if _is_kind(value, k)} == kinds


def test_an_argument_is_named_by_identity() -> None:
    graph = Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    add = graph.call_function(torch.ops.aten.add.Tensor, (x, y), {"alpha": 2.5})
    assert [_argument_name(add, a) for a in (x, y, 7)] == ["'self'", "'other'", "an element"]
    assert _argument_name(add, add.kwargs["alpha"]) == "'alpha'"


def test_a_call_that_is_used_twice_is_one_call() -> None:
    def pattern(x: torch.Tensor) -> torch.Tensor:
        return torch.atan2((y := x.neg()).relu(), y)

    rule = Rule(pattern, lambda x: x.abs())
    for function, fires in (
        (lambda x: torch.atan2((y := x.neg()).relu(), y), True),
        (lambda x: torch.atan2(x.neg().relu(), x.abs()), False),
        (lambda x: torch.atan2(x.neg().relu(), x.neg()), False),
    ):
        p = program(function, rand(3)).copy()
        apply_rules(Rewriter(p), [rule])
        assert (calls(p) == ["abs"]) is fires


def test_an_operand_that_can_stand_on_both_sides_is_bound_twice_and_no_more() -> None:
    p = program(lambda x, y: x + y, rand(3), rand(3, seed=1))
    (template,) = rule_templates(Rule(lambda x, y: x + y, lambda x, y: x))
    x, y = p.placeholders()
    (add,) = p.calls()
    found = [f.bindings for f in Matcher(template, Miss()).at(add)]
    assert found == [{"x": x, "y": y}, {"x": y, "y": x}]


def test_what_a_search_has_left_is_none_of_the_next() -> None:
    """The order of the axes follows from the rank: a wildcard, of which each match has one."""
    rule = Rule(lambda x: x.permute(list(range(x.dim()))[::-1]).relu(), lambda x: x)
    p = program(lambda x: x.permute(2, 1, 0).relu() + x.permute(1, 0, 2).relu(), rand(3, 3, 3))
    first, second = [n for n in p.calls() if n.name.startswith("relu")]
    matcher = Matcher(rule_templates(rule)[0], Miss())
    started = next(iter(matcher.at(first)))
    assert started.wilds == ([2, 1, 0],)
    (found,) = matcher.at(second)
    assert found.wilds == ([1, 0, 2],)


def clamps(*calls: tuple[float | None, float | None]) -> tuple[Matcher, list[Node]]:
    """A matcher of relu(x).clamp(0.0), and calls of clamp on a relu."""
    p = program(lambda x: [x.relu().clamp(low, high) for low, high in calls], rand(3))
    (template,) = rule_templates(Rule(lambda x: x.relu().clamp(0.0), lambda x: x))
    return Matcher(template, Miss()), [n for n in p.calls() if n.name.startswith("clamp")]


@pytest.mark.parametrize(
    ("tried", "told"),
    [
        ([(0.0, 5.0), (1.0, None)], "expected 0.0 for 'min' of aten.clamp.default, found 1.0"),
        ([(1.0, None), (0.0, 5.0)], "expected 0.0 for 'min' of aten.clamp.default, found 1.0"),
        ([(0.0, 5.0), (0.0, 6.0)], "expected no 'max' of aten.clamp.default, found 5.0"),
        ([(1.0, None), (2.0, None)], "expected 0.0 for 'min' of aten.clamp.default, found 1.0"),
    ],
)
def test_of_misses_that_got_equally_far_one_with_the_argument_says_more_then_the_first(
    tried: list[tuple[float | None, float | None]], told: str
) -> None:
    matcher, anchors = clamps(*tried)
    for anchor in anchors:
        assert not list(matcher.at(anchor))
    assert (matcher.miss.score, matcher.miss.why) == (1, told)


def test_what_stops_at_its_first_operand_changes_no_miss_that_got_as_far() -> None:
    matcher, (anchor,) = clamps((0.0, 5.0))
    _, other = program(lambda x: x.neg().clamp(0.0), rand(3)).calls()
    assert not list(matcher.at(anchor)) and not list(matcher.at(other))
    assert matcher.miss.why == "expected no 'max' of aten.clamp.default, found 5.0"


def found(pattern: Callable[[torch.Tensor], torch.Tensor], function: Callable[..., object]) -> int:
    """How often the matcher alone finds a pattern at the last call of a function."""
    (template,) = rule_templates(Rule(pattern, lambda x: x))
    anchors = [n for n in program(function, rand(3)).calls() if n.target is template.anchor.target]
    return len(list(Matcher(template, Miss()).at(anchors[-1])))


def test_the_matcher_by_itself_tells_one_call_from_two() -> None:
    def pattern(x: torch.Tensor) -> torch.Tensor:
        return torch.atan2((y := x.neg()).relu(), y)

    assert found(pattern, lambda x: torch.atan2((y := x.neg()).relu(), y)) == 1
    assert found(pattern, lambda x: torch.atan2(x.neg().relu(), x.neg())) == 0


def test_a_call_that_stands_elsewhere_is_no_operand() -> None:
    def pattern(x: torch.Tensor) -> torch.Tensor:
        return torch.atan2(x.neg(), x.relu().exp())

    assert found(pattern, lambda x: torch.atan2(x.neg(), x.relu().exp())) == 1
    assert found(pattern, lambda x: (x.relu().exp(), torch.atan2(x.neg(), x.abs().exp()))[1]) == 0
    assert found(pattern, lambda x: (x.relu().exp(), torch.atan2(x.neg(), x.abs().exp()))) == 0
