"""Structural matching of a template at an anchor.

Commutative ops are matched without copies of the pattern; lists, shared values and several results too.

What is still to be matched is a chain of goals. Where a goal leaves a choice (the order of operands, which
user of a shared value is meant) each is tried in turn and undone; all else goes straight on, so that an
anchor without a match costs about as much as the comparison of two ops.

>>> from fxopt.rewriting.template import rule_templates
>>> import torch
>>> from fxopt.rewriting.rule import Rule
>>> templates = rule_templates(Rule(lambda x, y: torch.relu(x + y), lambda x, y: x))
>>> Matcher(templates[0], Miss()).template.depth
2
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

import torch
from torch.fx import Node

from fxopt.ops import argument_kinds, is_commutative, op_key
from fxopt.program import value_key
from fxopt.rewriting.rule import ArgumentKind
from fxopt.rewriting.terms import (
    Argument,
    Bind,
    BindLiteral,
    Listed,
    Literal,
    Template,
    TemplateNode,
    Use,
    Wild,
)

__all__ = ["Found", "Matcher", "Miss"]


class Found(NamedTuple):
    """A structural match: values by argument name, calls in template order, what stands for the wildcards."""

    bindings: dict[str, object]
    nodes: tuple[Node, ...]
    wilds: tuple[object, ...]


@dataclass
class Miss:
    """The attempt that got furthest and failed."""

    score: int = 0
    """How many calls matched."""
    absent: bool = False
    """Whether an argument was in the way: another way to call the same op, with the argument, says more."""
    owner: Node | None = None
    """The call whose argument did not suit."""
    given: object = None
    wanted: str = ""

    @property
    def node(self) -> Node | None:
        """Where it failed: the call that did not suit, or that whose literal did not."""
        given = self.given
        return given if isinstance(given, Node) and given.op == "call_function" else self.owner

    @property
    def why(self) -> str:
        """What was expected there, and what was found."""
        return f"expected {self.wanted}, found {_text(self.given)}"


class _Goal(NamedTuple):
    """Something still to be matched, and the further goals."""

    wanted: Argument
    given: object
    owner: Node
    """The call whose argument it is."""
    rest: "_Goal | None"


class Matcher:
    """Matches one template; one at a time."""

    def __init__(self, template: Template, miss: Miss) -> None:
        self.template, self.miss = template, miss
        self._nodes: dict[int, Node] = {}
        self._bindings: dict[str, object] = {}
        self._wilds: list[object] = []
        self._plans = [_plan(n) for n in template.nodes]
        self._quick = [] if template.anchor.commutative else _operands(template, template.anchor)

    def at(self, root: Node) -> Iterator[Found]:
        """All ways in which the template matches with its anchor at `root`."""
        args = root.args
        for position, target in self._quick:
            if getattr(args[position], "target", None) is not target:
                if self.miss.score < 1:
                    self._fail(root, self.template.anchor.args[position], args[position], score=1)
                return iter(())
        return self._found(root)

    def _found(self, root: Node) -> Iterator[Found]:
        self._nodes.clear()  # a search that was not followed to its end has left its state
        self._bindings.clear()
        self._wilds.clear()
        for _ in self._solve(_Goal(Use(self.template.anchor.index), root, root, None)):
            nodes = tuple(self._nodes[i] for i in range(len(self.template.nodes)))
            yield Found(dict(self._bindings), nodes, tuple(self._wilds))

    def _solve(self, goals: _Goal | None) -> Iterator[None]:
        """Reaches all goals; yields at each way to do so, and undoes what it did."""
        mark = (len(self._nodes), len(self._bindings), len(self._wilds))
        while goals is not None:
            wanted, given, owner, goals = goals
            if isinstance(wanted, Use):
                orders = self._enter(wanted, given, owner)
                if orders is None:
                    break
                if len(orders) > 1:
                    for order in orders:
                        yield from self._solve(self._arguments(wanted.index, order, given, goals))
                    break
                if orders:
                    goals = self._arguments(wanted.index, orders[0], given, goals)
            elif isinstance(wanted, Listed):
                if not isinstance(given, (list, tuple)) or len(given) != len(wanted.items):
                    self._fail(owner, wanted, given)
                    break
                for item, value in zip(reversed(wanted.items), reversed(given), strict=True):
                    goals = _Goal(item, value, owner, goals)
            elif not self._leaf(wanted, given):
                self._fail(owner, wanted, given)
                break
        else:
            yield from self._completed()
        while len(self._nodes) > mark[0]:
            self._nodes.popitem()
        while len(self._bindings) > mark[1]:
            self._bindings.popitem()
        del self._wilds[mark[2] :]

    def _completed(self) -> Iterator[None]:
        """Calls that the anchor does not reach are found among the users of what is matched."""
        template, nodes = self.template, self._nodes
        if len(nodes) == len(template.nodes):
            yield
            return
        for call in template.nodes:
            sources = [nodes[u] for u in call.uses if u in nodes]
            sources += [n for b in call.binds if isinstance(n := self._bindings.get(b), Node)]
            if call.index in nodes or not sources:
                continue
            for user in list(sources[0].users):
                if user.target is call.target and user not in nodes.values():
                    yield from self._solve(_Goal(Use(call.index), user, user, None))
            return

    def _enter(self, wanted: Use, given: object, owner: Node) -> list[Sequence[object]] | None:
        """Matches a call; the orders that its arguments may have, none if it is known, None if it fails."""
        nodes, call = self._nodes, self.template.nodes[wanted.index]
        known = nodes.get(wanted.index)
        if known is not None and known is given:
            return []
        fits = isinstance(given, Node) and given.target is call.target and len(given.args) == len(call.args)
        if known is not None or not fits or given in nodes.values():
            self._fail(owner, wanted, given)
            return None
        assert isinstance(given, Node)
        nodes[wanted.index] = given
        args = given.args
        if not call.commutative or args[0] is args[1] or not is_commutative(given):
            return [args]
        swapped = (args[1], args[0], *args[2:])
        return [o for o in (args, swapped) if self._plausible(call, o)] or [args]

    def _plausible(self, call: TemplateNode, args: Sequence[object]) -> bool:
        """Whether the first two operands, in this order, are calls of the right ops."""
        operands = _operands(self.template, call)
        return all(getattr(args[i], "target", None) is target for i, target in operands if i < 2)

    def _arguments(
        self, index: int, args: Sequence[object], given: object, goals: _Goal | None
    ) -> _Goal | None:
        """The goals of a call's arguments before the others."""
        assert isinstance(given, Node)
        for place, wanted in self._plans[index]:
            value = args[place] if isinstance(place, int) else given.kwargs.get(place)
            goals = _Goal(wanted, value, given, goals)
        return goals

    def _leaf(self, wanted: Argument, given: object) -> bool:
        """Whether a value suits a literal, a wildcard, or an argument, which it is then bound to."""
        if isinstance(wanted, Bind):
            if not isinstance(given, Node) or not isinstance(given.meta.get("val"), torch.Tensor):
                return False
            return self._bindings.setdefault(wanted.name, given) is given
        if isinstance(wanted, Literal):
            if given is wanted.value:
                return True
            return not isinstance(given, Node) and value_key(wanted.value) == value_key(given)
        if isinstance(wanted, BindLiteral):
            if not _is_kind(given, wanted.kind):
                return False
            value = list(given) if isinstance(given, (list, tuple)) else given
            return value_key(self._bindings.setdefault(wanted.name, value)) == value_key(value)
        self._wilds.append(given)
        return True

    def _fail(self, owner: Node, wanted: Argument, given: object, *, score: int = 0) -> None:
        """Keeps the attempt that got furthest."""
        score, miss = score or len(self._nodes), self.miss
        absent = isinstance(wanted, Literal) and wanted.value is None
        if score > miss.score or (score == miss.score and miss.absent and not absent):
            miss.score, miss.absent, miss.owner, miss.given = score, absent, owner, given
            miss.wanted = self._expected(owner, wanted, given)

    def _expected(self, owner: Node, wanted: Argument, given: object) -> str:
        if isinstance(wanted, Use):
            return op_key(self.template.nodes[wanted.index].target)
        if isinstance(wanted, Listed):
            return f"a list of {len(wanted.items)}"
        if isinstance(wanted, Literal):
            what = "no" if wanted.value is None else f"{wanted.value!r} for"
            return f"{what} {_argument_name(owner, given)} of {op_key(owner.target)}"
        assert isinstance(wanted, (Bind, BindLiteral))
        bound = self._bindings.get(wanted.name)
        if bound is not None and bound is not given:
            return f"{_text(bound)} for {wanted.name!r} again"
        return f"{'a tensor' if isinstance(wanted, Bind) else wanted.kind.value} for {wanted.name!r}"


