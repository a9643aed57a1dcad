"""Projects an embedding's table once, not each row that is looked up."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from fxopt.pipeline import RewritePass, register_pass
from fxopt.rewriting import Const, Match, Refused, Rule

__all__ = ["FoldEmbeddingProjection"]

Tensor = torch.Tensor


def _pattern(ids: Tensor, table: Const, w: Const, b: Const | None) -> Tensor:
    return F.linear(F.embedding(ids, table), w, b)


def _replacement(ids: Tensor, table: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return F.embedding(ids, F.linear(table, w, b))


def _guard(match: Match) -> Refused | None:
    table, w = match["table"], match["w"]
    b = match["b"]
    if b is not None and b.dim() > 1:
        return match.refuse("the bias has rows of its own, added by where a token stands")
    users = max(len(match.node(name).users) for name in ("table", "w"))
    if users > 1:
        return match.refuse("the table or the weight has another user, for which it stays")
    projected, before = table.shape[0] * w.shape[0], table.numel() + w.numel()
    if projected > before:
        return match.refuse(f"the projected table has {projected} elements, the two have {before}")
    return None


@register_pass
class FoldEmbeddingProjection(RewritePass):
    """linear(embedding(ids, table), w, b)  ->  embedding(ids, linear(table, w, b)), where that is no larger.

    Before: `%e = embedding(%ids, table: [1000, 256])`, `%y = linear(%e, w: [64, 256], b)`. After:
    `%y = embedding(%ids, folded: [1000, 64])`.

    It does not fire where the projected table has more elements than the table and the weight together, if
    one of them has another user, for which it would stay, if the looked-up rows have, or if the bias is no vector.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(_pattern, _replacement, _guard, "fold-embedding-projection", ("aten.embedding", "aten.linear")),
    )
