"""What a template is made of: calls of a pattern, whose arguments are values, literals and wildcards.

>>> Listed((Use(0), Bind("x"))).uses, Wild().uses
((0,), ())
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch.fx import Node

from fxopt.ops import op_info
from fxopt.rewriting.recorder import Recording
from fxopt.rewriting.rule import ArgumentKind

__all__ = [
    "Argument",
    "Bind",
    "BindLiteral",
    "Listed",
    "Literal",
    "Template",
    "TemplateNode",
    "Use",
    "Wild",
    "recorded_nodes",
]


class _Term:
    """An argument; `uses` are the template nodes and `binds` the pattern's tensor arguments in it."""

    uses: tuple[int, ...] = ()
    binds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Use(_Term):
    """The result of another template node."""

    index: int

    @property
    def uses(self) -> tuple[int, ...]:  # type: ignore[override]  # noqa: D102
        return (self.index,)


@dataclass(frozen=True)
class Bind(_Term):
    """A tensor argument of the pattern."""

    name: str

    @property
    def binds(self) -> tuple[str, ...]:  # type: ignore[override]  # noqa: D102
        return (self.name,)


@dataclass(frozen=True)
class BindLiteral(_Term):
    """A literal argument of the pattern."""

    name: str
    kind: ArgumentKind


@dataclass(frozen=True)
class Literal(_Term):
    """A literal of the pattern."""

    value: object


@dataclass(frozen=True)
class Wild(_Term):
    """Anything: it depends on sizes or ranks and is confirmed by recording on the matched values."""


@dataclass(frozen=True)
class Listed(_Term):
    """A list of arguments."""

    items: tuple["Argument", ...]

    @property
    def uses(self) -> tuple[int, ...]:  # type: ignore[override]  # noqa: D102
        return tuple(u for i in self.items for u in i.uses)

    @property
    def binds(self) -> tuple[str, ...]:  # type: ignore[override]  # noqa: D102
        return tuple(b for i in self.items for b in i.binds)


Argument = Use | Bind | BindLiteral | Literal | Wild | Listed


@dataclass(frozen=True)
class TemplateNode:
    """One call of a pattern."""

    index: int
    target: object
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...]

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        """Positional ones, then named ones."""
        return (*self.args, *(a for _, a in self.kwargs))

    @cached_property
    def uses(self) -> tuple[int, ...]:
        """The template nodes that it reads."""
        return tuple(u for a in self.arguments for u in a.uses)

    @cached_property
    def binds(self) -> tuple[str, ...]:
        """The pattern's tensor arguments that it reads."""
        return tuple(b for a in self.arguments for b in a.binds)

    @cached_property
    def commutative(self) -> bool:
        """Whether the first two arguments of the op may be swapped (where both are tensors)."""
        return isinstance(self.target, torch._ops.OpOverload) and op_info(self.target).commutative


@dataclass(frozen=True, eq=False)
class Template:
    """One shape of a pattern: its calls in order, which of them are results, which arguments are absent.

    Templates are compared by identity: they are keys of what is confirmed.
    """

    nodes: tuple[TemplateNode, ...]
    outputs: tuple[int, ...]
    absent: frozenset[str] = field(default_factory=frozenset)

    @property
    def anchor(self) -> TemplateNode:
        """The call that matching starts at: the last result."""
        return self.nodes[max(self.outputs)]

    @cached_property
    def depth(self) -> int:
        """The longest chain of calls."""
        depth: list[int] = []
        for node in self.nodes:
            depth.append(1 + max((depth[u] for u in node.uses), default=0))
        return max(depth)

    @cached_property
    def fan_out(self) -> int | None:
        """How many users an inner value may have; None if one is a result too, which any number may use."""
        inner = [u for n in self.nodes for u in set(n.uses)]
        if set(inner) & set(self.outputs):
            return None
        return max((inner.count(i) for i in inner), default=0)

    @property
    def connected(self) -> bool:
        """Whether every call is reached from the anchor over values and arguments."""
        values: list[set[object]] = [{n.index, *n.uses, *n.binds} for n in self.nodes]
        reached: set[object] = {self.anchor.index}
        while grown := [v for v in values if v & reached and not v <= reached]:
            reached.update(*grown)
        return all(n.index in reached for n in self.nodes)


def recorded_nodes(recording: Recording) -> tuple[TemplateNode, ...]:
    """A recording's calls, its literals as they are, its symbolic sizes as wildcards."""
    order = {n: i for i, n in enumerate(recording.calls)}
    names = {n: name for name, n in recording.placeholders.items()}
    return tuple(
        TemplateNode(
            i,
            node.target,
            tuple(_argument(a, order, names) for a in node.args),
            tuple((k, _argument(v, order, names)) for k, v in node.kwargs.items()),
        )
        for node, i in order.items()
    )


def _argument(value: object, order: Mapping[Node, int], names: Mapping[Node, str]) -> Argument:
    if isinstance(value, Node):
        return Use(order[value]) if value in order else Bind(names[value])
    if isinstance(value, (list, tuple)):
        return Listed(tuple(_argument(v, order, names) for v in value))
    return Wild() if isinstance(value, torch.SymInt) else Literal(value)
