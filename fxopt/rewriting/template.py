"""Templates of a rule: its pattern recorded several times, what differs as wildcards.

A pattern is recorded at two sizes, at other ranks and dtypes, and with two values of each literal argument.
Recordings that make the same calls become one template, whose differing literals are wildcards; where a
literal argument's own value stands, it is bound. Recordings that make other calls (a cast that does nothing
for one dtype) are templates of their own, and so is the pattern without each of its optional arguments.

>>> import torch
>>> from fxopt.rewriting.rule import Rule
>>> def pattern(x, dim: int): return torch.softmax(x, dim)
>>> rule_templates(Rule(pattern, lambda x, dim: x))[0].nodes[0].args[:2]
(Bind(name='x'), BindLiteral(name='dim', kind=<ArgumentKind.INT: 'int'>))
"""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch.fx import Node

from fxopt.errors import PassError
from fxopt.frontend.capture import quiet_torch
from fxopt.ops import is_random, op_key
from fxopt.rewriting.examples import Examples, Found, values_near
from fxopt.rewriting.recorder import Recording, RecordingError
from fxopt.rewriting.rule import Parameter, Rule, rule_parameters
from fxopt.rewriting.terms import Template, TemplateNode, recorded_nodes
from fxopt.rewriting.unify import Changed, binds_literal, inherited, unified

__all__ = ["example_arguments", "rule_templates"]

log = logging.getLogger(__name__)

_Nodes = tuple[TemplateNode, ...]
_BASES = 4
"""Values that are tried where literals can't be told apart on the first ones."""


class _Unfit(Exception):
    """The pattern gives no template with these arguments."""


def rule_templates(rule: Rule) -> tuple[Template, ...]:
    """The templates of a rule, made once.

    Raises:
        PassError: the pattern does not run on any ranks, does nothing, does not use an argument, has a
        literal that
            no op takes, or parts that nothing connects.
    """
    return _templates(rule.pattern, rule.replacement, rule.title)


@lru_cache(maxsize=4096)
def _templates(pattern: object, replacement: object, title: str) -> tuple[Template, ...]:
    rule = Rule(pattern, replacement, name=title)  # type: ignore[arg-type]
    with quiet_torch():  # ranks that do not suit are tried, and torch logs each complaint
        return tuple(_build(rule))


def example_arguments(rule: Rule) -> list[Found]:
    """Literals and fake tensors under which a rule's pattern runs, a pair for each set of absent arguments.

    Raises:
        PassError: there are none.
    """
    parameters = rule_parameters(rule)
    with quiet_torch():
        found = [Examples(rule, parameters, absent).base() for absent in _absences(parameters)]
    fitting = [f for f in found if not isinstance(f, str)]
    if not fitting:
        raise PassError(f"rule {rule.title!r}: the pattern does not run on tensors of any rank: {found[0]}")
    return fitting


def _absences(parameters: tuple[Parameter, ...]) -> Iterator[frozenset[str]]:
    """Which optional arguments are absent: none first."""
    optional = [p.name for p in parameters if p.optional]
    for count in range(len(optional) + 1):
        yield from map(frozenset, itertools.combinations(optional, count))


def _build(rule: Rule) -> Iterator[Template]:
    parameters = rule_parameters(rule)
    full: _Known | None = None
    why: list[str] = []
    for absent in _absences(parameters):
        variant = _Variant(Examples(rule, parameters, absent), full)
        try:
            templates = variant.build()
        except _Unfit as unfit:
            log.debug("rule %r without %s: %s", rule.title, sorted(absent), unfit)
            why.append(str(unfit))
            continue
        full = full or variant.known
        yield from templates
    if full is None:
        raise PassError(f"rule {rule.title!r}: {why[0]}")


@dataclass
class _Known:
    """What the first variant that ran has found out: the search is the dear part."""

    found: Found
    shapes: list[_Nodes] = field(default_factory=list)


