"""The values on which a pattern is tried, and what a template keeps of them."""

import torch

from fxopt.pipeline import PassManager, RewritePass
from fxopt.rewriting import Const, Match, Rewriter, Rule, apply_rules
from fxopt.rewriting.examples import Examples, _lists, values_near
from fxopt.rewriting.rule import ArgumentKind, rule_parameters
from fxopt.rewriting.template import rule_templates
from tests.passes.helpers import calls, program, rand


def examples(function) -> Examples:
    rule = Rule(function, function)
    return Examples(rule, rule_parameters(rule), frozenset())


def shapes(found: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {n: list(t.shape) for n, t in found.items()}


ONE = examples(lambda x: x.relu())
TWO = examples(lambda x, y: x @ y)


def test_lists_of_integers() -> None:
    assert _lists(2) == [[1, 1], [2, 2], [1, 2], [0, 0], [0, 1], [1, 0], [4, 4], [2, 8], [8, 4]]
    assert _lists(1) == [[1], [2], [2], [0], [0], [0], [4], [16]]
    assert _lists(3)[-2:] == [[4, 4, 4], [2, 2, 4]] and _lists(4)[-1] == [2, 2, 2, 2]


def test_other_sizes_for_all() -> None:
    found = [shapes(f) for f in TWO.scaled({"x": torch.ones(4, 3), "y": torch.ones(3, 4)})]
    assert found == [{"x": [n, 3], "y": [3, n]} for n in (6, 8, 2)]


def test_shapes_are_scaled_then_deeper_then_one_deeper_alone() -> None:
    found = [shapes(f) for f in TWO.shapes({"x": torch.ones(4, 4), "y": torch.ones(4, 4)})]
    assert found[3:] == [
        {"x": [4, 4, 4], "y": [4, 4, 4]},
        {"x": [4, 4, 4], "y": [4, 4]},
        {"x": [4, 4], "y": [4, 4, 4]},
    ]
    assert [shapes(f)["x"] for f in ONE.shapes({"x": torch.ones(4, 5)})] == [
        [6, 5], [8, 5], [2, 5],
        [4, 6],  # a size that the pattern names
        [4, 4, 5],
    ]  # fmt: skip


def test_one_argument_resized() -> None:
    """Those of space twice as large, two channels, any size to 2, 8 or 1."""
    found = [shapes(f)["x"] for f in ONE.resized({"x": torch.ones(4, 4, 5)})]
    assert found == [
        [4, 4, 10], [4, 2, 5],
        [2, 4, 5], [8, 4, 5], [1, 4, 5], [4, 2, 5], [4, 8, 5], [4, 1, 5], [4, 4, 2], [4, 4, 8], [4, 4, 1],
    ]  # fmt: skip
    assert [shapes(f)["x"] for f in ONE.resized({"x": torch.ones(4, 4)})] == [
        [2, 4], [8, 4], [1, 4], [4, 2], [4, 8], [4, 1],
    ]  # fmt: skip


def test_the_second_size_alone_is_changed() -> None:
    assert shapes(list(ONE.resized({"x": torch.ones(3, 4, 5)}))[1]) == {"x": [3, 2, 5]}


def test_an_axis_that_must_be_of_one_is_found() -> None:
    def pattern(x):
        return x.reshape(x.shape[0], x.shape[-1]).relu() if x.dim() > 2 else x.no

    _, found = examples(pattern).base()
    assert shapes(found) == {"x": [4, 1, 4]}  # type: ignore[arg-type]


def test_choices_of_literals() -> None:
    def pattern(x, a: list[int], b: list[int], n: int):
        return x.flip(a).flip(b) * n

    found = list(examples(pattern)._literal_choices())
    assert found[:4] == [
        {"a": [1, 1], "b": [1, 1], "n": 1},
        {"a": [0, 0], "b": [1, 1], "n": 1},
        {"a": [1, 1], "b": [0, 0], "n": 1},
        {"a": [4, 4], "b": [4, 4], "n": 1},
    ]
    assert [len(f["a"]) for f in found[:16:4]] == [2, 3, 1, 4]  # type: ignore[arg-type]
    assert len(found) == 16 + 16
    assert [f["n"] for f in found[16:21]] == [1, 2, 0, 3, -1]


def test_what_a_template_says_of_its_calls() -> None:
    single = rule_templates(Rule(lambda x: x.relu(), lambda x: x))[0]
    assert (single.depth, single.fan_out) == (1, 0)
    chain = rule_templates(Rule(lambda x: x.neg().relu().abs(), lambda x: x))[0]
    assert (chain.depth, chain.fan_out) == (3, 1)
    shared = rule_templates(Rule(lambda x: x.neg().relu() + x.neg(), lambda x: x))[0]
    assert shared.depth == 3


def test_a_list_that_depends_on_the_rank_is_held_to_the_pattern() -> None:
    """Recorded at other ranks the lists differ: a wildcard, which the values matched must justify."""

    class Reversed(RewritePass):
        """relu of the axes reversed -> its abs, that it is seen."""

        @staticmethod
        def pattern(x):  # type: ignore[override]
            return x.permute(list(range(x.dim()))[::-1]).relu()

        @staticmethod
        def replacement(x):  # type: ignore[override]
            return x.permute(list(range(x.dim()))[::-1]).abs()

    for order, fires in (([2, 1, 0], True), ([0, 2, 1], False), ([1, 2, 0], False)):
        before = program(lambda x, order=order: x.permute(order).relu(), rand(3, 3, 3))
        after = PassManager.of([Reversed()]).run(before).program
        assert calls(after) == ["permute", "abs" if fires else "relu"], order


def test_two_results_are_made_where_the_first_of_them_stands() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        early = x.abs()
        return early.neg(), x.exp()

    def guard(match: Match) -> None:
        assert [n.name for n in match.outputs] == ["exp", "abs_1"]

    p = program(function, rand(3)).copy()
    rewriter = Rewriter(p)
    rule = Rule(lambda x: (x.exp(), x.abs()), lambda x: (x.sinh(), x.sign()), guard, "two")
    apply_rules(rewriter, [rule])
    assert calls(p) == ["sinh", "sign", "neg"]
    assert not rewriter.refusals


def test_what_a_rewrite_made_and_gave_up_was_never_removed() -> None:
    p = program(lambda x: x.neg().relu(), rand(2)).copy()
    rewriter = Rewriter(p)
    (relu,) = rewriter.nodes("aten.relu")
    with rewriter.rewrite("r", relu):
        rewriter.call("aten.exp", relu.args[0])
        rewriter.replace(relu, rewriter.call("aten.abs", relu.args[0]))
    (rewrite,) = rewriter.journal.rewrites
    assert (rewrite.removed, [n.name for n in p.calls()]) == (("relu",), ["neg", *rewrite.created])


def test_other_values_of_a_literal() -> None:
    assert values_near(ArgumentKind.INT, 2) == [1, 0, 3, -1]
    assert values_near(ArgumentKind.BOOL, True) == [False]
    found = values_near(ArgumentKind.INTS, [1, 1])
    assert found == [v for v in _lists(2) if v != [1, 1]]
    assert all(len(v) == 3 for v in values_near(ArgumentKind.INTS, [7, 7, 7]))  # type: ignore[arg-type]


def test_what_suits_a_pattern_with_more_arguments_is_tried_first() -> None:
    full = examples(lambda x, w, b: torch.nn.functional.linear(x, w, b))
    found = full.base()
    assert not isinstance(found, str)
    rule = Rule(lambda x, w, b: torch.nn.functional.linear(x, w, b), lambda x, w, b: x)
    fewer = Examples(rule, rule_parameters(rule), frozenset("b")).subset(found)
    assert fewer is not None and shapes(fewer[1]) == {n: list(found[1][n].shape) for n in ("x", "w")}
    needy = Rule(lambda x, w, b: x + w + b.relu(), lambda x, w, b: x)
    assert Examples(needy, rule_parameters(needy), frozenset("b")).subset(found) is None


def test_one_more_dimension_is_given_to_what_is_computed_and_not_to_a_weight() -> None:
    def pattern(x, w: Const):
        return x @ w

    found = [shapes(f) for f in examples(pattern).shapes({"x": torch.ones(4, 4), "w": torch.ones(4, 4)})]
    assert found[3:] == [{"x": [4, 4, 4], "w": [4, 4, 4]}, {"x": [4, 4, 4], "w": [4, 4]}]


def test_the_likely_ranks_are_tried_with_all_literals_before_mixtures() -> None:
    runs: list[int] = []

    def pattern(x, y, axes: list[int]):
        runs.append(1)
        if len(axes) != 3:
            raise ValueError("three axes")
        return torch.atan2(x, y).flip(axes)

    found = examples(pattern).base()
    assert not isinstance(found, str) and found[0] == {"axes": [0, 1, 2]}
    assert len(runs) < 200, len(runs)
