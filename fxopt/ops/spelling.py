"""Canonical spelling: one form for what torch can say in several ways.

`view` is `reshape`, `t` is `permute`, `rsub` is `sub`, casts are `to.dtype`, copies are nothing. Rules are
functions from a call's bound arguments to the call that stands for it; programs and patterns pass through the
same table.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch.fx import Node

from fxopt.ops.canonical import canonical_arguments, plain
from fxopt.ops.info import op_key
from fxopt.ops.schema import argument_kinds

__all__ = ["DROPPED", "SPELLINGS", "STANDING", "Emit", "canonical_call"]

aten = torch.ops.aten


class Emit(Protocol):
    """Makes a canonical call in the new graph. `value` is its `meta["val"]` where already known."""

    def __call__(
        self,
        op: object,
        args: tuple[object, ...],
        kwargs: dict[str, object] | None = None,
        *,
        value: object = None,
    ) -> Node:
        """The node of the call."""
        ...


Arguments = dict[str, object]
Spelling = Callable[[Emit, Arguments, object], object]
"""(emit, bound arguments, the call's value) -> the node that stands for the call."""

DROPPED = frozenset(
    {
        "aten._assert_tensor_metadata.default",
        "aten._assert_async.default",
        "aten._assert_async.msg",
        "aten._assert_scalar.default",
        "aten.sym_constrain_range.default",
        "aten.sym_constrain_range_for_size.default",
    }
)
"""Checks without a result."""


def _value(argument: object) -> torch.Tensor:
    assert isinstance(argument, Node)
    value = argument.meta["val"]
    assert isinstance(value, torch.Tensor)
    return value


def _same(emit: Emit, a: Arguments, value: object) -> object:
    return next(iter(a.values()))


def _reshape(emit: Emit, a: Arguments, value: object) -> object:
    return emit(aten.reshape.default, (a["self"], a["size"]), value=value)


def _sizes(emit: Emit, like: object) -> list[object]:
    """The sizes of a tensor as literals and, where dynamic, `sym_size` nodes."""
    shape = _value(like).shape
    return [
        d if isinstance(d, int) else emit(aten.sym_size.int, (like, i), value=d) for i, d in enumerate(shape)
    ]


def _reshape_as(emit: Emit, a: Arguments, value: object) -> object:
    return emit(aten.reshape.default, (a["self"], _sizes(emit, a["other"])), value=value)


def _expand_as(emit: Emit, a: Arguments, value: object) -> object:
    return emit(aten.expand.default, (a["self"], _sizes(emit, a["other"])), value=value)


def _broadcast(emit: Emit, source: object, a: Arguments, value: object) -> object:
    """A tensor in the shape and dtype of `self`, which it overwrites."""
    target, given = _value(a["self"]), _value(source)
    if given.dtype != target.dtype:
        source = emit(aten.to.dtype, (source, target.dtype))
    if given.shape == target.shape:
        return source
    return emit(aten.expand.default, (source, _sizes(emit, a["self"])), value=value)


def _copy(emit: Emit, a: Arguments, value: object) -> object:
    return _broadcast(emit, a["src"], a, value)


def _fill(emit: Emit, a: Arguments, value: object) -> object:
    if isinstance(a["value"], Node) and isinstance(a["value"].meta.get("val"), torch.Tensor):
        return _broadcast(emit, a["value"], a, value)
    return emit(aten.full_like.default, (a["self"], a["value"]), value=value)


def _zero(emit: Emit, a: Arguments, value: object) -> object:
    return emit(aten.full_like.default, (a["self"], 0), value=value)


def _unwritten(emit: Emit, a: Arguments, value: object) -> object:
    """Memory that nothing has written yet, as zeros: the same in each run."""
    assert isinstance(value, torch.Tensor)
    size = a["size"] if "size" in a else _sizes(emit, a["self"])
    kind = {"dtype": value.dtype, "layout": torch.strided, "device": value.device}
    return emit(aten.zeros.default, (size,), kind, value=value)


def _squeeze(emit: Emit, a: Arguments, value: object) -> object:
    """Axes of size 1 by number: one that is dynamic stays also where its size is 1."""
    ones = [i for i, d in enumerate(_value(a["self"]).shape) if isinstance(d, int) and d == 1]
    return emit(aten.squeeze.dims, (a["self"], ones), value=value) if ones else a["self"]


def _cast(emit: Emit, a: Arguments, value: object) -> object:
    """Any `to`: nothing, a change of dtype, or a move."""
    source = _value(a["self"])
    assert isinstance(value, torch.Tensor)
    if value.device != source.device:
        return emit(aten.to.device, (a["self"], value.device, value.dtype), value=value)
    if value.dtype == source.dtype:
        return a["self"]
    return emit(aten.to.dtype, (a["self"], value.dtype), value=value)


def _swap(emit: Emit, a: Arguments, value: object) -> object:
    rank = _value(a["self"]).dim()
    first, second = (a.get(k, a.get(j)) for k, j in (("dim0", "axis0"), ("dim1", "axis1")))
    assert isinstance(first, int) and isinstance(second, int)
    return _permute_swap(emit, a["self"], first, second, rank, value)


def _permute_swap(emit: Emit, x: object, first: int, second: int, rank: int, value: object) -> object:
    order = list(range(rank))
    if rank:
        order[first], order[second] = order[second], order[first]
    return emit(aten.permute.default, (x, order), value=value)


def _transpose_matrix(emit: Emit, a: Arguments, value: object) -> object:
    rank = _value(a["self"]).dim()
    return a["self"] if rank < 2 else _permute_swap(emit, a["self"], -2, -1, rank, value)


def _reverse(emit: Emit, a: Arguments, value: object) -> object:
    return emit(aten.permute.default, (a["self"], list(range(_value(a["self"]).dim()))[::-1]), value=value)


def _movedim(emit: Emit, a: Arguments, value: object) -> object:
    rank = _value(a["self"]).dim()
    source, target = (_dims(a[k], rank) for k in ("source", "destination"))
    order: list[int | None] = [None] * rank
    for s, t in zip(source, target, strict=True):
        order[t] = s
    rest = iter(d for d in range(rank) if d not in source)
    return emit(
        aten.permute.default, (a["self"], [next(rest) if o is None else o for o in order]), value=value
    )


def _dims(value: object, rank: int) -> list[int]:
    values: Sequence[int] = value if isinstance(value, (list, tuple)) else [value]  # type: ignore[list-item]
    return [v % rank for v in values]


def _swapped_sub(emit: Emit, a: Arguments, value: object) -> object:
    return emit(aten.sub.Tensor, (a["other"], a["self"]), {"alpha": a["alpha"]}, value=value)


def _number_minus(emit: Emit, a: Arguments, value: object) -> object:
    """Writes a - alpha * x as (-x * alpha) + a; without alpha that rounds the same way."""
    negated = emit(aten.neg.default, (a["self"],))
    if a["alpha"] != 1:
        negated = emit(aten.mul.Tensor, (negated, a["alpha"]))
    return emit(aten.add.Tensor, (negated, a["other"]), value=value)


def _to_overload(op: torch._ops.OpOverload) -> Spelling:
    def spell(emit: Emit, a: Arguments, value: object) -> object:
        args = tuple(a[s.name] for s in op._schema.arguments if not s.kwarg_only and s.name in a)
        kwargs = {s.name: a[s.name] for s in op._schema.arguments if s.kwarg_only and s.name in a}
        return emit(op, args, kwargs, value=value)

    return spell


def _softmax(op: torch._ops.OpOverload) -> Spelling:
    def spell(emit: Emit, a: Arguments, value: object) -> object:
        dtype = value.dtype if a["half_to_float"] and isinstance(value, torch.Tensor) else None
        return emit(op, (a["self"], a["dim"], dtype), value=value)

    return spell


def _batch_norm(emit: Emit, a: Arguments, value: object) -> object:
    """A norm by the batch's statistics is an instance norm of one instance: x[n, c, *s] as [1, c, n * s]."""
    if not (a["training"] is True and a["running_mean"] is None and a["running_var"] is None):
        return emit(aten.batch_norm.default, tuple(a.values()), value=value)
    x = _value(a["input"])
    order = [1, 0, *range(2, x.dim())]
    sizes = _sizes(emit, a["input"])
    rows = emit(aten.permute.default, (a["input"], order))
    flat = emit(aten.reshape.default, (rows, [1, sizes[1], -1]))
    statistics = (None, None, True, a["momentum"], a["eps"], False)
    normal = emit(aten.instance_norm.default, (flat, a["weight"], a["bias"], *statistics))
    back = emit(aten.reshape.default, (normal, [sizes[i] for i in order]))
    return emit(aten.permute.default, (back, order), value=value)


def _dropout(op: torch._ops.OpOverload) -> Spelling:
    """Nothing is dropped at a rate of 0, also while training."""

    def spell(emit: Emit, a: Arguments, value: object) -> object:
        return emit(op, (a["input"], a["p"], a["train"] is True and a["p"] != 0), value=value)

    return spell


def _rrelu(emit: Emit, a: Arguments, value: object) -> object:
    """Out of training the slope is the middle of its range."""
    if a["training"] is not False:
        return emit(aten.rrelu.default, tuple(a.values()), value=value)
    lower, upper = a["lower"], a["upper"]
    assert isinstance(lower, (int, float)) and isinstance(upper, (int, float))
    return emit(aten.leaky_relu.default, (a["self"], (lower + upper) / 2), value=value)


SPELLINGS: dict[str, Spelling] = {
    "aten.rrelu.default": _rrelu,
    "aten.batch_norm.default": _batch_norm,
    "aten.dropout.default": _dropout(aten.dropout.default),
    "aten.feature_dropout.default": _dropout(aten.feature_dropout.default),
    "aten.alpha_dropout.default": _dropout(aten.alpha_dropout.default),
    "aten.feature_alpha_dropout.default": _dropout(aten.feature_alpha_dropout.default),
    "aten.view.default": _reshape,
    "aten._unsafe_view.default": _reshape,
    "aten.view_as.default": _reshape_as,
    "aten.reshape_as.default": _reshape_as,
    "aten.expand_as.default": _expand_as,
    "aten._reshape_alias.default": _reshape,
    "aten.copy.default": _copy,
    "aten.fill.Tensor": _fill,
    "aten.fill.Scalar": _fill,
    "aten.zero.default": _zero,
    "aten.empty.memory_format": _unwritten,
    "aten.empty_like.default": _unwritten,
    "aten.empty_strided.default": _unwritten,
    "aten.empty_permuted.default": _unwritten,
    "aten.new_empty.default": _unwritten,
    "aten.new_empty_strided.default": _unwritten,
    "aten.squeeze.default": _squeeze,
    "aten.contiguous.default": _same,
    "aten.clone.default": _same,
    "aten.alias.default": _same,
    "aten.detach.default": _same,
    "aten.detach_copy.default": _same,
    "aten.lift_fresh.default": _same,
    "aten.lift_fresh_copy.default": _same,
    "aten.positive.default": _same,
    "aten.to.dtype": _cast,
    "aten.to.dtype_layout": _cast,
    "aten.to.device": _cast,
    "aten.to.other": _cast,
    "aten.to.prim_Device": _cast,
    "aten.to.prim_dtype": _cast,
    "aten.to.prim_other": _cast,
    "aten._to_copy.default": _cast,
    "aten.type_as.default": _cast,
    "aten.transpose.int": _swap,
    "aten.swapaxes.default": _swap,
    "aten.swapdims.default": _swap,
    "aten.t.default": _transpose_matrix,
    "aten.mT.default": _transpose_matrix,
    "aten.adjoint.default": _transpose_matrix,
    "aten.numpy_T.default": _reverse,
    "aten.movedim.int": _movedim,
    "aten.movedim.intlist": _movedim,
    "aten.moveaxis.int": _movedim,
    "aten.moveaxis.intlist": _movedim,
    "aten.rsub.Tensor": _swapped_sub,
    "aten.rsub.Scalar": _number_minus,
    "aten.add.Scalar": _to_overload(aten.add.Tensor),
    "aten.sub.Scalar": _to_overload(aten.sub.Tensor),
    "aten.mul.Scalar": _to_overload(aten.mul.Tensor),
    "aten.div.Scalar": _to_overload(aten.div.Tensor),
    "aten.true_divide.Tensor": _to_overload(aten.div.Tensor),
    "aten.multiply.Tensor": _to_overload(aten.mul.Tensor),
    "aten.subtract.Tensor": _to_overload(aten.sub.Tensor),
    "aten.__and__.Tensor": _to_overload(aten.bitwise_and.Tensor),
    "aten.__or__.Tensor": _to_overload(aten.bitwise_or.Tensor),
    "aten.__xor__.Tensor": _to_overload(aten.bitwise_xor.Tensor),
    "aten.__and__.Scalar": _to_overload(aten.bitwise_and.Scalar),
    "aten.__or__.Scalar": _to_overload(aten.bitwise_or.Scalar),
    "aten.__xor__.Scalar": _to_overload(aten.bitwise_xor.Scalar),
    "aten._softmax.default": _softmax(aten.softmax.int),
    "aten._log_softmax.default": _softmax(aten.log_softmax.int),
    "aten.conv1d.padding": lambda e, a, v: _padded_conv(e, aten.conv1d.default, a, v),
    "aten.conv2d.padding": lambda e, a, v: _padded_conv(e, aten.conv2d.default, a, v),
    "aten.conv3d.padding": lambda e, a, v: _padded_conv(e, aten.conv3d.default, a, v),
}

STANDING = frozenset(
    {
        "aten.to.dtype",
        "aten.to.device",
        "aten.batch_norm.default",
        "aten.rrelu.default",
        "aten.dropout.default",
        "aten.feature_dropout.default",
        "aten.alpha_dropout.default",
        "aten.feature_alpha_dropout.default",
    }
)
"""Ops with a spelling that some of their calls keep."""


def _padded_conv(emit: Emit, op: torch._ops.OpOverload, a: Arguments, value: object) -> object:
    """Padding "valid" and symmetric "same" as numbers; asymmetric "same" by padding first, as torch does."""
    weight = _value(a["weight"])
    rank = weight.dim() - 2
    dilation = a["dilation"]
    assert isinstance(dilation, (list, tuple))
    dilations = [int(d) for d in dilation] * (rank if len(dilation) == 1 else 1)
    totals = (
        [0] * rank
        if a["padding"] == "valid"
        else [d * (int(k) - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
    )
    x = a["input"]
    if any(t % 2 for t in totals):
        extra = [n for t in reversed(totals) for n in (0, t % 2)]
        x = emit(aten.constant_pad_nd.default, (x, extra))
    padding = [t // 2 for t in totals]
    return emit(op, (x, a["weight"], a["bias"], a["stride"], padding, dilations, a["groups"]), value=value)


def _with_a_tensor(emit: Emit, target: torch._ops.OpOverload, args: tuple[object, ...]) -> tuple[object, ...]:
    """The arguments of a call on numbers alone (`torch.div(x.shape[0], 2)`) with the first as a tensor."""
    kinds = argument_kinds(target)[: len(args)]
    first = next((i for i, kind in enumerate(kinds) if kind.base == "Tensor" and not kind.is_list), None)
    if first is None or not all(map(_is_number, args)):
        return args
    number = _plain_value(args[first])
    dtype = torch.bool if isinstance(number, bool) else torch.int64
    if isinstance(number, (float, torch.SymFloat)):
        dtype = torch.get_default_dtype()
    made = emit(aten.scalar_tensor.default, (args[first],), {"dtype": dtype})
    return (*args[:first], made, *args[first + 1 :])


def _plain_value(argument: object) -> object:
    return argument.meta.get("val") if isinstance(argument, Node) else argument


def _is_number(argument: object) -> bool:
    return isinstance(_plain_value(argument), (int, float, torch.SymInt, torch.SymFloat))


def canonical_call(
    emit: Emit, target: object, args: tuple[object, ...], kwargs: dict[str, object], value: object
) -> object:
    """The canonical form of a call.

    Args:
        emit: makes calls in the new graph.
        target: the op as captured or written.
        args: its arguments, nodes and literals of the new graph.
        kwargs: its keyword arguments.
        value: the call's `meta["val"]`.

    Returns:
        The node (or literal) that stands for it.
    """
    if isinstance(target, torch._ops.OpOverload):
        args = _with_a_tensor(emit, target, args)
    spelling = SPELLINGS.get(op_key(target))
    if spelling is None or not isinstance(target, torch._ops.OpOverload):
        return emit(target, args, kwargs, value=value)
    positional, named = canonical_arguments(target, args, kwargs)
    names = [a.name for a in target._schema.arguments if not a.kwarg_only]
    return spelling(emit, {**dict(zip(names, map(plain, positional), strict=True)), **named}, value)