_EASE = {Wild: 0, Bind: 1, Listed: 2, Use: 3, BindLiteral: 4, Literal: 5}


def _plan(call: TemplateNode) -> list[tuple[int | str, Argument]]:
    """A call's arguments with their places; the last is tried first, so what fails fastest stands there."""
    places: list[tuple[int | str, Argument]] = [*enumerate(call.args), *call.kwargs]
    return sorted(places, key=lambda p: _EASE[type(p[1])])


def _operands(template: Template, call: TemplateNode) -> list[tuple[int, object]]:
    """The arguments that are results of other calls, with their ops."""
    return [(i, template.nodes[a.index].target) for i, a in enumerate(call.args) if isinstance(a, Use)]


def _is_kind(value: object, kind: ArgumentKind) -> bool:
    if kind is ArgumentKind.BOOL:
        return isinstance(value, bool)
    if kind is ArgumentKind.INTS:
        return isinstance(value, (list, tuple)) and all(type(v) is int for v in value)
    if kind is ArgumentKind.DTYPE or isinstance(value, bool):
        return kind is ArgumentKind.DTYPE and isinstance(value, torch.dtype)
    return isinstance(value, int if kind is ArgumentKind.INT else (int, float))


def _is_size(value: object) -> TypeGuard[Node]:
    return isinstance(value, Node) and isinstance(value.meta.get("val"), torch.SymInt)


def _argument_name(owner: Node, given: object) -> str:
    """What the schema calls an argument of a call; by identity, as operands may have been swapped."""
    place = next((i for i, argument in enumerate(owner.args) if argument is given), None)
    name = next((k for k, argument in owner.kwargs.items() if argument is given), None)
    if place is not None and isinstance(owner.target, torch._ops.OpOverload):
        name = argument_kinds(owner.target)[place].name
    return "an element" if name is None else repr(name)


def _text(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, tuple)) and any(map(_is_size, value)):
        varying = dict.fromkeys(v.name for v in value if _is_size(v))
        return f"{list(value)!r}, where {', '.join(varying)} var{'ies' if len(varying) == 1 else 'y'}"
    if _is_size(value):
        return f"the size {value.name}, which varies"
    if not isinstance(value, Node):
        return repr(value)
    if value.op == "call_function":
        return op_key(value.target)
    return f"the {'weight' if value.op == 'get_attr' else 'input'} {value.name}"