class _Variant:
    """A rule with some optional arguments absent."""

    def __init__(self, examples: Examples, full: _Known | None) -> None:
        self.examples = examples
        self.full = full
        self.known: _Known | None = None
        self.literals = [p for p in examples.parameters if not p.is_tensor and p.name not in examples.absent]

    def build(self) -> list[Template]:
        """Its templates on the first values that give some.

        Raises:
            _Unfit: none do; why the first did not.
        """
        known = self.full and self.examples.subset(self.full.found)
        bases = itertools.chain([known] if known else [], self.examples.bases())
        first: _Unfit | None = None
        for base in itertools.islice(bases, _BASES):
            try:
                return self._on(base)
            except _Unfit as unfit:
                first = first or unfit
        assert first is not None
        raise first

    def _on(self, base: Found | str) -> list[Template]:
        if isinstance(base, str):
            raise _Unfit(f"the pattern does not run on tensors of any rank: {base}")
        self.known = _Known(base)
        templates: list[Template] = []
        why: list[str] = []
        for found in (base, *self.examples.dtypes(base)):
            try:
                recording = self.examples.recorded(*found)
                if not any(_same_calls(recording, t.nodes) for t in templates):
                    templates.append(self._template(recording, *found))
            except RecordingError as error:
                why.append(f"the pattern can't be recorded: {error}")
            except _Unfit as unfit:
                why.append(str(unfit))
        if not templates:
            raise _Unfit(why[0])
        return templates

    def _template(
        self, recording: Recording, literals: dict[str, object], tensors: dict[str, torch.Tensor]
    ) -> Template:
        order = {n: i for i, n in enumerate(recording.calls)}
        results = [order.get(o) if isinstance(o, Node) else None for o in recording.outputs]
        if not order or None in results:
            problem = "returns an argument or a number" if order else "computes nothing from its arguments"
            raise _Unfit(f"the pattern {problem}")
        used = {name for name, placeholder in recording.placeholders.items() if placeholder.users}
        unused = next((n for n in self.examples.tensors if n not in used), None)
        if unused is not None:
            raise _Unfit(f"the pattern does not use its argument {unused!r}")
        random = next((c for c in recording.calls if is_random(c)), None)
        if random is not None:
            raise _Unfit(f"the pattern draws random numbers ({op_key(random.target)}), as no program does")
        nodes = recorded_nodes(recording)
        nodes = self._inherited(nodes) or self._generalised(nodes, literals, tensors)
        outputs = tuple(i for i in results if i is not None)
        template = Template(nodes, outputs, self.examples.absent)
        if not template.connected:
            raise _Unfit("the pattern's results have nothing in common; make them patterns of their own")
        if self.known is not None:
            self.known.shapes.append(nodes)
        return template

    def _inherited(self, nodes: _Nodes) -> _Nodes | None:
        """The wildcards and literals of the variant that lacks nothing, where the calls are the same."""
        made = (inherited(nodes, shape) for shape in (self.full.shapes if self.full else ()))
        found = next((m for m in made if m is not None), None)
        if found is None or not all(binds_literal(found, p.name) for p in self.literals):
            return None
        return found

    def _generalised(
        self, nodes: _Nodes, literals: dict[str, object], tensors: dict[str, torch.Tensor]
    ) -> _Nodes:
        """The recording with wildcards and bound literals, found by recording it otherwise."""
        for shapes in self.examples.shapes(tensors):
            other = self._nodes(literals, shapes)
            nodes = (other and unified(nodes, other)) or nodes
        for parameter in self.literals:
            nodes = self._bind_literal(parameter, nodes, literals, tensors)
        return nodes

    def _nodes(self, literals: dict[str, object], tensors: dict[str, torch.Tensor]) -> _Nodes | None:
        recording = self.examples.record(literals, tensors)
        return None if recording is None else recorded_nodes(recording)

    def _bind_literal(
        self,
        parameter: Parameter,
        nodes: _Nodes,
        literals: dict[str, object],
        tensors: dict[str, torch.Tensor],
    ) -> _Nodes:
        """Marks where a literal stands: recorded with another value, and if need be sizes changed to suit.

        The other lists may have to be twos: an output padding must be smaller than the stride.
        """
        base = literals[parameter.name]
        twos = {n: [2] * len(v) for n, v in literals.items() if isinstance(v, list) and n != parameter.name}
        sizes = [tensors, *self.examples.resized(tensors), *self.examples.scaled(tensors)]
        for others, changed in [*((literals, s) for s in sizes), ({**literals, **twos}, tensors)]:
            start = nodes if others is literals else self._nodes({**others, parameter.name: base}, changed)
            for value in values_near(parameter.kind, base) if start else ():
                other = self._nodes({**others, parameter.name: value}, changed)
                found = start and other and unified(start, other, Changed(parameter, base, value))
                if found and binds_literal(found, parameter.name):
                    return found if others is literals else inherited(nodes, found) or nodes
        raise _Unfit(
            f"the literal {parameter.name!r} is no argument of any op of the pattern, which can't be matched"
        )


def _same_calls(recording: Recording, nodes: _Nodes) -> bool:
    return [c.target for c in recording.calls] == [n.target for n in nodes]
