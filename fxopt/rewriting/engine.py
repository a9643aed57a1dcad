"""The engine: applies rules to a program by one indexed sweep and a worklist, to a fixpoint.

At each node the templates anchored at its op are matched; a match is confirmed on the matched values, the
guard is asked, the replacement made. What a rewrite may have given a chance (its results and their users,
what lost a user) is looked at again.

>>> import torch
>>> from fxopt.frontend import trace
>>> from fxopt.rewriting import Rewriter, Rule
>>> def pattern(x): return torch.neg(torch.neg(x))
>>> program = trace(torch.nn.Sequential(torch.nn.ReLU()).eval(), (torch.ones(2),))
>>> apply_rules(Rewriter(program), [Rule(pattern, lambda x: x)])
"""

from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch.fx import Node

from fxopt.errors import FxoptError, PassError
from fxopt.ops import op_key
from fxopt.report import Refusal
from fxopt.rewriting.candidates import Candidate, Candidates
from fxopt.rewriting.confirm import Confirmer
from fxopt.rewriting.edits import OrderError
from fxopt.rewriting.instantiate import instantiate
from fxopt.rewriting.matcher import Found
from fxopt.rewriting.quiet import quiet
from fxopt.rewriting.recorder import Recording, is_size_question, size_question
from fxopt.rewriting.rewriter import Rewriter
from fxopt.rewriting.rule import ArgumentKind, Match, Refused, Rule
from fxopt.rewriting.sameness import same_size
from fxopt.rewriting.sizes import NoSize

__all__ = ["apply_rules"]

_SIZE = torch.ops.aten.sym_size.int


