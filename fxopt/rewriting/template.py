"""Templates: a pattern as nodes, literals and wildcards, made by recording it several times.

What differs between two sizes, two ranks or two values of a literal is a wildcard; where a literal argument's
own value stands, the literal is bound.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxopt.errors import PassError
from fxopt.frontend.capture import quiet_torch
from fxopt.program.program import Program, new_fake_mode
from fxopt.program.signature import Signature
from fxopt.rewriting.pattern import BindLiteral, Template, TemplateNode, Wild
from fxopt.rewriting.ranks import find_arguments
from fxopt.rewriting.recorder import Recording, RecordingError, record
from fxopt.rewriting.rule import ArgumentKind, Parameter, Rule, rule_parameters
from fxopt.rewriting.unify import binds, depth_of, template_nodes, unified

__all__ = ["example_arguments", "rule_templates"]


def _lists(length: int) -> list[list[int]]:
    """Likely lists: equal ones, one that differs in its last number, and orders (for permutations)."""
    order = list(range(length))
    return [[1] * length, [2] * length, [1] * (length - 1) + [2], [0] * length, order, order[::-1]]


_ALTERNATIVES: dict[ArgumentKind, tuple[object, ...]] = {
    ArgumentKind.INT: (1, 2, 0, 3, -1),
    ArgumentKind.FLOAT: (0.5, 0.25, 1.5),
    ArgumentKind.BOOL: (False, True),
    ArgumentKind.INTS: tuple(p for n in (2, 3, 1, 4) for p in _lists(n)),
}  # fmt: skip

_Found = tuple[dict[str, object], dict[str, torch.Tensor]]
"""Literals and fake tensors under which a pattern runs."""

_MIXTURES = 16

_CACHE: dict[object, list[Template]] = {}


def rule_templates(rule: Rule) -> list[Template]:
    """The templates of a rule, one for each way in which its optional arguments can be absent; made once.

    Raises:
        PassError: the pattern does not run on any ranks, does nothing, or has a literal that no op takes.
    """
    key = (rule.pattern, rule.replacement, rule.name)
    if key not in _CACHE:
        with quiet_torch():  # ranks that do not suit are tried, and torch logs each complaint
            _CACHE[key] = list(_build(rule))
    return _CACHE[key]


def example_arguments(rule: Rule) -> list[tuple[dict[str, object], dict[str, torch.Tensor]]]:
    """Literals and fake tensors under which a rule's pattern runs, one pair for each way to leave optional arguments out.

    Raises:
        PassError: there are none.
    """
    parameters = rule_parameters(rule)
    optional = [p.name for p in parameters if p.optional]
    found: list[tuple[dict[str, object], dict[str, torch.Tensor]]] = []
    with quiet_torch():
        for count in range(len(optional) + 1):
            for absent in itertools.combinations(optional, count):
                base = _Variant(rule, parameters, frozenset(absent), None).example()
                found += [base] if not isinstance(base, str) else []
    if not found:
        raise PassError(f"rule {rule.title!r}: the pattern does not run on tensors of any rank")
    return found


def _build(rule: Rule) -> Iterator[Template]:
    parameters = rule_parameters(rule)
    optional = [p.name for p in parameters if p.optional]
    found = False
    why = ""
    known: tuple[_Found, tuple[TemplateNode, ...]] | None = None
    for count in range(len(optional) + 1):
        for absent in itertools.combinations(optional, count):
            variant = _Variant(rule, parameters, frozenset(absent), known)
            built = variant.build()
            if known is None and variant.found is not None and not isinstance(built, str):
                known = (variant.found, built[0].nodes)
            if isinstance(built, str):
                why = why or built
            else:
                found = True
                yield from built
    if not found:
        raise PassError(f"rule {rule.title!r}: the pattern does not run on tensors of any rank: {why}")


class _Variant:
    """A rule with some optional arguments absent."""

    def __init__(
        self,
        rule: Rule,
        parameters: tuple[Parameter, ...],
        absent: frozenset[str],
        known: "tuple[_Found, tuple[TemplateNode, ...]] | None",
    ) -> None:
        self.rule, self.absent = rule, absent
        self.known: _Found | None = known[0] if known is not None else None
        self.full: tuple[TemplateNode, ...] | None = known[1] if known is not None else None
        self.found: _Found | None = None
        self.parameters = parameters
        self.names = [p.name for p in parameters]
        self.tensors = [p.name for p in parameters if p.is_tensor and p.name not in absent]
        self.literals = [p for p in parameters if not p.is_tensor and p.name not in absent]
        self.program = _scratch()

    def build(self) -> list[Template] | str:
        base = self._known() or self._base()
        if isinstance(base, str):
            return base
        self.found = base
        literals, tensors = base
        untouched = [n for n in self.tensors if n not in tensors]
        if untouched and len(untouched) < len(self.tensors):
            raise PassError(
                f"rule {self.rule.title!r}: the pattern does not use its argument {untouched[0]!r}"
            )
        if untouched:
            raise PassError(f"rule {self.rule.title!r}: the pattern computes nothing from its arguments")
        recording = self._record(literals, tensors)
        if not recording.calls or not all(isinstance(o, Node) for o in recording.outputs):
            raise PassError(f"rule {self.rule.title!r}: the pattern computes nothing from its arguments")
        unused = [n for n in self.tensors if not recording.placeholders[n].users]
        if unused:
            raise PassError(f"rule {self.rule.title!r}: the pattern does not use its argument {unused[0]!r}")
        nodes = self._inherited(template_nodes(recording)) or self._generalised(
            template_nodes(recording), literals, tensors
        )
        order = {n: i for i, n in enumerate(recording.calls)}
        results = [o for o in recording.outputs if isinstance(o, Node)]
        if any(o not in order for o in results):
            raise PassError(f"rule {self.rule.title!r}: the pattern returns one of its arguments")
        return [Template(nodes, tuple(order[o] for o in results), self.absent, depth_of(nodes))]

    def _generalised(
        self, nodes: tuple[TemplateNode, ...], literals: dict[str, object], tensors: dict[str, torch.Tensor]
    ) -> tuple[TemplateNode, ...]:
        """The recording with wildcards and bound literals, found by recording it otherwise."""
        for other in self._other_shapes(literals, tensors):
            nodes = unified(nodes, template_nodes(other), None) or nodes
        for parameter in self.literals:
            nodes = self._bind_literal(parameter, nodes, literals, tensors)
        return nodes

    def _inherited(self, nodes: tuple[TemplateNode, ...]) -> tuple[TemplateNode, ...] | None:
        """The wildcards and bound literals of the variant without absent arguments, if the calls are the same."""
        if self.full is None or [n.target for n in nodes] != [n.target for n in self.full]:
            return None
        result = []
        for own, full in zip(nodes, self.full, strict=True):
            args = tuple(
                f if isinstance(f, (Wild, BindLiteral)) else a
                for a, f in zip(own.args, full.args, strict=True)
            )
            kwargs = tuple(
                (k, f if isinstance(f, (Wild, BindLiteral)) else a)
                for (k, a), (_, f) in zip(own.kwargs, full.kwargs, strict=True)
            )
            result.append(replace(own, args=args, kwargs=kwargs))
        return tuple(result)

    def _known(self) -> "_Found | None":
        """What suited the variant without absent arguments, if it suits this one: the search is the dear part."""
        if self.known is None:
            return None
        literals = {p.name: self.known[0][p.name] for p in self.literals}
        tensors = self._shaped({n: self.known[1][n] for n in self.tensors}, {})
        return (literals, tensors) if self._try(literals, tensors) is not None else None

    def example(self) -> "_Found | str":
        """Literals and tensors under which the pattern runs, or why there are none."""
        return self._base()

    def _base(self) -> "_Found | str":
        """Literal values and tensors under which the pattern runs; if need be with one size of one argument changed."""
        why = ""
        for thorough in (False, True):
            for literals in self._literal_choices():
                found = self._find(literals, {}, thorough=thorough)
                if not isinstance(found, str):
                    return literals, found
                why = why or found
        for sizes in self._one_size(range(5), (1, 2)):
            literals = {p.name: _ALTERNATIVES[p.kind][0] for p in self.literals}
            found = self._find(literals, sizes)
            if not isinstance(found, str):
                return literals, found
        return why

    def _literal_choices(self) -> Iterator[dict[str, object]]:
        """Values for the literals, likely ones first: lists of one length, all ones, one of them zeros; then any mixture."""
        base = {p.name: _ALTERNATIVES[p.kind][0] for p in self.literals}
        lists = [p.name for p in self.literals if p.kind is ArgumentKind.INTS]
        for length in (2, 3, 1, 4) if lists else ():
            ones = {**base, **{n: [1] * length for n in lists}}
            yield ones
            yield from ({**ones, n: [0] * length} for n in lists)
        product = itertools.product(*(_ALTERNATIVES[p.kind] for p in self.literals))
        for values in itertools.islice(product, _MIXTURES):
            yield dict(zip((p.name for p in self.literals), values, strict=True))

    def _find(
        self, literals: Mapping[str, object], sizes: Mapping[str, Mapping[int, int]], *, thorough: bool = True
    ) -> dict[str, torch.Tensor] | str:
        return find_arguments(
            self.program.fake_mode,
            self.rule.pattern,
            self.tensors,
            literals,
            self.names,
            sizes=sizes,
            thorough=thorough,
        )

    def _one_size(self, axes: Iterable[int], sizes: tuple[int, ...]) -> Iterator[dict[str, dict[int, int]]]:
        for name in self.tensors:
            for axis in axes:
                for size in sizes:
                    yield {name: {axis: size}}

    def _record(self, literals: Mapping[str, object], tensors: Mapping[str, torch.Tensor]) -> Recording:
        values = {n: tensors[n] if n in tensors else literals.get(n) for n in self.names}
        try:
            return record(self.program, self.rule.pattern, values)
        except RecordingError as error:
            raise PassError(f"rule {self.rule.title!r}: the pattern can't be recorded: {error}") from error

    def _try(self, literals: Mapping[str, object], tensors: Mapping[str, torch.Tensor]) -> Recording | None:
        values = {n: tensors[n] if n in tensors else literals.get(n) for n in self.names}
        try:
            return record(self.program, self.rule.pattern, values)
        except RecordingError:
            return None

    def _shaped(
        self, tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, list[int]]
    ) -> dict[str, torch.Tensor]:
        with self.program.fake_mode:
            return {n: torch.empty(shapes.get(n, list(t.shape)), dtype=t.dtype) for n, t in tensors.items()}

    def _other_shapes(
        self, literals: Mapping[str, object], tensors: Mapping[str, torch.Tensor]
    ) -> Iterator[Recording]:
        """The pattern at another size, and at one more leading dimension where it accepts that."""
        bigger = {n: [6 if d == 4 else d for d in t.shape] for n, t in tensors.items()}
        deeper = {n: [4, *t.shape] for n, t in tensors.items()}
        each = [{n: shape} for n, shape in deeper.items()]
        for shapes in (bigger, deeper, *each):
            other = self._try(literals, self._shaped(tensors, shapes))
            if other is not None:
                yield other

    def _bind_literal(
        self,
        parameter: Parameter,
        nodes: tuple[TemplateNode, ...],
        literals: dict[str, object],
        tensors: dict[str, torch.Tensor],
    ) -> tuple[TemplateNode, ...]:
        """Marks where a literal argument stands: recorded with another value, and if need be one size changed to suit."""
        base = literals[parameter.name]
        values = [v for v in _ALTERNATIVES[parameter.kind] if v != base and _same_length(v, base)]
        for shapes in (None, *self._one_size(range(5), (2, 8, 1))):
            changed = tensors if shapes is None else self._resize(tensors, shapes)
            if changed is None:
                continue
            for value in values:
                other = self._try({**literals, parameter.name: value}, changed)
                common = unified(nodes, template_nodes(other), (parameter, base, value)) if other else None
                if common is not None and binds(common, parameter.name):
                    return common
        raise PassError(
            f"rule {self.rule.title!r}: the literal {parameter.name!r} "
            "is no argument of any op of the pattern, so that it can't be matched"
        )

    def _resize(
        self, tensors: dict[str, torch.Tensor], sizes: dict[str, dict[int, int]]
    ) -> dict[str, torch.Tensor] | None:
        ((name, change),) = sizes.items()
        ((axis, size),) = change.items()
        if axis >= tensors[name].dim():
            return None
        return self._shaped(
            tensors, {name: [size if i == axis else int(d) for i, d in enumerate(tensors[name].shape)]}
        )


def _scratch() -> Program:
    """A program without nodes, for its fake mode."""
    empty = pytree.tree_structure(())
    return Program(Graph(), {}, Signature((), (), empty, empty), fake_mode=new_fake_mode())


def _same_length(a: object, b: object) -> bool:
    return not isinstance(a, list) or not isinstance(b, list) or len(a) == len(b)
