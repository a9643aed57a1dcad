"""Templates: what a pattern says of ranks, dtypes, literals and absent arguments."""

import time
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.ops import op_key
from fxopt.rewriting import Const, Rule
from fxopt.rewriting.examples import Examples
from fxopt.rewriting.template import example_arguments, rule_templates
from fxopt.rewriting.terms import Bind, BindLiteral, Literal, Template, Use, Wild


def templates(pattern: Callable[..., object]) -> tuple[Template, ...]:
    return rule_templates(Rule(pattern, pattern))


def ops(template: Template) -> list[str]:
    return [op_key(n.target).split(".")[1] for n in template.nodes]


def test_arguments_uses_and_literals() -> None:
    (template,) = templates(lambda x, y: torch.add(x.relu(), y, alpha=2))
    relu, add = template.nodes
    assert relu.args == (Bind("x"),)
    assert add.args == (Use(0), Bind("y"))
    assert add.kwargs == (("alpha", Literal(2)),)
    assert template.outputs == (1,)
    assert (template.depth, template.fan_out) == (2, 1)


def test_what_depends_on_rank_or_size_is_wild() -> None:
    (template,) = templates(lambda x: x.transpose(-1, -2))
    assert template.nodes[0].args == (Bind("x"), Wild())
    (template,) = templates(lambda x: x * x.shape[-1] ** -0.5)
    assert template.nodes[0].args == (Bind("x"), Wild())
    (template,) = templates(lambda x: x.softmax(1))
    assert template.nodes[0].args[1] == Literal(1)


def test_literals_are_bound_where_they_stand() -> None:
    def pattern(x, w: Const, stride: list[int], dilation: list[int], groups: int, eps: float):
        return F.layer_norm(F.conv2d(x, w, None, stride, 0, dilation, groups), [4], None, None, eps)

    def plain(
        x, w: Const, stride: list[int], padding: list[int], dilation: list[int], groups: int, slope: float
    ):
        return F.leaky_relu(F.conv2d(x, w, None, stride, padding, dilation, groups), slope)

    (template,) = templates(plain)
    bound = [a.name for a in template.nodes[0].args if isinstance(a, BindLiteral)]
    assert bound == ["stride", "padding", "dilation", "groups"]
    assert template.nodes[1].args[1] == BindLiteral("slope", template.nodes[1].args[1].kind)  # type: ignore[union-attr]


def test_each_set_of_absent_arguments_is_a_template() -> None:
    def pattern(x, w: Const, b: Const | None, p: float | None):
        y = F.linear(x, w, b)
        return y.relu() if p is None else F.leaky_relu(y, p)

    made = templates(pattern)
    assert [sorted(t.absent) for t in made] == [[], ["b"], ["p"], ["b", "p"]]
    assert [ops(t)[-1] for t in made] == ["leaky_relu", "leaky_relu", "relu", "relu"]
    assert made[1].nodes[0].args[2] == Literal(None)


def test_a_graph_that_depends_on_the_dtype_is_several_templates() -> None:
    made = templates(lambda x: x.float().exp())
    assert [ops(t) for t in made] == [["exp"], ["to", "exp"]]


@pytest.mark.parametrize(
    ("pattern", "ranks"),
    [
        (lambda x, w: F.conv3d(x, w), [5, 5]),
        (lambda x, w: F.conv1d(x, w), [3, 3]),
        (lambda x, i: F.embedding(i, x), [2, 2]),
        (lambda x, y: torch.bmm(x, y), [3, 3]),
        (lambda x, y: torch.where(x, y, 0.0), [2, 2]),
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), [4, 4, 4]),
        (lambda x: x.squeeze(1).unsqueeze(1) if x.dim() > 1 else x.no, [2]),
    ],
)
def test_ranks_and_dtypes_are_found_by_running(pattern: Callable[..., object], ranks: list[int]) -> None:
    ((_, tensors),) = example_arguments(Rule(pattern, pattern))
    assert len(tensors) == len(ranks)
    assert templates(pattern)


def test_templates_are_made_once() -> None:
    rule = Rule(lambda x: x.relu(), lambda x: x)
    assert rule_templates(rule) is rule_templates(rule)


def test_a_rule_of_many_literals_is_ready_in_a_second() -> None:
    def pattern(x, w: Const, b: Const | None, mean: Const, var: Const, gamma: Const | None, beta: Const | None,
                stride: list[int], padding: list[int], dilation: list[int], groups: int, momentum: float, eps: float):  # fmt: skip
        y = F.conv2d(x, w, b, stride, padding, dilation, groups)
        return F.batch_norm(y, mean, var, gamma, beta, False, momentum, eps)

    templates(lambda x, w: F.conv2d(x, w))  # torch's own first-use costs
    start = time.process_time()
    assert len(templates(pattern)) == 8
    assert time.process_time() - start < 3


def test_what_one_set_of_arguments_has_shown_is_not_searched_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wildcards and literals of a pattern without a bias are those of the pattern with it."""
    counts = Counter[frozenset[str]]()
    record = Examples.recorded

    def counted(self: Examples, *args: object) -> object:
        counts[self.absent] += 1
        return record(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Examples, "recorded", counted)

    def pattern(x, w: Const, b: Const | None, stride: list[int], padding: list[int], groups: int):
        return F.conv2d(x, w, b, stride, padding, 1, groups)

    made = templates(pattern)
    assert [sorted(t.absent) for t in made] == [[], ["b"]]
    literals = [a.name for a in made[1].nodes[0].args if isinstance(a, BindLiteral)]
    assert literals == ["stride", "padding", "groups"]
    assert counts[frozenset({"b"})] <= 6 < 12 < counts[frozenset()]
