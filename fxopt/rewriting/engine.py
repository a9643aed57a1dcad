"""The engine: applies rules to a program by one indexed sweep and a worklist, to a fixpoint.

A structural match is confirmed in a second stage: pattern and replacement are recorded on the matched values
themselves (cached by literals, dtypes and symbolic shapes). What differs there, another dtype or shape, or an
exception, is a refusal with its reason.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.errors import PassError
from fxopt.ops import is_commutative, op_key
from fxopt.program.inference import value_key
from fxopt.rewriting.instantiate import instantiate
from fxopt.rewriting.matcher import Miss, State, match_template
from fxopt.rewriting.pattern import Template
from fxopt.rewriting.recorder import Recording, RecordingError, record
from fxopt.rewriting.rewriter import OrderError, Rewriter
from fxopt.rewriting.rule import ArgumentKind, Match, Refused, Rule, rule_parameters
from fxopt.rewriting.sizes import NoSize
from fxopt.rewriting.template import rule_templates

__all__ = ["apply_rules"]


@dataclass(frozen=True)
class _Candidate:
    rule: Rule
    template: Template


class _Engine:
    def __init__(self, rewriter: Rewriter, rules: Sequence[Rule]) -> None:
        self.rewriter = rewriter
        self.program = rewriter.program
        self.index: dict[object, list[_Candidate]] = {}
        self.depth = 1
        for rule in rules:
            for template in rule_templates(rule):
                self.index.setdefault(template.anchor.target, []).append(_Candidate(rule, template))
                self.depth = max(self.depth, template.depth)
        self.parameters = {rule: rule_parameters(rule) for rule in rules}
        self.misses = {rule: Miss() for rule in rules}
        self.fired: list[str] = []
        self.cache: dict[object, Recording | str] = {}
        self.refused: set[tuple[str, Node]] = set()

    def run(self) -> None:
        nodes = [n for n in self.program.calls() if n.target in self.index]
        bound = 8 * sum(1 for _ in self.program.graph.nodes) + 256
        queue, queued = deque(nodes), set(nodes)
        while queue:
            node = queue.popleft()
            queued.discard(node)
            if node._erased:
                continue
            for again in self._at(node):
                if again not in queued and not again._erased and again.target in self.index:
                    queue.append(again)
                    queued.add(again)
            if len(self.fired) > bound:
                names = ", ".join(sorted(set(self.fired[-64:])))
                raise PassError(
                    f"no fixpoint after {len(self.fired)} rewrites: the rules {names} undo one another"
                )
        self._explain()

    def _explain(self) -> None:
        """For rules that neither fired nor were refused, the nearest miss."""
        answered = {*self.fired, *(title for title, _ in self.refused)}
        for rule, miss in self.misses.items():
            if rule.title not in answered and miss.node is not None and not miss.node._erased:
                self.rewriter.refuse(miss.node, f"nearest miss: {miss.why}", rule=rule.title)

    def _at(self, node: Node) -> list[Node]:
        """Tries the rules at a node; returns the nodes to look at again."""
        for candidate in self.index.get(node.target, ()):
            for state in match_template(candidate.template, node, self.misses[candidate.rule]):
                changed = self._try(candidate, state)
                if changed is not None:
                    self.fired.append(candidate.rule.title)
                    return changed
        return []

    def _try(self, candidate: _Candidate, state: State) -> list[Node] | None:
        match = self._bind(candidate, state)
        reads = self._extra_users(candidate, state, match) if isinstance(match, Match) else match
        if isinstance(reads, str) or isinstance(match, str):
            self._refuse(candidate.rule, state, str(reads))
            return None
        recording = self._confirm(candidate, match)
        if isinstance(recording, str) and not isinstance(recording, _Unsuited):
            self._refuse(candidate.rule, state, recording)
            return None
        if candidate.rule.guard is not None:
            verdict = candidate.rule.guard(match)
            if isinstance(verdict, Refused):
                self._refuse(candidate.rule, state, verdict.why)
                return None
            if verdict is not None:
                raise PassError(
                    f"rule {candidate.rule.title!r}: the guard returned {verdict!r}; "
                    "expected None or match.refuse(...)"
                )
        if isinstance(recording, str):
            self._refuse(candidate.rule, state, recording)
            return None
        return self._apply(candidate, match, recording, reads)

    def _refuse(self, rule: Rule, state: State, why: str) -> None:
        node = state.nodes[max(state.nodes)]
        if (rule.title, node) not in self.refused:
            self.refused.add((rule.title, node))
            self.rewriter.refuse(node, why, rule=rule.title)

    def _bind(self, candidate: _Candidate, state: State) -> Match | str:
        bindings: dict[str, object] = {}
        values: dict[str, object] = {}
        for parameter in self.parameters[candidate.rule]:
            bound = state.bindings.get(parameter.name)
            if isinstance(bound, Node):
                tensor = self.rewriter.value(bound)
                if parameter.kind is ArgumentKind.CONST and tensor is None:
                    return f"{parameter.name!r} ({bound.name}) is not known at compile time"
                values[parameter.name] = tensor if parameter.kind is ArgumentKind.CONST else bound.meta["val"]
            else:
                values[parameter.name] = bound
            bindings[parameter.name] = bound
        template = candidate.template
        nodes = tuple(state.nodes[i] for i in range(len(template.nodes)))
        return Match(bindings, nodes, tuple(state.nodes[i] for i in template.outputs), values)

    def _extra_users(self, candidate: _Candidate, state: State, match: Match) -> list[Node] | str:
        """Size reads of inner values, which are redirected; any other user outside the match refuses."""
        matched = set(match.nodes)
        reads: list[Node] = []
        for node in match.nodes:
            if node in match.outputs:
                continue
            for user in node.users:
                if user in matched:
                    continue
                if user.target is torch.ops.aten.sym_size.int:
                    reads.append(user)
                else:
                    return f"{node.name} ({op_key(node.target)}) has another user, {user.name}"
        return reads

    def _confirm(self, candidate: _Candidate, match: Match) -> Recording | str:
        key = (
            candidate.rule,
            candidate.template.absent,
            *((n.target, value_key(n.args), value_key(list(n.kwargs.values()))) for n in match.nodes),
            *(value_key(b) for b in match.bindings.values()),
        )
        if key not in self.cache:
            self.cache[key] = self._recorded(candidate.rule, match)
        return self.cache[key]

    def _recorded(self, rule: Rule, match: Match) -> Recording | str:
        values = {n: b.meta["val"] if isinstance(b, Node) else b for n, b in match.bindings.items()}
        values = _distinct(self.program.fake_mode, values)
        try:
            pattern = record(self.program, rule.pattern, values)
        except RecordingError as error:
            return f"the pattern does not take these values: {error}"
        why = self._same_calls(pattern, match)
        if why:
            return why
        try:
            replacement = record(self.program, rule.replacement, values)
        except RecordingError as error:
            return _Unsuited(f"the replacement does not take these values: {error}")
        why = self._same_results(rule, replacement, match)
        return _Unsuited(why) if why else replacement

    def _same_calls(self, pattern: Recording, match: Match) -> str:
        calls = pattern.calls
        if [c.target for c in calls] != [n.target for n in match.nodes]:
            return "on these values the pattern is another graph"
        for call, node in zip(calls, match.nodes, strict=True):
            wanted = [*call.args, *call.kwargs.values()]
            given = [*node.args, *node.kwargs.values()]
            orders = [given, [given[1], given[0], *given[2:]]] if is_commutative(node) else [given]
            if not any(all(map(self._same_argument, wanted, order)) for order in orders):
                return f"on these values the pattern calls {op_key(call.target)} with other arguments than {node.name}"
        return ""

    def _same_argument(self, wanted: object, given: object) -> bool:
        if isinstance(wanted, Node):
            return isinstance(given, Node) and self.rewriter.same_type(wanted.meta["val"], given.meta["val"])
        if isinstance(wanted, (list, tuple)):
            return (
                isinstance(given, (list, tuple))
                and len(wanted) == len(given)
                and all(self._same_argument(w, g) for w, g in zip(wanted, given, strict=True))
            )
        if isinstance(given, Node):
            return isinstance(wanted, (int, torch.SymInt)) and self.rewriter.same_type(
                wanted, given.meta["val"]
            )
        return value_key(wanted) == value_key(given)

    def _same_results(self, rule: Rule, replacement: Recording, match: Match) -> str:
        if len(replacement.outputs) != len(match.outputs):
            raise PassError(
                f"rule {rule.title!r}: the pattern returns {len(match.outputs)} values, the replacement {len(replacement.outputs)}"
            )
        for result, node in zip(replacement.outputs, match.outputs, strict=True):
            if not isinstance(result, Node):
                return f"the replacement returns {result!r}, not a tensor"
            if not self.rewriter.same_type(result.meta["val"], node.meta["val"]):
                got, expected = result.meta["val"], node.meta["val"]
                return (
                    f"the replacement gives {getattr(got, 'dtype', got)} {list(getattr(got, 'shape', []))}, "
                    f"the pattern {getattr(expected, 'dtype', expected)} {list(getattr(expected, 'shape', []))}"
                )
        return ""

    def _apply(
        self, candidate: _Candidate, match: Match, recording: Recording, reads: list[Node]
    ) -> list[Node] | None:
        root = self._root(match)
        around = self._around(match)
        before = len(self.rewriter.journal.rewrites)
        try:
            with self.rewriter.rewrite(candidate.rule.title, root):
                results = instantiate(self.rewriter, recording, match)
                for read in reads:
                    self.rewriter.replace(read, self._reread(read, match, results))
                for node, result in zip(match.outputs, results, strict=True):
                    self.rewriter.replace(node, result)
        except (NoSize, OrderError) as error:
            self.rewriter.refuse(root, str(error), rule=candidate.rule.title)
            return None
        if len(self.rewriter.journal.rewrites) == before:
            return None
        return [n for n in [*results, *self._users(results), *around] if not n._erased]

    def _root(self, match: Match) -> Node:
        """Where the new calls go: the first result if every argument stands before it, else the last."""
        first = min(match.outputs)
        bound = [b for b in match.bindings.values() if isinstance(b, Node)]
        return first if all(b < first for b in bound) else max(match.outputs)

    def _reread(self, read: Node, match: Match, results: Sequence[Node]) -> Node:
        """A size read of an inner value, from an argument or a result instead."""
        size = read.meta["val"]
        sources = [b for b in match.bindings.values() if isinstance(b, Node)]
        for source in sources:
            for axis, other in enumerate(source.meta["val"].shape):
                if self.rewriter.same_type(size, other):
                    return self.rewriter.call(torch.ops.aten.sym_size.int, source, axis)
        raise NoSize(f"{read.name} reads a size of an inner value that no argument has")

    def _around(self, match: Match) -> list[Node]:
        """Calls that may match once the inner values lose a user."""
        return [u for b in match.bindings.values() if isinstance(b, Node) for u in (b, *b.users)]

    def _users(self, nodes: Sequence[Node]) -> list[Node]:
        """Users of nodes, as many steps up as the deepest pattern reaches."""
        found: dict[Node, None] = {}
        level = list(nodes)
        for _ in range(self.depth):
            level = [u for n in level if not n._erased for u in n.users if u not in found]
            found.update(dict.fromkeys(level))
        return list(found)


class _Unsuited(str):
    """Why a replacement does not suit a match that its pattern confirms: the guard is asked first, it knows the reason."""

    __slots__ = ()


def _distinct(mode: torch._subclasses.FakeTensorMode, values: dict[str, object]) -> dict[str, object]:
    """Fake values as distinct objects: one node may be bound to two arguments."""
    seen: set[int] = set()
    result: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            if id(value) in seen:
                with mode, torch.no_grad():
                    value = value.detach()
            seen.add(id(value))
        result[name] = value
    return result


def apply_rules(rewriter: Rewriter, rules: Sequence[Rule]) -> None:
    """Applies rules everywhere, again where something changed, until nothing fires.

    Args:
        rewriter: of the program to rewrite.
        rules: tried in order at each node.

    Raises:
        PassError: a rule is malformed, or rules undo one another without end (named).
    """
    _Engine(rewriter, rules).run()
