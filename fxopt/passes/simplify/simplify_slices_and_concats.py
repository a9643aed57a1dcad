"""Undoes what splits, slices and concatenations do to one another."""

import operator
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes._names import aten_name
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["SimplifySlicesAndConcats"]

_SLICE = torch.ops.aten.slice.Tensor


def _gathers(x: torch.Tensor, i: Const) -> torch.Tensor:
    rows = (i.abs() * 0).to(torch.int64).reshape(-1)
    return x.index_select(0, rows).index_select(0, rows)


@dataclass(frozen=True)
class _Span:
    """The elements from `start` to before `end` of a dimension of fixed size."""

    x: Node
    dim: int
    start: int
    end: int

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.end == shape_of(self.x)[self.dim]


@register_pass
class SimplifySlicesAndConcats(Pass):
    """cat(split(x))  ->  x, slice(cat(a, b))  ->  a, cat(cat(a, b), c)  ->  cat(a, b, c), slice(slice(x))  ->  slice(x).

    Before: `%a, %b = split(%x, 4, 1)`, `%c = cat([%a, %b], 1)`, `%d = slice(%c, 1, 2, 8)`,
    `%e = slice(%d, 1, 0, 4)`. After: `%e = slice(%x, 1, 2, 6)`.

    Neighbouring pieces that are joined again are one slice, or where they began; a slice, or a piece of a split,
    that lies in one operand of a join is cut from that; two selections by constant places are one. It does not
    fire along dimensions whose sizes vary, where an inner join has another user, on pieces out of order, or on a
    slice over two operands.
    """

    contract = Contract.EXACT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: torch.cat(x.split(1, 0), 0).relu(),
        lambda x, y: torch.cat([torch.cat([x, y], 1), x], 1),
        lambda x, y: torch.cat([x.relu(), y], 1)[:, : x.shape[1]] + x[:, 1:][:, :1],
        _gathers,
    )

    def run(self, rewriter: Rewriter) -> None:
        """Joins first, the outermost before those in it; then cuts, from the inside."""
        for node in reversed(rewriter.nodes()):
            if not node._erased and aten_name(node) == "cat":
                _flatten(rewriter, node)
        for node in rewriter.nodes():
            if not node._erased and aten_name(node) == "cat":
                _merge_pieces(rewriter, node)
        offsets: dict[Node, list[int] | None] = {}
        for node in rewriter.nodes():
            if not node._erased:
                _cut(rewriter, node, offsets)


def _operands(node: Node) -> list[Node]:
    """What a join joins."""
    tensors = bind(node)["tensors"]
    assert isinstance(tensors, (list, tuple))
    return [t for t in tensors if isinstance(t, Node)]


def _flatten(rewriter: Rewriter, node: Node) -> None:
    """One join of what joins along the same dimension join, if nothing else reads those."""
    dim, flat, todo = bind(node)["dim"], list[Node](), list(reversed(_operands(node)))
    while todo:
        operand = todo.pop()
        inner = aten_name(operand) == "cat" and bind(operand)["dim"] == dim
        if inner and len(operand.users) == 1 and operand.meta["val"].dtype == node.meta["val"].dtype:
            todo += reversed(_operands(operand))
        else:
            flat.append(operand)
    if flat != _operands(node):
        with rewriter.rewrite("flatten-cat", node):
            rewriter.replace(node, rewriter.call(node.target, flat, dim))


def _merge_pieces(rewriter: Rewriter, node: Node) -> None:
    """One piece of what are neighbours."""
    dim, operands = bind(node)["dim"], _operands(node)
    merged: list[_Span | Node] = []
    for operand in operands:
        span, last = _span(operand), merged[-1] if merged else None
        if span is None or span.dim != dim:
            merged.append(operand)
        elif isinstance(last, _Span) and last.x is span.x and last.end == span.start:
            merged[-1] = _Span(span.x, span.dim, last.start, span.end)
        else:
            merged.append(span)
    if len(merged) == len(operands):
        return
    with rewriter.rewrite("join-pieces", node):
        made = [_call(rewriter, m) if isinstance(m, _Span) else m for m in merged]
        result = made[0] if len(made) == 1 else rewriter.call(node.target, made, dim)
        rewriter.replace(node, result)


