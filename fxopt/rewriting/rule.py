"""`Rule`: a pattern, what replaces it, and a guard, as plain functions.

>>> import torch
>>> def pattern(x, w: Const, b: Const): return torch.matmul(x, w) + b
>>> def replacement(x, w, b): return torch.nn.functional.linear(x, w.t(), b)
>>> def guard(match): return None if match["w"].dim() == 2 else match.refuse("w is no matrix")
>>> rule = Rule(pattern, replacement, guard, name="matmul-bias")
>>> [(p.name, p.kind.value) for p in rule_parameters(rule)]
[('x', 'tensor'), ('w', 'const'), ('b', 'const')]

An unannotated argument is any tensor, `Const` one that comes from weights only, `int`, `float`, `bool` or
`list[int]` a literal; `Const | None`, `torch.Tensor | None`, `float | None` and so on are optional.
"""

import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

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
    DTYPE = "torch.dtype"


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

    `match[name]` is a weight's tensor for a `Const`, the value (`meta["val"]`) of a tensor, the Python value
    of a literal, None for an absent optional argument.
    """

    bindings: Mapping[str, object]
    """Nodes and literals by argument name."""
    nodes: tuple[Node, ...]
    """The matched calls, in pattern order."""
    outputs: tuple[Node, ...]
    values: Mapping[str, object] = field(default_factory=dict)

    def __getitem__(self, name: str) -> typing.Any:
        return self.values[self._known(name)]

    def node(self, name: str) -> Node:
        """The node bound to a tensor argument.

        Raises:
            PassError: the argument is a literal or absent.
        """
        bound = self.bindings[self._known(name)]
        if not isinstance(bound, Node):
            raise PassError(f"pattern argument {name!r} is bound to {bound!r}, not to a node")
        return bound

    def refuse(self, why: str) -> Refused:
        """For guards: do not rewrite here, and why."""
        return Refused(why)

    def _known(self, name: str) -> str:
        if name not in self.bindings:
            raise PassError(
                f"the pattern has no argument {name!r}; its arguments are {', '.join(self.bindings)}"
            )
        return name


@dataclass(frozen=True)
class Rule:
    """A rewrite rule. `guard` returns None to go on or `match.refuse("why")`."""

    pattern: Callable[..., object]
    replacement: Callable[..., object]
    guard: Callable[[Match], Refused | None] | None = None
    name: str | None = None
    needs: tuple[str, ...] = ()
    """Ops that the pattern calls whatever its arguments, such as "aten.conv2d".

    The pattern is not prepared for programs that lack one. It is checked when it is.
    """

    @cached_property
    def title(self) -> str:
        """The rule's name, by default its pattern's."""
        return self.name or getattr(self.pattern, "__name__", "rule").strip("_<>").replace("_", "-")


_LITERALS = {
    int: ArgumentKind.INT,
    float: ArgumentKind.FLOAT,
    bool: ArgumentKind.BOOL,
    list[int]: ArgumentKind.INTS,
    torch.dtype: ArgumentKind.DTYPE,
}


def rule_parameters(rule: Rule) -> tuple[Parameter, ...]:
    """A rule's pattern arguments, read from its annotations.

    Raises:
        PassError: an annotation that is no argument kind, or a replacement with other arguments.
    """
    pattern = _signature(rule, rule.pattern)
    try:
        hints = typing.get_type_hints(rule.pattern) if hasattr(rule.pattern, "__annotations__") else {}
    except (NameError, TypeError) as error:
        raise PassError(f"rule {rule.title!r}: the pattern's annotations can't be read: {error}") from error
    parameters = tuple(_parameter(rule, name, hints.get(name)) for name in pattern)
    wanted = _signature(rule, rule.replacement)
    if wanted != [p.name for p in parameters]:
        raise PassError(
            f"rule {rule.title!r}: the replacement takes ({', '.join(wanted)}), "
            f"the pattern ({', '.join(p.name for p in parameters)}); they must be the same"
        )
    if not any(p.is_tensor for p in parameters):
        raise PassError(f"rule {rule.title!r}: the pattern takes no tensor")
    return parameters


def _signature(rule: Rule, function: object) -> list[str]:
    """The names of a function's arguments."""
    if not callable(function):
        raise PassError(f"rule {rule.title!r}: expected two functions, got {function!r}")
    method = getattr(function, "__func__", None) if hasattr(function, "__self__") else None
    if method is not None and next(iter(inspect.signature(method).parameters), "") != "self":
        raise PassError(f"rule {rule.title!r}: {method.__name__} is not static: write @staticmethod above it")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:  # of most functions that are written in C
        name = getattr(function, "__name__", repr(function))
        raise PassError(
            f"rule {rule.title!r}: the arguments of {name!r} can't be read; write `lambda x: {name}(x)`"
        ) from error
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    other = next((p for p in parameters if p.kind not in plain), None)
    if other is not None:
        raise PassError(
            f"rule {rule.title!r}: the argument {str(other)!r} is not positional; name each argument"
        )
    return [p.name for p in parameters]


def _parameter(rule: Rule, name: str, hint: object) -> Parameter:
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [a for a in typing.get_args(hint) if a is not type(None)]
        optional = type(None) in typing.get_args(hint)
        hint = members[0] if len(members) == 1 else hint
    if hint is None or hint is torch.Tensor:
        return Parameter(name, ArgumentKind.TENSOR, optional)
    if hint is Const:
        return Parameter(name, ArgumentKind.CONST, optional)
    kind = next((k for literal, k in _LITERALS.items() if literal == hint), None)
    if kind is None:
        raise PassError(
            f"rule {rule.title!r}: argument {name!r} is annotated {hint!r}; expected nothing, Const, "
            "torch.Tensor, int, float, bool, list[int] or torch.dtype, or one of these | None"
        )
    return Parameter(name, kind, optional)
