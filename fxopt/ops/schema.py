"""Reading op schemas: arguments by name, purity, aliases.

>>> import torch
>>> [a.name for a in schema_arguments(torch.ops.aten.linear.default)]
['input', 'weight', 'bias']
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch.fx import Node

from fxopt.ops.info import Aliasing, op_info

__all__ = [
    "ArgumentKind",
    "argument_kinds",
    "bind",
    "bind_call",
    "bind_values",
    "check_taken",
    "is_commutative",
    "is_mutating",
    "is_pure",
    "is_random",
    "is_view",
    "mutated_arguments",
    "schema_arguments",
]

_SEEDED = torch.Tag.nondeterministic_seeded
_SYMBOLIC = {"SymInt": "int", "SymBool": "bool", "SymFloat": "float", "DeviceObj": "Device"}


@dataclass(frozen=True)
class ArgumentKind:
    """A schema argument, read once.

    `Tensor?[] indices` has base "Tensor", `is_list` and `holes`; `int[2]? x` is optional with `length` 2.
    """

    name: str
    base: str
    """Tensor, int, float, bool, Number, String, ScalarType, Layout, Device, MemoryFormat, Generator ..."""
    is_list: bool
    length: int | None
    optional: bool
    holes: bool
    """A list's elements may be None."""
    keyword_only: bool
    required: bool
    default: object


def schema_arguments(op: torch._ops.OpOverload) -> list[torch.Argument]:
    """The schema's arguments in order."""
    return list(op._schema.arguments)


@cache
def argument_kinds(op: torch._ops.OpOverload) -> tuple[ArgumentKind, ...]:
    """The schema's arguments in order, symbolic sizes as the plain types."""
    return tuple(_kind(a) for a in op._schema.arguments)


def _kind(argument: torch.Argument) -> ArgumentKind:
    kind = argument.real_type
    optional = kind.kind() == "OptionalType"
    kind = kind.getElementType() if optional else kind
    is_list = kind.kind() == "ListType"
    kind = kind.getElementType() if is_list else kind
    holes = is_list and kind.kind() == "OptionalType"
    kind = kind.getElementType() if holes else kind
    base = kind.kind().removesuffix("Type")
    required = not argument.has_default_value()
    return ArgumentKind(
        name=argument.name,
        base=_SYMBOLIC.get(base, base.lower() if base in ("Int", "Float", "Bool") else base),
        is_list=is_list,
        length=getattr(argument, "N", None),
        optional=optional,
        holes=holes,
        keyword_only=argument.kwarg_only,
        required=required,
        default=None if required else argument.default_value,
    )


def bind_call(
    op: torch._ops.OpOverload, args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """A call's arguments by schema name, defaults included."""
    bound: dict[str, object] = {}
    for i, argument in enumerate(argument_kinds(op)):
        if not argument.keyword_only and i < len(args):
            bound[argument.name] = args[i]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        elif not argument.required:
            bound[argument.name] = argument.default
    return bound


def bind(node: Node) -> dict[str, object]:
    """A call's arguments by schema name, defaults included; `{}` for Python functions."""
    target = node.target
    return bind_call(target, node.args, node.kwargs) if isinstance(target, torch._ops.OpOverload) else {}


def bind_values(node: Node) -> dict[str, object]:
    """`bind` with each node's `meta["val"]` in its place: what `OpInfo.index_map` and `flops` take."""
    return {name: _value(argument) for name, argument in bind(node).items()}


def check_taken(
    op: object, args: tuple[object, ...] | list[object], kwargs: Mapping[str, object], output: object
) -> None:
    """Whether the kernel takes a call on (fake) values that the shape function has taken.

    Args:
        op: an overload; what is none is taken.
        args: values and literals.
        kwargs: values and literals.
        output: what the shape function gave.

    Raises:
        ValueError: it doesn't; says why.
    """
    if not isinstance(op, torch._ops.OpOverload) or (refuses := op_info(op).kernel_refuses) is None:
        return
    why = refuses(bind_call(op, args, kwargs), output)
    if why:
        raise ValueError(why)


def _value(argument: object) -> object:
    if isinstance(argument, Node):
        return argument.meta.get("val")
    if isinstance(argument, (list, tuple)):
        return [_value(a) for a in argument]
    return argument


@cache
def mutated_arguments(op: torch._ops.OpOverload) -> tuple[int, ...]:
    """Indices of the schema arguments that the op writes to."""
    return tuple(
        i for i, a in enumerate(op._schema.arguments) if a.alias_info is not None and a.alias_info.is_write
    )


def is_mutating(op: object) -> bool:
    """Whether the op's schema writes to an argument."""
    return isinstance(op, torch._ops.OpOverload) and bool(mutated_arguments(op))


def is_view(op: object) -> bool:
    """Whether an output may share storage with an input: as the table says, else by schema or tag."""
    if not isinstance(op, torch._ops.OpOverload):
        return False
    aliasing = op_info(op).aliasing
    if aliasing is not Aliasing.SCHEMA:
        return aliasing is Aliasing.MAYBE
    return _declares_alias(op)


@cache
def _declares_alias(op: torch._ops.OpOverload) -> bool:
    if any(r.alias_info is not None for r in op._schema.returns):
        return True
    return torch.Tag.maybe_aliasing_or_mutating in op.tags


def is_commutative(node: Node) -> bool:
    """Whether the first two arguments may be swapped: both tensors, the others at their defaults."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not op_info(target).commutative or len(node.args) < 2:
        return False
    if not all(isinstance(a, Node) for a in node.args[:2]):
        return False
    bound = bind(node)
    return all(
        type(bound[a.name]) is type(a.default) and bound[a.name] == a.default
        for a in argument_kinds(target)[2:]
    )


def is_random(node: Node) -> bool:
    """Whether the call draws random numbers: the op is tagged as seeded, the table does not call it pure."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or _SEEDED not in target.tags:
        return False
    return not _declared_pure(target, node)


def _declared_pure(target: torch._ops.OpOverload, node: Node) -> bool | None:
    """The table's word on a call's purity; None where it has none."""
    declared = op_info(target).pure
    return declared(bind(node)) if callable(declared) else declared


def is_pure(node: Node) -> bool:
    """Whether a dead call may be dropped and two equal calls merged.

    The table's word first; else the schema's: no write, no `nondeterministic_seeded` tag, at least one return
    (asserts return nothing). Ops outside `aten` and `prims` that the table does not list are impure only if
    their schema mutates.
    """
    if node.op == "get_attr":
        return True
    if node.op != "call_function":
        return False
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return not isinstance(target, torch._ops.HigherOrderOperator) and (
            target is operator.getitem or getattr(target, "__module__", "") in ("_operator", "math", "torch")
        )
    declared = _declared_pure(target, node)
    return _pure_by_schema(target) if declared is None else declared


@cache
def _pure_by_schema(op: torch._ops.OpOverload) -> bool:
    if not op._schema.returns or op._schema.is_mutable:
        return False
    return _SEEDED not in op.tags
