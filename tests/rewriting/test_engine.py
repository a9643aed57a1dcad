"""The engine's costs, counted instead of timed: they must not depend on the size of the program."""

from collections.abc import Callable

import pytest
import torch

from fxopt.pipeline import PassManager, RewritePass
from fxopt.program import Program
from fxopt.rewriting import Const, Rewriter, Rule, apply_rules, confirm
from fxopt.rewriting.matcher import Matcher
from tests.passes.helpers import calls, program, rand

CHAIN = (Rule(lambda x: torch.relu(x + 1.5), lambda x: torch.sigmoid(x), name="chain"),)


def chain(pairs: int) -> Program:
    def function(x: torch.Tensor) -> torch.Tensor:
        for _ in range(pairs):
            x = torch.relu(x + 1.5)
        return x

    return program(function, rand(2, 4), dynamic=True).copy()


def counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[object]:
    """Calls of a function from now on."""
    seen: list[object] = []
    original: Callable[..., object] = getattr(owner, name)

    def call(*args: object, **kwargs: object) -> object:
        seen.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return seen


@pytest.mark.parametrize("reverse", [False, True])
def test_attempts_grow_with_the_program_and_no_faster(monkeypatch: pytest.MonkeyPatch, reverse: bool) -> None:
    counts = {}
    for pairs in (40, 160):
        p = chain(pairs)
        with monkeypatch.context() as patch:
            attempts = counted(patch, Matcher, "at")
            apply_rules(Rewriter(p), CHAIN[::-1] if reverse else CHAIN)
            counts[pairs] = len(attempts)
        assert calls(p) == ["sigmoid"] * pairs
    assert counts[160] <= 4 * counts[40] <= 4 * 4 * 40


def test_a_match_is_recorded_once_for_all_of_its_types(monkeypatch: pytest.MonkeyPatch) -> None:
    p = chain(30)
    records = counted(monkeypatch, confirm, "record")
    apply_rules(Rewriter(p), CHAIN)
    assert len(records) == 2  # pattern and replacement


def test_what_was_recorded_serves_the_next_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    p = chain(5)
    other = p.copy()
    apply_rules(Rewriter(p), CHAIN)
    records = counted(monkeypatch, confirm, "record")
    apply_rules(Rewriter(other), CHAIN)
    assert not records
    assert calls(other) == calls(p)


def test_other_types_and_literals_are_recorded_anew() -> None:
    def pattern(x, s: float):
        return (x * s).relu()

    def replacement(x, s):
        return x.relu() * s

    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x * 2.0).relu(), (x * 3.0).relu(), (y * 2.0).relu(), (x[:1] * 2.0).relu()

    p = program(function, rand(2, 3), rand(2, 3, dtype=torch.float64)).copy()
    apply_rules(Rewriter(p), [Rule(pattern, replacement)])
    products = [n for n in p.calls() if n.target == torch.ops.aten.mul.Tensor]
    assert [n.args[1] for n in products] == [2.0, 3.0, 2.0, 2.0]
    assert [n.meta["val"].dtype for n in products] == [
        torch.float32,
        torch.float32,
        torch.float64,
        torch.float32,
    ]
    assert products[3].meta["val"].shape == (1, 3)
    p.run_flat([rand(2, 3), rand(2, 3, dtype=torch.float64)])


def test_nodes_that_no_rule_is_anchored_at_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    p = program(lambda x: x.sin().cos().tan().exp().abs(), rand(2)).copy()
    attempts = counted(monkeypatch, Matcher, "at")
    apply_rules(
        Rewriter(p), [Rule(lambda x: x.cos().exp(), lambda x: x), Rule(lambda x: x.log(), lambda x: x)]
    )
    assert len(attempts) == 1


def test_rules_are_tried_in_order() -> None:
    p = program(lambda x: x.relu(), rand(2)).copy()
    rules = [
        Rule(lambda x: x.relu(), lambda x: x.abs(), name="a"),
        Rule(lambda x: x.relu(), lambda x: x.exp(), name="b"),
    ]
    apply_rules(Rewriter(p), rules)
    assert calls(p) == ["abs"]


