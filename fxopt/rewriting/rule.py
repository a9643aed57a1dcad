"""`Rule`: a pattern, what replaces it, and a guard, as plain functions.

    def pattern(x, w: Const, b: Const): return torch.matmul(x, w) + b
    def replacement(x, w, b): return torch.nn.functional.linear(x, w.t(), b)
    Rule(pattern, replacement, guard=lambda match: None if match["w"].dim() == 2 else match.refuse("w is no
    matrix"))

An unannotated argument is any tensor, `Const` one that comes from weights only, `int`, `float`, `bool` or
`list[int]` a literal, `Const | None` and `torch.Tensor | None` optional.
"""

import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from fxopt.errors import PassError

__all__ = ["ArgumentKind", "Const", "Match", "Parameter", "Refused", "Rule", "rule_parameters"]


if typing.TYPE_CHECKING:

    class Const(torch.Tensor):
        """A tensor, for a type checker: patterns hand it to torch's functions."""

else:

    class Const:
        """Annotation: a tensor known at compile time, a weight or a folded constant."""


class ArgumentKind(enum.Enum):
    """What a pattern argument matches."""

    TENSOR = "tensor"
    CONST = "const"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    INTS = "list[int]"


@dataclass(frozen=True)
class Parameter:
    """One argument of a pattern."""

    name: str
    kind: ArgumentKind
    optional: bool = False

    @property
    def is_tensor(self) -> bool:
        """Whether it stands for a node."""
        return self.kind in (ArgumentKind.TENSOR, ArgumentKind.CONST)


@dataclass(frozen=True)
class Refused:
    """Why a guard said no."""

    why: str


@dataclass(frozen=True)
class Match:
    """What a pattern matched.

    `match[name]` is a weight's tensor for a `Const`, the value (`meta["val"]`) of a tensor, the
    Python value of a literal, None for an absent optional argument.
    """

    bindings: Mapping[str, object]
    """Nodes and literals by argument name."""
    nodes: tuple[Node, ...]
    """The matched calls, in pattern order."""
    outputs: tuple[Node, ...]
    values: Mapping[str, object] = field(default_factory=dict)

    def __getitem__(self, name: str) -> typing.Any:
        return self.values[name]

    def node(self, name: str) -> Node:
        """The node bound to a tensor argument.

        Raises:
            PassError: the argument is a literal or absent.
        """
        bound = self.bindings[name]
        if not isinstance(bound, Node):
            raise PassError(f"pattern argument {name!r} is bound to {bound!r}, not to a node")
        return bound

    def refuse(self, why: str) -> Refused:
        """For guards: do not rewrite here, and why."""
        return Refused(why)


@dataclass(frozen=True)
class Rule:
    """A rewrite rule. `guard` returns None to go on or `match.refuse("why")`."""

    pattern: Callable[..., object]
    replacement: Callable[..., object]
    guard: Callable[[Match], Refused | None] | None = None
    name: str | None = None

    @property
    def title(self) -> str:
        """The rule's name, by default its pattern's."""
        return self.name or self.pattern.__name__.strip("_").replace("_", "-")


_LITERALS = {
    int: ArgumentKind.INT,
    float: ArgumentKind.FLOAT,
    bool: ArgumentKind.BOOL,
    list[int]: ArgumentKind.INTS,
}


def rule_parameters(rule: Rule) -> tuple[Parameter, ...]:
    """A rule's pattern arguments, read from its annotations.

    Raises:
        PassError: an annotation that is no argument kind, or a replacement with other arguments.
    """
    pattern = inspect.signature(rule.pattern)
    hints = typing.get_type_hints(rule.pattern)
    parameters = tuple(_parameter(rule, name, hints.get(name)) for name in pattern.parameters)
    wanted = list(inspect.signature(rule.replacement).parameters)
    if wanted != [p.name for p in parameters]:
        raise PassError(
            f"rule {rule.title!r}: the replacement takes ({', '.join(wanted)}), "
            f"the pattern ({', '.join(p.name for p in parameters)}); they must be the same"
        )
    return parameters


def _parameter(rule: Rule, name: str, hint: object) -> Parameter:
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [a for a in typing.get_args(hint) if a is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        hint = members[0] if len(members) == 1 else hint
    if hint is None or hint is torch.Tensor:
        return Parameter(name, ArgumentKind.TENSOR, optional)
    if hint is Const:
        return Parameter(name, ArgumentKind.CONST, optional)
    kind = _LITERALS.get(hint)  # type: ignore[call-overload]
    if kind is None:
        raise PassError(
            f"rule {rule.title!r}: argument {name!r} is annotated {hint!r}; expected nothing, Const, torch.Tensor, "
            "int, float, bool or list[int], or one of these | None"
        )
    return Parameter(name, kind, optional)
