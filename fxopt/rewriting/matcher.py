"""Structural matching of a template at an anchor: commutative without copies of the pattern, lists, several results.

The state of a match is two small dicts; alternatives (swapped operands, another user of a shared value) are
tried in turn.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.ops import is_commutative, op_key
from fxopt.program.inference import value_key
from fxopt.rewriting.pattern import (
    Argument,
    Bind,
    BindLiteral,
    Listed,
    Literal,
    Template,
    TemplateNode,
    Use,
    Wild,
    used_calls,
)
from fxopt.rewriting.rule import ArgumentKind

__all__ = ["Miss", "State", "match_template"]


@dataclass(frozen=True)
class State:
    """Bindings by argument name, matched calls by template index."""

    bindings: Mapping[str, object]
    nodes: Mapping[int, Node]


@dataclass
class Miss:
    """The furthest failed attempt: how many calls matched, where it stopped and why."""

    score: int = 0
    node: Node | None = None
    why: str = ""

    def note(self, state: State, node: Node | None, why: str) -> None:
        """Keeps the attempt that got furthest."""
        if node is not None and len(state.nodes) > self.score:
            self.score, self.node, self.why = len(state.nodes), node, why


def match_template(template: Template, root: Node, miss: Miss) -> Iterator[State]:
    """All ways in which the template matches with its anchor at `root`."""
    matcher = _Matcher(template, miss)
    for state in matcher.node(template.anchor, root, State({}, {})):
        yield from matcher.results(state, list(template.outputs))


class _Matcher:
    def __init__(self, template: Template, miss: Miss) -> None:
        self.template, self.miss = template, miss

    def results(self, state: State, outputs: list[int]) -> Iterator[State]:
        """Finds the results that the anchor does not reach, among the users of what is matched."""
        missing = next((i for i in outputs if i not in state.nodes), None)
        if missing is None:
            yield state
            return
        wanted = self.template.nodes[missing]
        for index in (u for a in (*wanted.args, *(v for _, v in wanted.kwargs)) for u in used_calls(a)):
            for user in list(state.nodes[index].users) if index in state.nodes else []:
                if user.target == wanted.target and user not in state.nodes.values():
                    for found in self.node(wanted, user, state):
                        yield from self.results(found, outputs)
            if index in state.nodes:
                return
        for name in (a.name for a in wanted.args if isinstance(a, Bind) and a.name in state.bindings):
            bound = state.bindings[name]
            for user in list(bound.users) if isinstance(bound, Node) else []:
                if user.target == wanted.target and user not in state.nodes.values():
                    for found in self.node(wanted, user, state):
                        yield from self.results(found, outputs)
            return

    def node(self, template: TemplateNode, node: Node, state: State) -> Iterator[State]:
        known = state.nodes.get(template.index)
        if known is not None:
            if known is node:
                yield state
            return
        if node.target != template.target:
            self.miss.note(state, node, f"expected {op_key(template.target)}, found {op_key(node.target)}")
            return
        if node in state.nodes.values():
            return
        entered = State(state.bindings, {**state.nodes, template.index: node})
        orders: list[list[object]] = [list(node.args)]
        if is_commutative(node):
            orders.append([node.args[1], node.args[0], *node.args[2:]])
        for args in orders:
            yield from self.arguments(list(template.args), args, node, entered, template)

    def arguments(
        self, wanted: list[Argument], given: list[object], node: Node, state: State, template: TemplateNode
    ) -> Iterator[State]:
        if len(wanted) != len(given):
            return
        pairs = list(zip(wanted, given, strict=True))
        pairs += [(a, node.kwargs.get(k)) for k, a in template.kwargs]
        yield from self.pairs(pairs, node, state)

    def pairs(self, pairs: list[tuple[Argument, object]], node: Node, state: State) -> Iterator[State]:
        if not pairs:
            yield state
            return
        (wanted, given), rest = pairs[0], pairs[1:]
        for found in self.argument(wanted, given, node, state):
            yield from self.pairs(rest, node, found)

    def argument(self, wanted: Argument, given: object, node: Node, state: State) -> Iterator[State]:
        if isinstance(wanted, Wild):
            yield state
        elif isinstance(wanted, Use):
            if isinstance(given, Node) and given.op == "call_function":
                yield from self.node(self.template.nodes[wanted.index], given, state)
            else:
                expected = op_key(self.template.nodes[wanted.index].target)
                self.miss.note(state, node, f"expected {expected}, found {_text(given)}")
        elif isinstance(wanted, Bind):
            if isinstance(given, Node) and isinstance(given.meta.get("val"), torch.Tensor):
                yield from self.bind(wanted.name, given, node, state)
            else:
                self.miss.note(state, node, f"expected a tensor for {wanted.name!r}, found {_text(given)}")
        elif isinstance(wanted, BindLiteral):
            if _is_kind(given, wanted.kind):
                yield from self.bind(wanted.name, _plain(given), node, state)
            else:
                self.miss.note(
                    state, node, f"expected {wanted.kind.value} for {wanted.name!r}, found {_text(given)}"
                )
        elif isinstance(wanted, Listed):
            if isinstance(given, (list, tuple)) and len(given) == len(wanted.items):
                yield from self.pairs(list(zip(wanted.items, given, strict=True)), node, state)
            else:
                self.miss.note(state, node, f"expected a list of {len(wanted.items)}, found {_text(given)}")
        elif isinstance(wanted, Literal):
            if not isinstance(given, Node) and value_key(wanted.value) == value_key(given):
                yield state
            else:
                self.miss.note(state, node, f"expected {wanted.value!r}, found {_text(given)}")

    def bind(self, name: str, value: object, node: Node, state: State) -> Iterator[State]:
        if name not in state.bindings:
            yield State({**state.bindings, name: value}, state.nodes)
        elif state.bindings[name] is value or (
            not isinstance(value, Node) and value_key(state.bindings[name]) == value_key(value)
        ):
            yield state
        else:
            self.miss.note(state, node, f"{name!r} would be two different values")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value


def _is_kind(value: object, kind: ArgumentKind) -> bool:
    if kind is ArgumentKind.BOOL:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind is ArgumentKind.INT:
        return isinstance(value, int)
    if kind is ArgumentKind.FLOAT:
        return isinstance(value, (int, float))
    return isinstance(value, (list, tuple)) and all(
        isinstance(v, int) and not isinstance(v, bool) for v in value
    )


def _text(value: object) -> str:
    if isinstance(value, Node):
        return (
            op_key(value.target)
            if value.op == "call_function"
            else f"the {'weight' if value.op == 'get_attr' else 'input'} {value.name}"
        )
    return repr(value)
