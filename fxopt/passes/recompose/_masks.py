"""The masks of attention as the one that `scaled_dot_product_attention` takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch.fx import Node

from fxopt.analysis.finite import is_finite
from fxopt.ops import bind
from fxopt.ops.sizes import same_size, shape_of
from fxopt.passes._moves import stated_shape
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._scores import Mask
from fxopt.passes.recompose._seen import leave_a_key, leaves_a_key
from fxopt.rewriting import Rewriter

__all__ = ["Masking", "attention_mask", "is_causal"]

aten = torch.ops.aten
_LOST = -1e30
"""Beside this number and those below it no score counts, in float64 either: what is added to one is added to it alone."""
_COMPLEMENTS = {"eq": aten.ne.Scalar, "ne": aten.eq.Scalar}


@dataclass(frozen=True)
class Masking:
    """Masks of scores, and the scores in the shape that the last of them has."""

    level: Node
    masks: Sequence[Mask]

    def objection(self, rewriter: Rewriter, query: Node) -> str:
        """Why they are no mask of attention; empty if they are."""
        for mask in self.masks:
            dtype, name = mask.node.meta["val"].dtype, mask.node.name
            if dtype != (query.meta["val"].dtype if mask.kind == "add" else torch.bool):
                return f"the mask {name} is {str(dtype).removeprefix('torch.')}"
            if not self._broadcasts(mask) and not self._is_by_scores(rewriter, mask):
                return f"the mask {name} does not broadcast to the scores as they are masked later"
            if mask.low == -math.inf and not leaves_a_key(rewriter, mask):
                return f"the mask {name} may hide all keys of a query: softmax makes NaN of them, attention 0"
        if not leave_a_key(rewriter, [m for m in self.masks if m.low == -math.inf]):
            return "the masks may together hide all keys of a query: softmax makes NaN of them, attention 0"
        if self.hides_all(rewriter) and query.meta["val"].dtype is torch.float16:
            return "a query may see no key, and no number of float16 is so far below that the scores would not count"
        return self._several(rewriter)

    def hides_all(self, rewriter: Rewriter) -> bool:
        """Whether a number may be the score of all keys of a query."""
        return any(m.low != -math.inf and not leaves_a_key(rewriter, m) for m in self.masks)

    def _several(self, rewriter: Rewriter) -> str:
        """Why rows of which all is hidden would not be seen alike; empty if they are."""
        fills = [m.low for m in self.masks if m.kind != "add"]
        if all(map(math.isinf, fills)):
            return ""
        if len({*fills}) > 1:
            return "scores are hidden by several numbers, of which the largest are seen where there are no others"
        if not all(is_finite(rewriter.program, m.node) for m in self.masks if m.kind == "add"):
            return "-inf may be added to scores, beside which those are seen that a number hides"
        if self.added_later() and (len(fills) > 1 or fills[0] > _LOST or self.hides_all(rewriter)):
            return "something is added to scores that are hidden by a number, of which it makes several"
        return ""

    def added_later(self) -> list[Mask]:
        """What is added to scores of which some are hidden by a finite number."""
        first = next((i for i, m in enumerate(self.masks) if math.isfinite(m.low)), len(self.masks))
        return [m for m in self.masks[first:] if m.kind == "add"]

    def _broadcasts(self, mask: Mask) -> bool:
        """Whether a mask of scores in another shape masks those of the last just so."""
        own, last = shape_of(mask.at)[::-1], shape_of(self.level)[::-1]
        same = 0
        while same < min(len(own), len(last)) and same_size(own[same], last[same]):
            same += 1
        return all(isinstance(d, int) and d == 1 for d in shape_of(mask.node)[::-1][same:])

    def _is_by_scores(self, rewriter: Rewriter, mask: Mask) -> bool:
        """Whether what is added has all leading axes of the scores, which are in another shape when the last is added."""
        own, scores = shape_of(mask.node), shape_of(mask.at)
        weight = rewriter.value(mask.node)
        if (
            mask.kind != "add"
            or len(own) != len(scores)
            or not (weight is None or bool(weight.isfinite().all()))
        ):
            return False
        return all(map(same_size, own[:-2], scores[:-2]))

    def at_level(self, rewriter: Rewriter, mask: Mask, node: Node) -> Node:
        """A mask in the shape in which it masks the scores as they are masked last. Inside a rewrite."""
        if self._broadcasts(mask):
            return node
        sizes = stated_shape(self.level)
        assert sizes is not None
        rows = [
            1 if isinstance(n, int) and n == 1 else size
            for n, size in zip(shape_of(node)[-2:], sizes[-2:], strict=True)
        ]
        return rewriter.call(aten.reshape.default, node, [*sizes[:-2], *rows])


def attention_mask(rewriter: Rewriter, masking: Masking, dtype: torch.dtype) -> Node | None:
    """One mask for all, inside a rewrite: constants of bool as they are, else a finite number that is added.

    A target need not look for queries without a key where no score is -inf. Beside the number that is added scores
    are lost in rounding, so that a query without a key sees all of them alike, as it did where a number was filled in.
    """
    later = masking.added_later()
    seen = [_kept(rewriter, m) for m in masking.masks if m.kind != "add"]
    added = [
        masking.at_level(rewriter, m, m.node) for m in masking.masks if m.kind == "add" and m not in later
    ]
    keep = reduce(lambda a, b: rewriter.call("aten.bitwise_and.Tensor", a, b), seen) if seen else None
    merged = reduce(lambda a, b: rewriter.call("aten.add.Tensor", a, b), added) if added else None
    low, apart = _low(dtype), masking.hides_all(rewriter)
    if later:
        low, apart = min(m.low for m in masking.masks if m.kind != "add"), True
    if merged is not None and rewriter.value(merged) is None and not is_finite(rewriter.program, merged):
        merged = rewriter.call(aten.clamp.default, merged, low, -low)
    if merged is not None and keep is not None:
        merged = rewriter.call(aten.where.ScalarOther, keep, merged, low)
    elif keep is not None and (apart or rewriter.value(keep) is None):
        merged = rewriter.call(aten.where.Scalar, keep, 0.0, low)
        merged = rewriter.call("aten.to.dtype", merged, dtype)
    mask = merged if merged is not None else keep
    for extra in later:
        mask = rewriter.call("aten.add.Tensor", mask, masking.at_level(rewriter, extra, extra.node))
    return None if mask is None else _of_rank(rewriter, mask, len(shape_of(masking.level)))


def _low(dtype: torch.dtype) -> float:
    """What hides a key where it is added: far from overflow, and from all scores."""
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min) / 2


def _kept(rewriter: Rewriter, mask: Mask) -> Node:
    return mask.node if mask.kind == "keep" else _complement(rewriter, mask.node)


def _complement(rewriter: Rewriter, hidden: Node) -> Node:
    """True where a mask is False."""
    if hidden.target in (aten.bitwise_not.default, aten.logical_not.default):
        keep = hidden.args[0]
        if isinstance(keep, Node) and keep.meta["val"].dtype is torch.bool:
            return keep
    name = aten_name(hidden)
    if name in _COMPLEMENTS and not isinstance(bind(hidden)["other"], Node):
        return rewriter.call(_COMPLEMENTS[name], *hidden.args)
    return rewriter.call(aten.bitwise_not.default, hidden)


def _of_rank(rewriter: Rewriter, mask: Node, rank: int) -> Node:
    """Kernels take masks of the scores' rank."""
    for _ in range(rank - len(shape_of(mask))):
        mask = rewriter.call(aten.unsqueeze.default, mask, 0)
    return mask


def is_causal(rewriter: Rewriter, node: Node) -> bool:
    """Whether the mask of an attention is a constant that hides what is later, and nothing else."""
    bound = bind(node)
    mask = rewriter.value(bound["attn_mask"])
    if mask is None or bound["is_causal"] or mask.numel() != math.prod(mask.shape[-2:]):
        return False
    queries, keys = mask.shape[-2:]
    query, key = bound["query"], bound["key"]
    assert isinstance(query, Node) and isinstance(key, Node)
    square = same_size(queries, shape_of(query)[-2]) and same_size(keys, shape_of(key)[-2])
    seen, matrix = torch.ones(queries, keys, dtype=torch.bool).tril(), mask.reshape(queries, keys)
    if mask.dtype is not torch.bool:
        hidden = matrix <= _low(mask.dtype)
        return bool(
            square and queries == keys and torch.equal(matrix == 0, seen) and torch.equal(hidden, ~seen)
        )
    return bool(square and queries == keys and torch.equal(matrix, seen))
