"""Leaves out pools that pool nothing, merges two into one, and pools before a convolution of one element."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import is_one, same_size, shape_of
from fxopt.passes._names import aten_name
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["SimplifyPooling"]

_AXES = {f"{kind}_pool{n}d": n for kind in ("max", "avg") for n in (1, 2, 3)}
_ADAPTIVE = {f"adaptive_avg_pool{n}d": n for n in (1, 2, 3)}
_POOLS = {*_AXES, *_ADAPTIVE}
_CONVS = {f"conv{n}d": n for n in (1, 2, 3)}


def _transition(x: torch.Tensor, w: Const) -> torch.Tensor:
    y = x.reshape(1, 4, -1, 1).repeat(1, 1, 2, 2)
    return F.avg_pool2d(F.conv2d(y, w.reshape(-1, 4, 1, 1)), 2)


@register_pass
class SimplifyPooling(Pass):
    """max_pool(max_pool(x, 2), 2)  ->  max_pool(x, 4), avg_pool(conv_1x1(x), 2)  ->  conv_1x1(avg_pool(x, 2)).

    Before: `%y = conv2d(%x, w: [8, 16, 1, 1], b)`, `%z = avg_pool2d(%y, [2, 2])`. After: `%y = avg_pool2d(%x, [2, 2])`,
    `%z = conv2d(%y, w, b)`, of a quarter of the products.

    A pool of one element goes, and an adaptive one to the size that is there. Two pools become one where that reads
    no more elements; of averages, where the first one's windows do not overlap. An average over the whole image is an
    adaptive one of size 1, for which targets have a kernel. The average and the convolution are exchanged where
    that costs less.

    It does not fire on dilated windows, on what `ceil_mode` adds, where a first pool's strides are beyond its windows or
    windows of one with a stride are padded again, on averages of padding or of another divisor, or if the value between
    has another user.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        _transition,
        lambda x: F.max_pool2d(F.max_pool2d(x.reshape(1, 1, 8, -1), (2, 1)), (2, 1)),
        lambda x: F.avg_pool2d(F.max_pool2d(x.reshape(1, 1, 4, -1), 1), (2, 1)),
        lambda x: F.avg_pool1d(F.avg_pool1d(x.reshape(1, 1, -1).repeat(1, 1, 4), 2), 2),
    )

    def run(self, rewriter: Rewriter) -> None:
        """Each pool in graph order, until nothing more is done to it."""
        for node in rewriter.nodes():
            pool: Node | None = node
            while pool is not None and aten_name(pool) in _POOLS:
                pool = _simplified(rewriter, pool)


def _simplified(rewriter: Rewriter, node: Node) -> Node | None:
    """The pool that is left after one step; None if there is none, or nothing was done."""
    if _without_nothing(rewriter, node):
        return None
    return _whole(rewriter, node) or _merge(rewriter, node) or _exchange(rewriter, node)