class _Engine:
    def __init__(self, rewriter: Rewriter, rules: Sequence[Rule]) -> None:
        self.rewriter = rewriter
        self.confirmer = Confirmer(rewriter.program)
        self.candidates = Candidates(rules)
        self.fired: list[str] = []
        self.refused: dict[tuple[str, Node], str] = {}
        self.matched: set[Node] = set()
        """What was matched and refused."""

    def run(self) -> None:
        bound = 8 * len(self.rewriter.program.graph.nodes) + 256
        queue = deque(self._woken())
        queued = set(queue)
        while queue:
            node = queue.popleft()
            queued.discard(node)
            if node._erased:
                continue
            lacked = False
            for again in self._at(node):
                lacked |= self.candidates.lack(again.target)
                if id(again.target) in self.candidates.at and again not in queued:
                    queue.append(again)
                    queued.add(again)
            if lacked:  # a rewrite made what another rule needs
                fresh = [n for n in self._woken() if n not in queued]
                queue.extend(fresh)
                queued.update(fresh)
            if len(self.fired) > bound:
                names = ", ".join(sorted(set(self.fired[-len(self.fired) // 4 :])))
                raise PassError(
                    f"no fixpoint after {len(self.fired)} rewrites: the rules {names} undo one another"
                )
        self._explain()

    def _woken(self) -> list[Node]:
        """Where the rules that were just prepared may match."""
        anchors = self.candidates.wake(self.rewriter.program)
        return [n for n in self.rewriter.program.calls() if id(n.target) in anchors] if anchors else []

    def _explain(self) -> None:
        """Why what matched was left; else, of the rules that found nothing, the nearest misses.

        Rules of one pass are variants of one thing: where one of them matched something or got further, that
        others stopped at their first call says nothing. Ops that are nowhere are told where nothing else is.
        """
        for (title, node), why in self.refused.items():
            if not node._erased:
                self.rewriter.refuse(node, why, rule=title)
        matched = {*self.fired, *(title for title, _ in self.refused)}
        misses = [m for m in self.candidates.misses if m[0].title not in matched]
        near = [(rule, miss, miss.node) for rule, _, miss in misses if miss.node is not None]
        furthest = max([2 if matched else 1, *(miss.score for _, miss, _ in near)])
        for rule, miss, node in near:
            # Where another rule fired or matched, that this one doesn't says nothing.
            if miss.score == furthest and not node._erased and node not in self.matched:
                why = f"nearest miss, {miss.score} matched: {miss.why}"
                self.rewriter.refuse(node, why, rule=rule.title)
        if not matched and not near:
            absent = [*self.candidates.absent(), *((rule.title, anchor) for rule, anchor, _ in misses)]
            title = absent[0][0] if len(absent) == 1 else ""
            why = f"the program has no {', no '.join(dict.fromkeys(op for _, op in absent))}"
            self.rewriter.refusals.append(Refusal(title, "", why))

    def _at(self, node: Node) -> Iterable[Node]:
        """Tries the rules at a node; returns the nodes to look at again."""
        for candidate in self.candidates.at.get(id(node.target), ()):
            for found in candidate.matcher.at(node):
                changed = self._try(candidate, found)
                if changed is not None:
                    self.fired.append(candidate.rule.title)
                    return changed
        return ()

    def _try(self, candidate: Candidate, found: Found) -> Iterable[Node] | None:
        rule, template = candidate.rule, candidate.matcher.template
        match = self._bind(candidate, found)
        if isinstance(match, str):
            self._refuse(rule, found, match)
            return None
        confirmation = self.confirmer.confirm(rule, template, found, match)
        reads = confirmation.problem or _size_reads(match)
        if isinstance(reads, str):
            self._refuse(rule, found, reads)
            return None
        why = self._guard(rule, match)
        if why:
            self._refuse(rule, found, why)
            return None
        recording = self.confirmer.replacement(rule, confirmation, match)
        if isinstance(recording, str):
            self._refuse(rule, found, recording)
            return None
        return self._apply(rule, match, recording, reads, found)

    def _refuse(self, rule: Rule, found: Found, why: str) -> None:
        self.refused.setdefault((rule.title, found.nodes[-1]), why)
        self.matched.update(found.nodes)

    def _bind(self, candidate: Candidate, found: Found) -> Match | str:
        bindings: dict[str, object] = {}
        values: dict[str, object] = {}
        for parameter in candidate.parameters:
            bound = values[parameter.name] = bindings[parameter.name] = found.bindings.get(parameter.name)
            if not isinstance(bound, Node):
                continue
            values[parameter.name] = bound.meta["val"]
            if parameter.kind is ArgumentKind.CONST:
                tensor = values[parameter.name] = self.rewriter.value(bound)
                if tensor is None:
                    return f"{parameter.name!r} ({bound.name}) is not known at compile time"
        outputs = tuple(found.nodes[i] for i in candidate.matcher.template.outputs)
        return Match(bindings, found.nodes, outputs, values)

    def _guard(self, rule: Rule, match: Match) -> str:
        """Why the guard refuses, empty if it doesn't; it must hold for all values of a size that varies."""
        if rule.guard is None:
            return ""
        shape_env = self.rewriter.program.fake_mode.shape_env
        assert shape_env is not None
        try:
            with quiet(), shape_env.error_on_new_guards():
                verdict = rule.guard(match)
        except FxoptError:
            raise
        except Exception as error:
            if is_size_question(error):
                return f"the guard can't say for all sizes: {size_question(error)}"
            bare = next((n for n, v in match.values.items() if _is_bare(v)), None)
            if bare is not None:
                return f"the weight {bare!r} has no values (device meta), which the guard asks for: {error}"
            raise PassError(
                f"rule {rule.title!r}: the guard fails: {type(error).__name__}: {error}"
            ) from error
        if verdict is None:
            return ""
        if not isinstance(verdict, Refused):
            raise PassError(
                f"rule {rule.title!r}: the guard returned {verdict!r}; expected None or match.refuse('why')"
            )
        return verdict.why or "the guard refused"

    def _apply(
        self, rule: Rule, match: Match, recording: Recording, reads: list[Node], found: Found
    ) -> Iterable[Node] | None:
        root = _root(match)
        count = len(self.rewriter.journal.rewrites)
        try:
            with self.rewriter.rewrite(rule.title, root):
                for read in reads:
                    with self.rewriter.before(read):
                        self.rewriter.replace(read, self._reread(read, match))
                results = instantiate(self.rewriter, recording, match)
                made = self.rewriter._created
                for node, result in zip(match.outputs, results, strict=True):
                    self.rewriter._substitute(node, result)
        except (NoSize, OrderError) as error:
            self._refuse(rule, found, str(error))
            return None
        if len(self.rewriter.journal.rewrites) == count:
            return None
        return self._again([*made, *results], [n for n in self.rewriter._freed if n.op == "call_function"])

    def _reread(self, read: Node, match: Match) -> Node:
        """A size read of an inner value, from an argument instead."""
        size = read.meta["val"]
        for source in match.bindings.values():
            if not isinstance(source, Node) or not source < read:
                continue
            value = source.meta["val"]
            for axis, other in enumerate(value.shape):
                if same_size(size, other):
                    return self.rewriter.call(_SIZE, source, axis)
        raise NoSize(f"{read.name} reads a size of an inner value that no argument has")

    def _again(self, made: Sequence[Node], lost: Sequence[Node]) -> Iterable[Node]:
        """Nodes at which a rule may match now.

        What was made, and anchors above it: its users, as many steps up as the deepest pattern reaches. A
        value that lost a user may have become an inner one; anchors above that are reached over inner values,
        which have few users.
        """
        found = dict.fromkeys(n for n in made if not n._erased)
        level = [*found, *(n for n in lost if not n._erased and self._may_be_inner(n))]
        found.update(dict.fromkeys(level))
        for step in range(self.candidates.depth):
            inner = level if step == 0 else [n for n in level if self._may_be_inner(n)]
            level = [u for n in inner for u in n.users if u not in found]
            found.update(dict.fromkeys(level))
        return found

    def _may_be_inner(self, node: Node) -> bool:
        return self.candidates.fan_out is None or len(node.users) <= self.candidates.fan_out


def _is_bare(value: object) -> bool:
    """Whether a value is a weight on the meta device."""
    return (
        isinstance(value, torch.Tensor)
        and value.is_meta
        and not isinstance(value, torch._subclasses.FakeTensor)
    )


def _size_reads(match: Match) -> list[Node] | str:
    """Size reads of inner values, which are redirected; any other user outside the match refuses."""
    reads: list[Node] = []
    if len(match.nodes) == len(match.outputs):
        return reads
    for node in match.nodes:
        if node in match.outputs:
            continue
        for user in node.users:
            if user in match.nodes:
                continue
            if user.target is not _SIZE:
                return f"{node.name} ({op_key(node.target)}) has another user, {user.name}"
            reads.append(user)
    return reads


def _root(match: Match) -> Node:
    """Where the new calls go: the first result if every argument stands before it, else the last."""
    first = min(match.outputs)
    bound = [b for b in match.bindings.values() if isinstance(b, Node)]
    return first if all(b < first for b in bound) else max(match.outputs)


def apply_rules(rewriter: Rewriter, rules: Sequence[Rule]) -> None:
    """Applies rules everywhere, again where something changed, until nothing fires.

    Args:
        rewriter: of the program to rewrite.
        rules: tried in order at each node.

    Raises:
        PassError: a rule is malformed, or rules undo one another without end (named).
    """
    _Engine(rewriter, rules).run()