def test_a_second_run_finds_nothing() -> None:
    """The worklist reaches the fixpoint: whatever a full sweep would find, it has found."""

    def dist(x, y, w: Const):
        return (x + y) * w

    rules = [
        Rule(lambda x: x.neg().neg(), lambda x: x, name="neg-neg"),
        Rule(lambda x, y: x.neg() + y.neg(), lambda x, y: (x + y).neg(), name="neg-add"),
        Rule(lambda x: x.neg().abs(), lambda x: x.abs(), name="neg-abs"),
        Rule(dist, lambda x, y, w: x * w + y * w, name="distribute"),
        Rule(lambda x, y: x.neg() * y, lambda x, y: (x * y).neg(), name="neg-mul"),
    ]

    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        a = ((x.neg() + x.exp().neg()) * w).neg()
        b = ((a + x.neg()) * w).abs() + (a.neg() + x.neg()).neg()
        return ((b.neg().neg() + a) * w).neg().abs() * a.neg()

    before = program(function, rand(2, 3), w=rand(3))
    p = before.copy()
    apply_rules(Rewriter(p), rules)
    again = Rewriter(p)
    apply_rules(again, rules)
    assert not again.journal.changed
    torch.testing.assert_close(p(rand(2, 3)), before(rand(2, 3)))


def test_layers_that_share_a_weight_share_what_is_made_of_it() -> None:
    class Linear(RewritePass):
        """matmul(x, w)  ->  linear(x, w')."""

        @staticmethod
        def pattern(x, w: Const):  # type: ignore[override]
            return torch.matmul(x, w)

        @staticmethod
        def replacement(x, w):  # type: ignore[override]
            return torch.nn.functional.linear(x, w.t())

    def function(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ((x @ w).relu() @ w).relu() @ v @ w

    before = program(function, rand(2, 3), w=rand(3, 3), v=rand(3, 3))
    result = PassManager.of([Linear()]).run(before)
    assert calls(result.program) == ["linear", "relu", "linear", "relu", "linear", "linear"]
    assert len(result.program.weights) == 2
    x = rand(2, 3)
    torch.testing.assert_close(result.program(x), before(x))


def test_what_is_made_of_one_weight_by_other_literals_is_another() -> None:
    def pattern(x, w: Const):
        return x @ w

    p = program(lambda x, w: x @ w, rand(4, 4), w=rand(4, 4)).copy()
    w = p.weights["w"]
    rule = Rule(pattern, lambda x, w: x + w.flip(0) * w.flip(1) - w.flip([0]))
    apply_rules(Rewriter(p), [rule])
    x = rand(4, 4, seed=1)
    torch.testing.assert_close(p(x), x + w.flip(0) * w.flip(1) - w.flip(0))
    p = program(lambda x, w: x @ w, rand(4, 4), w=w).copy()
    apply_rules(Rewriter(p), [Rule(pattern, lambda x, w: (x + w.flip(0)) * w.flip(1) - w.flip([0]))])
    torch.testing.assert_close(p(x), (x + w.flip(0)) * w.flip(1) - w.flip(0))
    assert len(p.weights) == 2


def test_one_value_for_several_arguments_says_nothing_of_other_values() -> None:
    """What was recorded for a match serves others of the same types, whose arguments may be different nodes."""

    def function(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(a, a, a) * torch.addcmul(a, b, c)

    p = program(function, rand(3), rand(3), rand(3)).copy()
    rule = Rule(lambda x, y, z: torch.addcmul(x, y, z), lambda x, y, z: x.exp() + y.sin() * z.cos())
    apply_rules(Rewriter(p), [rule])
    a, b, c = rand(3, seed=1), rand(3, seed=2), rand(3, seed=3)
    expected = (a.exp() + a.sin() * a.cos()) * (a.exp() + b.sin() * c.cos())
    torch.testing.assert_close(p(a, b, c), expected)
