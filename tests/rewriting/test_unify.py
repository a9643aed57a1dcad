"""What recordings of one pattern have in common."""

import pytest

from fxopt.rewriting.rule import ArgumentKind, Parameter
from fxopt.rewriting.terms import Argument, Bind, BindLiteral, Listed, Literal, TemplateNode, Use, Wild
from fxopt.rewriting.unify import Changed, binds_literal, inherited, unified

DIM = BindLiteral("dim", ArgumentKind.INT)


def node(*args: Argument, target: object = "op", **kwargs: Argument) -> TemplateNode:
    return TemplateNode(0, target, args, tuple(kwargs.items()))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (node(Bind("x")), node(Bind("y"))),
        (node(Bind("x")), node(Use(0))),
        (node(Bind("x")), node(Literal(1))),
        (node(Bind("x"), other=Bind("y")), node(Bind("x"), other=Bind("z"))),
        (node(Listed((Bind("x"), Bind("y")))), node(Listed((Bind("x"), Bind("x"))))),
        (node(Bind("x")), node(Bind("x"), Bind("y"))),
        (node(Bind("x")), node(Bind("x"), alpha=Literal(1))),
        (node(Bind("x")), node(Bind("x"), target="another")),
    ],
)
def test_calls_on_other_values_are_another_graph(a: TemplateNode, b: TemplateNode) -> None:
    assert unified((a,), (b,)) is None


def test_literals_that_differ_are_wild() -> None:
    a = node(Bind("x"), Literal(1), Listed((Literal(1), Literal(2))), alpha=Literal(3))
    b = node(Bind("x"), Literal(2), Listed((Literal(1), Literal(4))), alpha=Literal(3))
    expected = node(Bind("x"), Wild(), Listed((Literal(1), Wild())), alpha=Literal(3))
    assert unified((a,), (b,)) == (expected,)


def test_a_literal_and_a_list_are_wild() -> None:
    listed = Listed((Literal(1), Literal(2)))
    for a, b in ((Literal(1), listed), (listed, Literal(1))):
        assert unified((node(a),), (node(b),)) == (node(Wild()),)


def test_a_literal_in_a_list_is_bound() -> None:
    assert binds_literal((node(Listed((Literal(1), DIM))),), "dim")


def test_a_literal_that_follows_the_change_is_bound() -> None:
    change = Changed(Parameter("dim", ArgumentKind.INT), 1, 2)
    found = unified((node(Literal(1), Literal(1.0)),), (node(Literal(2), Literal(1.0)),), change)
    assert found == (node(DIM, Literal(1.0)),)
    assert binds_literal(found, "dim") and not binds_literal(found, "axis")


def test_wildcards_and_bound_literals_are_taken_over() -> None:
    own = node(Bind("x"), Literal(1), Literal(5), alpha=Literal(2))
    full = node(Bind("y"), DIM, Literal(6), alpha=Wild())
    assert inherited((own,), (full,)) == (node(Bind("x"), DIM, Literal(5), alpha=Wild()),)
    axis = BindLiteral("axis", ArgumentKind.INT)
    assert inherited((node(axis),), (node(DIM),)) == (node(axis),)
    assert inherited((own,), (node(target="another"),)) is None
    assert inherited((own,), (full, full)) is None
