"""From a name to an overload: `aten.add` with the arguments of a call is `aten.add.Tensor`.

>>> import torch
>>> resolve_op("aten.relu")
<OpOverload(op='aten.relu', overload='default')>
>>> resolve_op("aten.pow", (torch.ones(2), 2))
<OpOverload(op='aten.pow', overload='Tensor_Scalar')>
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import torch
from torch.fx import Node

from fxopt.errors import FxoptError
from fxopt.ops.info import op_key
from fxopt.ops.schema import ArgumentKind, argument_kinds, is_mutating

__all__ = ["UnknownOpError", "resolve_op"]

_PREFERRED = ("vec", "default", "Tensor")
"""`vec` is the form of the upsampling ops that tracing leaves."""
_CANONICAL = {
    "aten.add.Scalar": "Tensor",
    "aten.sub.Scalar": "Tensor",
    "aten.mul.Scalar": "Tensor",
    "aten.div.Scalar": "Tensor",
    "aten.div.Scalar_mode": "Tensor_mode",
    "aten.floor_divide.Scalar": "default",
}
"""Overloads that tracing never leaves, by the one it makes instead (which takes a number as well)."""

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int, torch.SymInt),
    "float": (float, int, torch.SymFloat, torch.SymInt),
    "bool": (bool, torch.SymBool),
    "Number": (int, float, complex, torch.SymInt, torch.SymFloat, torch.SymBool),
    "String": (str,),
    "ScalarType": (torch.dtype,),
    "Device": (torch.device, str),
    "Layout": (torch.layout,),
    "MemoryFormat": (torch.memory_format,),
    "Generator": (torch.Generator,),
}


class UnknownOpError(FxoptError, LookupError):
    """A name that is no op, or arguments that no overload of the op takes."""


def resolve_op(
    op: object, args: Sequence[object] | None = None, kwargs: Mapping[str, object] | None = None
) -> torch._ops.OpOverload:
    """The overload that a name means.

    Args:
        op: an overload (returned as it is), a packet, or a name: "aten.add", "aten.add.Tensor", "mylib.op".
        args: the call's arguments, nodes or tensors and literals; with them the overload is the one whose
            schema fits best. Without: `default`, else `Tensor`, else the first that takes or makes tensors
            and writes to none.
        kwargs: the call's keyword arguments.

    Raises:
        UnknownOpError: there is no such op, or no overload takes these arguments.
    """
    if isinstance(op, str):
        op = _named(op)
    if isinstance(op, torch._ops.OpOverload):
        return op
    if not isinstance(op, torch._ops.OpOverloadPacket):
        raise UnknownOpError(f"expected an op such as 'aten.relu' or torch.ops.aten.relu.default, got {op!r}")
    candidates = _candidates(op, _overload_names(op))
    if args is None and kwargs is None:
        return candidates[0]
    costs = [(_cost(c, args or (), kwargs or {}), i) for i, c in enumerate(candidates)]
    fitting = [(cost, i) for cost, i in costs if cost is not None]
    if not fitting:
        given = ", ".join(
            [*map(_describe, args or ()), *(f"{k}={_describe(v)}" for k, v in (kwargs or {}).items())]
        )
        known = "; ".join(str(c._schema).removeprefix("aten::") for c in candidates[:4])
        raise UnknownOpError(f"no overload of {op_key(op)} takes ({given}); there are: {known}")
    best = candidates[min(fitting)[1]]
    other = _CANONICAL.get(op_key(best))
    return best if other is None else getattr(op, other)


def _named(name: str) -> torch._ops.OpOverload | torch._ops.OpOverloadPacket:
    parts = name.split(".")
    if len(parts) not in (2, 3) or not all(parts):
        raise UnknownOpError(f"expected an op name such as 'aten.relu' or 'aten.add.Tensor', got {name!r}")
    base = ".".join(parts[:2])
    packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        known = {n.split(".")[0].replace("::", ".") for n in torch._C._dispatch_get_all_op_names()}
        raise UnknownOpError(f"unknown op {name!r}{_suggestion(base, known)}")
    if len(parts) == 2:
        return packet
    names = _overload_names(packet)
    if parts[2] not in names:
        overloads = [f"{base}.{o}" for o in names]
        raise UnknownOpError(f"unknown overload {name!r}{_suggestion(name, overloads)}")
    overload: torch._ops.OpOverload = getattr(packet, parts[2])
    return overload


def _overload_names(packet: torch._ops.OpOverloadPacket) -> tuple[str, ...]:
    return tuple(n or "default" for n in packet._overload_names)


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


@cache
def _candidates(
    packet: torch._ops.OpOverloadPacket, names: tuple[str, ...]
) -> tuple[torch._ops.OpOverload, ...]:
    """The overloads, preferred ones first.

    Those on plain numbers and those that write are left out if there are others.
    """
    ordered = sorted(names, key=lambda n: _PREFERRED.index(n) if n in _PREFERRED else len(_PREFERRED))
    overloads: list[torch._ops.OpOverload] = [getattr(packet, n) for n in ordered]
    return tuple(o for o in overloads if _on_tensors(o) and not is_mutating(o)) or tuple(overloads)


def _on_tensors(op: torch._ops.OpOverload) -> bool:
    return any(k.base == "Tensor" for k in argument_kinds(op)) or any(
        "Tensor" in str(r.type) for r in op._schema.returns
    )


def _cost(op: torch._ops.OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> int | None:
    """How far the arguments are from the schema: 1 a number for a tensor; None where they don't fit."""
    kinds = argument_kinds(op)
    positional = [k for k in kinds if not k.keyword_only]
    if len(args) > len(positional):
        return None
    given: dict[str, object] = {k.name: a for k, a in zip(positional, args, strict=False)}
    if any(k in given for k in kwargs):
        return None
    given |= kwargs
    if set(given) - {k.name for k in kinds} or any(k.required and k.name not in given for k in kinds):
        return None
    total = 0
    for kind in kinds:
        cost = _argument_cost(given[kind.name], kind) if kind.name in given else 0
        if cost is None:
            return None
        total += cost
    return total


def _argument_cost(value: object, kind: ArgumentKind) -> int | None:
    if value is None:
        return 0 if kind.optional else None
    if isinstance(value, Node) and isinstance(value.meta.get("val"), (list, tuple)):
        value = value.meta["val"]
    if not kind.is_list:
        return _element_cost(value, kind.base)
    if not isinstance(value, (list, tuple)):
        return _element_cost(value, kind.base) if kind.length is not None else None
    costs = [0 if v is None and kind.holes else _element_cost(v, kind.base) for v in value]
    return None if None in costs else sum(c for c in costs if c is not None)


def _element_cost(value: object, base: str) -> int | None:
    if isinstance(value, Node):
        if "val" not in value.meta:
            return int(base != "Tensor")
        value = value.meta["val"]
    if base == "Tensor":
        if isinstance(value, torch.Tensor):
            return 0
        return 1 if isinstance(value, _PYTHON_TYPES["Number"]) else None
    if isinstance(value, bool) and base in ("int", "float"):
        return None
    return 0 if isinstance(value, _PYTHON_TYPES.get(base, ())) else None


def _describe(value: object) -> str:
    if isinstance(value, Node):
        value = value.meta.get("val", value)
    if isinstance(value, torch.Tensor):
        return f"tensor[{', '.join(map(str, value.shape))}]"
    return repr(value)
