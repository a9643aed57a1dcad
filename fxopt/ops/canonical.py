"""Canonical arguments: positional by schema, defaults filled, dimensions non-negative, literals typed.

Patterns and programs pass through the same function: `softmax(x, -1)` and `softmax(x, dim=3)` are one call.

>>> import torch
>>> args, kwargs = canonical_arguments(torch.ops.aten.max_pool2d.default, (torch.zeros(1, 1, 4, 4), 2), {})
>>> args[1:], kwargs
(([2, 2], [2, 2], [0, 0], [1, 1], False), {})
"""

from collections.abc import Mapping

import torch
from torch.fx import Node

from fxopt.ops.info import OpInfo, op_info
from fxopt.ops.schema import ArgumentKind, argument_kinds

__all__ = ["canonical_arguments", "plain"]

_KERNEL_SWITCHES = frozenset({"cudnn_enabled", "cudnn_enable"})
"""Arguments that choose a kernel, no function: what one machine traced must match another's pattern."""


def plain(value: object) -> object:
    """Fx's immutable lists and dicts as plain ones, nested."""
    if isinstance(value, torch.Size):
        return list(value)
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value


def canonical_arguments(
    op: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Arguments of a call in canonical form.

    A number where the schema wants a list of N is repeated, an `int` for a `float` argument becomes a float
    (not for a `Scalar`, where the type decides the dtype), a pool's empty stride is its kernel size, and what
    only chooses a kernel is on.

    Args:
        op: the overload.
        args: positional arguments: nodes (or tensors) and literals.
        kwargs: keyword arguments.

    Returns:
        Every non-keyword-only schema argument positionally, every keyword-only one by name.

    Raises:
        TypeError: an argument is missing or unknown.
    """
    kinds = argument_kinds(op)
    _check_names(op, kinds, args, kwargs)
    positional: list[object] = []
    named: dict[str, object] = {}
    for i, kind in enumerate(kinds):
        if i < len(args):
            value = _literal(args[i], kind)
        elif kind.name in kwargs:
            value = _literal(kwargs[kind.name], kind)
        elif kind.required:
            raise TypeError(f"{op}: the argument {kind.name!r} is missing; its schema is {op._schema}")
        else:
            value = _literal(kind.default, kind)
        if kind.keyword_only:
            named[kind.name] = value
        else:
            positional.append(value)
    _fill_strides(kinds, positional)
    _normalise_dims(op_info(op), kinds, positional, named)
    return tuple(positional), named


def _check_names(
    op: torch._ops.OpOverload,
    kinds: tuple[ArgumentKind, ...],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> None:
    if len(args) > len(kinds):
        raise TypeError(f"{op} takes {len(kinds)} arguments, got {len(args)}; its schema is {op._schema}")
    free = {k.name for k in kinds[len(args) :]}
    for name in kwargs:
        if name not in free:
            problem = "given twice" if any(k.name == name for k in kinds) else "unknown"
            raise TypeError(f"{op}: the argument {name!r} is {problem}; its schema is {op._schema}")


def _literal(value: object, kind: ArgumentKind) -> object:
    """A literal in the form that its schema type names."""
    if kind.name in _KERNEL_SWITCHES:
        return True
    if value is None or (isinstance(value, Node) and kind.length is None):
        return value
    if not kind.is_list:
        return _element(value, kind.base)
    if isinstance(value, (list, tuple)):
        items = [_element(v, kind.base) for v in value]
        return items * kind.length if len(items) == 1 and kind.length is not None else items
    if kind.length is None or (isinstance(value, Node) and isinstance(value.meta.get("val"), (list, tuple))):
        return value
    return [_element(value, kind.base)] * kind.length


def _element(value: object, base: str) -> object:
    if isinstance(value, int):
        if base == "float":
            return float(value)
        if base == "int":
            return int(value)
        if base == "bool":
            return bool(value)
    if base == "Device" and isinstance(value, str):
        return torch.device(value)
    return plain(value)


def _fill_strides(kinds: tuple[ArgumentKind, ...], positional: list[object]) -> None:
    """A pool with stride `[]` moves by its kernel."""
    names = [k.name for k in kinds]
    if "kernel_size" in names and "stride" in names:
        at = names.index("stride")
        if positional[at] == []:
            kernel = positional[names.index("kernel_size")]
            positional[at] = list(kernel) if isinstance(kernel, list) else kernel


def _normalise_dims(
    info: OpInfo, kinds: tuple[ArgumentKind, ...], positional: list[object], named: dict[str, object]
) -> None:
    if not info.dims:
        return
    tensor = next(i for i, k in enumerate(kinds) if k.base == "Tensor")
    rank = _rank(positional[tensor])
    if rank is None:
        return
    # A tensor without dimensions takes dim 0 and -1 as one with a single dimension does.
    rank = max(rank + info.dims_inserted, 1)
    for i, kind in enumerate(kinds):
        if kind.name not in info.dims:
            continue
        if kind.keyword_only:
            named[kind.name] = _non_negative(named[kind.name], rank)
        else:
            positional[i] = _non_negative(positional[i], rank)


def _rank(value: object) -> int | None:
    if isinstance(value, Node):
        value = value.meta.get("val")
    if isinstance(value, (list, tuple)):
        # The largest: cat takes empty one-dimensional tensors beside any others.
        return max((rank for rank in map(_rank, value) if rank is not None), default=None)
    return value.dim() if isinstance(value, torch.Tensor) else None


def _non_negative(value: object, rank: int) -> object:
    if isinstance(value, int):
        return value + rank if value < 0 else value
    if isinstance(value, list):
        return [_non_negative(v, rank) for v in value]
    return value
