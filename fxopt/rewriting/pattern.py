"""What a template is made of: calls, bound arguments, literals, wildcards."""

from dataclasses import dataclass

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
    "used_calls",
]


@dataclass(frozen=True)
class Use:
    """The result of another template node."""

    index: int


@dataclass(frozen=True)
class Bind:
    """A tensor argument of the pattern."""

    name: str


@dataclass(frozen=True)
class BindLiteral:
    """A literal argument of the pattern."""

    name: str
    kind: ArgumentKind


@dataclass(frozen=True)
class Literal:
    """A literal of the pattern."""

    value: object


@dataclass(frozen=True)
class Wild:
    """Anything: it depends on sizes or ranks and is confirmed by recording on the matched values."""


@dataclass(frozen=True)
class Listed:
    """A list of arguments."""

    items: tuple["Argument", ...]


Argument = Use | Bind | BindLiteral | Literal | Wild | Listed


@dataclass(frozen=True)
class TemplateNode:
    """One call of a pattern."""

    index: int
    target: object
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...]


@dataclass(frozen=True)
class Template:
    """One shape of a pattern: its calls in order, which of them are results (argument names where a result is one)."""

    nodes: tuple[TemplateNode, ...]
    outputs: tuple[int, ...]
    absent: frozenset[str]
    depth: int

    @property
    def anchor(self) -> TemplateNode:
        """The call that matching starts at: the last result."""
        return self.nodes[max(self.outputs)]


def used_calls(argument: Argument) -> list[int]:
    """The template calls whose results an argument holds."""
    if isinstance(argument, Use):
        return [argument.index]
    return [u for i in argument.items for u in used_calls(i)] if isinstance(argument, Listed) else []
