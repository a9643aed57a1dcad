"""Computes only the one result of several that is read."""

import operator
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import ClassVar

import torch

from fxopt.ops import bind, op_key
from fxopt.ops.sizes import shape_of
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["EliminateDeadOutputs"]

Call = tuple[str, tuple[object, ...], dict[str, object]]
"""An op's name and arguments."""
Narrow = Callable[[Mapping[str, object], int], Call | None]
"""The call that gives one result, of the arguments and which it is."""


def _layer_norm(a: Mapping[str, object], index: int) -> Call | None:
    arguments = (a["input"], a["normalized_shape"], a["weight"], a["bias"], a["eps"])
    return ("aten.layer_norm", arguments, {}) if index == 0 else None


def _group_norm(a: Mapping[str, object], index: int) -> Call | None:
    arguments = (a["input"], a["group"], a["weight"], a["bias"], a["eps"])
    return ("aten.group_norm", arguments, {}) if index == 0 else None


def _extreme(op: str) -> Narrow:
    def narrow(a: Mapping[str, object], index: int) -> Call | None:
        return (op, (a["self"], [a["dim"]], a["keepdim"]), {}) if index == 0 else None

    return narrow


def _pool(op: str) -> Narrow:
    def narrow(a: Mapping[str, object], index: int) -> Call | None:
        return (op, tuple(a.values()), {}) if index == 0 else None

    return narrow


def _moment(op: str) -> Narrow:
    def narrow(a: Mapping[str, object], index: int) -> Call | None:
        if index == 0:
            return op, (a["self"], a["dim"]), {"correction": a["correction"], "keepdim": a["keepdim"]}
        return "aten.mean.dim", (a["self"], a["dim"], a["keepdim"]), {}

    return narrow


def _piece(a: Mapping[str, object], index: int) -> Call | None:
    x, sizes, dim = a["self"], a.get("split_sizes", a.get("split_size")), a["dim"]
    assert isinstance(dim, int)
    size = shape_of(x)[dim]
    if isinstance(sizes, int) and isinstance(size, int) and sizes > 0:
        start, end = index * sizes, min((index + 1) * sizes, size)
    elif isinstance(sizes, (list, tuple)) and all(isinstance(s, int) for s in sizes):
        end = list(accumulate(sizes))[index]
        start = end - sizes[index]
    else:
        return None
    return "aten.slice.Tensor", (x, dim, start, end), {}


def _row(a: Mapping[str, object], index: int) -> Call | None:
    return "aten.select.int", (a["self"], a["dim"], index), {}


_NARROW: dict[str, Narrow] = {
    "aten.native_layer_norm.default": _layer_norm,
    "aten.native_group_norm.default": _group_norm,
    "aten.max.dim": _extreme("aten.amax"),
    "aten.min.dim": _extreme("aten.amin"),
    "aten.max_pool2d_with_indices.default": _pool("aten.max_pool2d"),
    "aten.max_pool3d_with_indices.default": _pool("aten.max_pool3d"),
    "aten.var_mean.correction": _moment("aten.var.correction"),
    "aten.std_mean.correction": _moment("aten.std.correction"),
    "aten.split.Tensor": _piece,
    "aten.split_with_sizes.default": _piece,
    "aten.unbind.int": _row,
}


@register_pass
class EliminateDeadOutputs(Pass):
    """max(x, dim)[0]  ->  amax(x, [dim]), split(x, 4)[1]  ->  slice(x, 4, 8), where nothing reads the other results.

    Before: `%a = split(%x, 4, 1)`, `%b = getitem(%a, 1)`. After: `%b = slice(%x, 1, 4, 8)`.

    Layer and group norms with statistics, the largest and smallest along an axis with their places, pools with
    theirs, variances with means, pieces of a split, rows. It does not fire if two results are read, or if the
    one is not the kind that has an op of its own (places, statistics), or if sizes of a split vary.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: x.max(1)[0] + x.min(1)[0],
        lambda x: x.split(1, 0)[0].relu() + torch.var_mean(x, 0, correction=1)[1],
        lambda x: x.unbind(0)[0].relu(),
    )

    def run(self, rewriter: Rewriter) -> None:
        """One sweep."""
        for node in rewriter.nodes():
            narrow = _NARROW.get(op_key(node.target))
            read = {user.args[1] for user in node.users if user.target is operator.getitem}
            if narrow is None or len(read) != 1:
                continue
            (index,) = read
            assert isinstance(index, int)
            found = narrow(bind(node), index)
            if found is None:
                continue
            op, args, kwargs = found
            getitems = list(node.users)
            with rewriter.rewrite("eliminate-dead-outputs", getitems[0]):
                result = rewriter.call(op, *args, **kwargs)
                for user in getitems:
                    rewriter.replace(user, result)
