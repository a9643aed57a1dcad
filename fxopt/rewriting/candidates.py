"""The rules of a run, by the op that matching starts at; each is prepared when the program has the ops it needs.

Preparing a rule records its pattern some dozens of times, tenths of a second for one with many arguments.
Rules that say what they need cost nothing on programs without it.

>>> import torch
>>> from fxopt.frontend import trace
>>> def pattern(x): return torch.neg(torch.neg(x))
>>> candidates = Candidates([Rule(pattern, lambda x: x, needs=("aten.neg",))])
>>> candidates.wake(trace(torch.nn.ReLU().eval(), (torch.ones(2),))), candidates.absent()
(frozenset(), [('pattern', 'aten.neg')])
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fxopt.errors import PassError
from fxopt.ops import op_key
from fxopt.program import Program
from fxopt.rewriting.matcher import Matcher, Miss
from fxopt.rewriting.rule import Parameter, Rule, rule_parameters
from fxopt.rewriting.template import rule_templates
from fxopt.rewriting.terms import Template

__all__ = ["Candidate", "Candidates"]


@dataclass
class Candidate:
    """A way in which a rule may match."""

    position: int
    """Of the rule: rules are tried in their order."""
    rule: Rule
    parameters: tuple[Parameter, ...]
    matcher: Matcher


class Candidates:
    """Prepared rules and those that wait for an op."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        # By the op's identity: an overload's own hash is a Python function, and dear on a hundred thousand
        # nodes.
        self.at: dict[int, list[Candidate]] = {}
        """Candidates by the identity of the op that they are anchored at."""
        self.misses: list[tuple[Rule, str, Miss]] = []
        """The prepared rules, the names of their anchors, their nearest misses."""
        self.depth = 1
        """The longest chain of calls in a pattern."""
        self.fan_out: int | None = 0
        """How many users an inner value may have; None for any number."""
        self._waiting = dict(enumerate(rules))
        self._missing: dict[int, str] = {}
        self._lacks: dict[int, bool] = {}

    def wake(self, program: Program) -> frozenset[int]:
        """Prepares the rules whose ops the program has now.

        Returns:
            The identities of the ops that these are anchored at.

        Raises:
            PassError: a rule is malformed, or its pattern does without an op that it says it needs.
        """
        self._lacks.clear()
        present = _op_names(program)
        anchors: set[int] = set()
        for position, rule in list(self._waiting.items()):
            missing = next((op for op in rule.needs if op not in present), None)
            if missing is not None:
                self._missing[position] = missing
                continue
            del self._waiting[position]
            self._missing.pop(position, None)
            anchors |= self._prepare(position, rule)
        return frozenset(anchors)

    def lack(self, target: object) -> bool:
        """Whether a rule waits for this op."""
        known = self._lacks.get(id(target))
        if known is None:
            missing = self._missing.values()
            known = self._lacks[id(target)] = any(name in missing for name in _names(target))
        return known

    def absent(self) -> list[tuple[str, str]]:
        """The rules that were not prepared, and the op that each lacks."""
        return [(self._waiting[position].title, op) for position, op in self._missing.items()]

    def _prepare(self, position: int, rule: Rule) -> set[int]:
        templates, parameters, miss = rule_templates(rule), rule_parameters(rule), Miss()
        self.misses.append((rule, op_key(templates[0].anchor.target), miss))
        for template in templates:
            _check_needs(rule, template)
            candidate = Candidate(position, rule, parameters, Matcher(template, miss))
            found = self.at.setdefault(id(template.anchor.target), [])
            found.append(candidate)
            found.sort(key=lambda c: c.position)
            self.depth = max(self.depth, template.depth)
            inner = template.fan_out
            self.fan_out = None if inner is None or self.fan_out is None else max(inner, self.fan_out)
        return {id(t.anchor.target) for t in templates}


def _check_needs(rule: Rule, template: Template) -> None:
    calls = {name for node in template.nodes for name in _names(node.target)}
    wrong = next((op for op in rule.needs if op not in calls), None)
    if wrong is not None:
        raise PassError(
            f"rule {rule.title!r} says that it needs {wrong}, but its pattern calls only "
            f"{', '.join(sorted(op_key(n.target) for n in template.nodes))}"
        )


def _op_names(program: Program) -> set[str]:
    """The ops that a program calls, by overload and by packet."""
    targets = {id(node.target): node.target for node in program.calls()}
    return {name for target in targets.values() for name in _names(target)}


def _names(target: object) -> tuple[str, str]:
    key = op_key(target)
    return key, key.rsplit(".", 1)[0]