@dataclass(frozen=True)
class _Window:
    """What a pool reads, by axis."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    plain: bool
    """Neither dilated, nor of another divisor, nor with what `ceil_mode` adds."""


def _window(node: Node) -> _Window | None:
    """None if a call is no pool of windows."""
    axes = _AXES.get(aten_name(node), 0)
    if not axes:
        return None
    bound = bind(node)
    kernel = _spread(bound["kernel_size"], axes)
    plain = not bound["ceil_mode"] and bound.get("divisor_override") is None
    plain = plain and _spread(bound.get("dilation", [1]), axes) == [1] * axes
    return _Window(kernel, _spread(bound["stride"], axes) or kernel, _spread(bound["padding"], axes), plain)


def _spread(given: object, axes: int) -> list[int]:
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    return [v for v in values * (axes if len(values) == 1 else 1) if isinstance(v, int)]


def _operand(node: Node) -> Node:
    x = node.args[0]
    assert isinstance(x, Node)
    return x


def _without_nothing(rewriter: Rewriter, node: Node) -> bool:
    """Takes the operand for a pool of single elements; whether it was one."""
    window, x = _window(node), _operand(node)
    one = window is not None and window.plain and {*window.kernel, *window.stride} == {1}
    if window is None:
        one = rewriter.same_type(x.meta["val"], node.meta["val"])
    if one:
        with rewriter.rewrite("pool-of-one", node):
            rewriter.replace(node, x)
    return one


def _whole(rewriter: Rewriter, node: Node) -> Node | None:
    """Makes an average over the whole image an adaptive one."""
    window, name = _window(node), aten_name(node)
    if window is None or not name.startswith("avg") or not window.plain or any(window.padding):
        return None
    axes = len(window.kernel)
    if not all(map(same_size, shape_of(_operand(node))[-axes:], window.kernel)):
        return None
    with rewriter.rewrite("pool-of-all", node):
        made = rewriter.call(f"aten.adaptive_{name}", _operand(node), [1] * axes)
        rewriter.replace(node, made)
    return made


def _merge(rewriter: Rewriter, node: Node) -> Node | None:
    """One pool of two of a kind."""
    inner, outer = _operand(node), _window(node)
    first = _window(inner)
    if outer is None or first is None or aten_name(inner) != aten_name(node):
        return None
    merged = _merged(first, outer)
    why = _no_merge(aten_name(node), first, outer, merged) or _other_user(inner)
    if why:
        rewriter.refuse(node, why, rule="merge-pools")
        return None
    with rewriter.rewrite("merge-pools", node):
        made = rewriter.call(node.target, _operand(inner), merged.kernel, merged.stride, merged.padding)
        rewriter.replace(node, made)
    return made


def _merged(first: _Window, outer: _Window) -> _Window:
    """The window of the two on what the first reads."""
    each = list(zip(first.kernel, first.stride, strict=True))
    kernel = [k + (o - 1) * s for (k, s), o in zip(each, outer.kernel, strict=True)]
    stride = [s * o for (_, s), o in zip(each, outer.stride, strict=True)]
    padding = [
        p + o for p, o in zip(first.padding, outer.padding, strict=True)
    ]  # the first's strides are 1 there
    return _Window(kernel, stride, padding, plain=first.plain and outer.plain)


def _no_merge(name: str, first: _Window, outer: _Window, merged: _Window) -> str:
    """Why two pools do not become one; empty if they may."""
    if not merged.plain:
        return "the windows are dilated, of another divisor, or rounded up"
    if any(s > k for s, k in zip(first.stride, first.kernel, strict=True)):
        return "one window would read elements that lie between those of the first"
    if any(p and s > 1 for p, s in zip(outer.padding, first.stride, strict=True)):
        return "what the first leaves out at the end the second's padding would read"
    if any(2 * p > k for p, k in zip(merged.padding, merged.kernel, strict=True)):
        return "the padding would be more than half of the window"
    if name.startswith("avg") and (first.stride != first.kernel or any(merged.padding)):
        return "the windows of the averages overlap, or are padded"
    apart = math.prod(first.kernel) * math.prod(outer.stride) + math.prod(outer.kernel)
    return "one window would read more elements than the two" if math.prod(merged.kernel) > apart else ""


def _other_user(node: Node) -> str:
    return f"{node.name} has another user" if len(node.users) > 1 else ""


def _exchange(rewriter: Rewriter, node: Node) -> Node | None:
    """Averages before a convolution of one element."""
    conv = _operand(node)
    axes = _CONVS.get(aten_name(conv), 0)
    shares = _shares(node)
    if not axes or shares is None or len(shape_of(conv)) != axes + 2 or not _is_pointwise(conv, axes):
        return None
    weight, x = bind(conv)["weight"], _operand(conv)
    outputs, inputs = shape_of(weight)[0], shape_of(x)[1]
    window, stride = shares
    if not isinstance(outputs, int) or not isinstance(inputs, int):
        return None
    saved = (stride - 1) * math.prod(d for d in shape_of(weight) if isinstance(d, int))
    why = "" if saved > window * (inputs - outputs) else "it costs no less to pool first"
    why = why or _other_user(conv)
    if why:
        rewriter.refuse(node, why, rule="pool-first")
        return None
    with rewriter.rewrite("pool-first", node):
        pooled = rewriter.call(node.target, x, *node.args[1:], **node.kwargs)
        rewriter.replace(node, rewriter.call(conv.target, pooled, *conv.args[1:], **conv.kwargs))
    return pooled


def _shares(node: Node) -> tuple[int, int] | None:
    """Elements that an average is of and that there are for each; None if it is none whose shares add up to one."""
    window = _window(node)
    if window is None:
        axes = _ADAPTIVE[aten_name(node)]
        before, after = (shape_of(n)[-axes:] for n in (_operand(node), node))
        sizes = [d for d in before if isinstance(d, int)]
        one = all(map(is_one, after)) and len(sizes) == axes
        return (math.prod(sizes), math.prod(sizes)) if one else None
    whole = aten_name(node).startswith("avg") and window.plain and not any(window.padding)
    return (math.prod(window.kernel), math.prod(window.stride)) if whole else None


def _is_pointwise(conv: Node, axes: int) -> bool:
    """Whether a convolution reads each element alone."""
    bound = bind(conv)
    return (
        all(map(is_one, shape_of(bound["weight"])[2:]))
        and bound["stride"] == [1] * axes
        and bound["padding"] == [0] * axes
    )