def _call(rewriter: Rewriter, span: _Span) -> Node:
    return span.x if span.whole else rewriter.call(_SLICE, span.x, span.dim, span.start, span.end)


def _span(node: Node) -> _Span | None:
    """What a slice without steps, or a piece of a split, is of what; None for other calls, and for sizes that vary."""
    if node.target is operator.getitem:
        source, index = node.args
        assert isinstance(source, Node) and isinstance(index, int)
        return _piece(source, index)
    if node.target is not _SLICE:
        return None
    given = bind(node)
    x, dim = given["self"], given["dim"]
    assert isinstance(x, Node) and isinstance(dim, int)
    size, cut = shape_of(x)[dim], shape_of(node)[dim]
    start = 0 if given["start"] is None else given["start"]
    if (
        given["step"] != 1
        or not isinstance(size, int)
        or not isinstance(cut, int)
        or not isinstance(start, int)
    ):
        return None
    first = max(start + size, 0) if start < 0 else min(start, size)
    return _Span(x, dim, first, first + cut)


def _piece(split: Node, index: int) -> _Span | None:
    if aten_name(split) not in ("split", "split_with_sizes", "chunk"):
        return None
    given = bind(split)
    x, dim = given["self"], given["dim"]
    assert isinstance(x, Node) and isinstance(dim, int)
    sizes = [shape_of(piece)[dim] for piece in split.meta["val"]]
    before, own = sizes[:index], sizes[index]
    if not isinstance(own, int) or not isinstance(shape_of(x)[dim], int):
        return None
    start = sum(s for s in before if isinstance(s, int))
    return _Span(x, dim, start, start + own)


def _cut(rewriter: Rewriter, node: Node, offsets: dict[Node, list[int] | None]) -> None:
    """A cut of a join is one of its operand, a cut of a cut is one, and so are two selections."""
    if aten_name(node) == "index_select":
        _select_once(rewriter, node)
        return
    span = _span(node)
    if span is None:
        return
    inner, found = _span(span.x), None
    if inner is not None and inner.dim == span.dim:
        found = _Span(inner.x, span.dim, inner.start + span.start, inner.start + span.end)
    elif aten_name(span.x) == "cat":
        found = _in_operand(span, offsets)
    if found is None:
        return
    if found.x.meta["val"].dtype != node.meta["val"].dtype:
        return  # the join promotes
    with rewriter.rewrite("slice-of-source", node):
        rewriter.replace(node, _call(rewriter, found))


def _in_operand(span: _Span, offsets: dict[Node, list[int] | None]) -> _Span | None:
    """The cut of the one operand of a join in which it lies."""
    if bind(span.x)["dim"] != span.dim or span.start == span.end:
        return None
    operands = _operands(span.x)
    if span.x not in offsets:
        sizes = [shape_of(o)[span.dim] for o in operands if len(shape_of(o)) > span.dim]
        known = [s for s in sizes if isinstance(s, int)]
        offsets[span.x] = [0, *accumulate(known)] if len(known) == len(operands) else None
    ends = offsets[span.x]
    if ends is None:
        return None
    place = bisect_right(ends, span.start) - 1
    if span.end > ends[place + 1]:
        return None
    return _Span(operands[place], span.dim, span.start - ends[place], span.end - ends[place])


def _select_once(rewriter: Rewriter, node: Node) -> None:
    given = bind(node)
    inner = given["self"]
    assert isinstance(inner, Node)
    if aten_name(inner) != "index_select" or bind(inner)["dim"] != given["dim"]:
        return
    first, second = rewriter.value(bind(inner)["index"]), rewriter.value(given["index"])
    if first is None or second is None or first.dim() != 1:
        return
    with rewriter.rewrite("select-once", node):
        places = rewriter.constant(first[second])
        rewriter.replace(node, rewriter.call(node.target, inner.args[0], given["dim"], places))
