"""Leaves out choices that are made already, and masks that hide nothing."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.passes._uniform import uniform_number
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["SimplifyWhereAndMasks"]


def _attends(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool)
    return F.scaled_dot_product_attention(q, k, v, mask)


@register_pass
class SimplifyWhereAndMasks(Pass):
    """where(~c, a, b)  ->  where(c, b, a), where(c, where(c, a, b), d)  ->  where(c, a, d), where(True, a, b)  ->  a.

    Before: `%a = where(%c, %x, %y)`, `%b = where(%c, %a, %z)`. After: `%b = where(%c, %x, %z)`.

    A mask that hides nothing goes, of `masked_fill` and of attention: all False or all True, or zeros that are
    added. Two fills by one mask are the last one. All but attention's keep every bit.

    It does not fire on conditions that are no single value, on choices between other shapes or dtypes than the
    result's, or if the two conditions are not the same value.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x, y: torch.where(x > 0, torch.where(x > 0, x, y), y + 1),
        lambda x, y: torch.where((x > 0).logical_not(), x, y),
        lambda x: x.masked_fill(x > 1, 0.0).masked_fill(x > 1, 1.0),
        _attends,
    )

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order; conditions that are equal are one value after equal calls are merged."""
        for node in rewriter.nodes():
            simplify = _BY_OP.get(aten_name(node))
            if simplify is not None:
                simplify(rewriter, node)


def _where(rewriter: Rewriter, node: Node) -> None:
    given = bind(node)
    if not {"condition", "self", "other"} <= given.keys():
        return
    condition, chosen, other = given["condition"], given["self"], given["other"]
    number = uniform_number(rewriter, condition, weights=True)
    if number is not None:
        branch = chosen if number else other
        if isinstance(branch, Node) and rewriter.same_type(branch.meta["val"], node.meta["val"]):
            with rewriter.rewrite("where-of-constant", node):
                rewriter.replace(node, branch)
        return
    made = (condition, chosen, other)
    if isinstance(condition, Node) and aten_name(condition) == "logical_not":
        made = (condition.args[0], other, chosen)
        if made[0].meta["val"].dtype != torch.bool:  # type: ignore[union-attr]
            return
    else:
        made = (condition, _branch(chosen, condition, "self"), _branch(other, condition, "other"))
    if made != (condition, chosen, other):
        with rewriter.rewrite("where-of-where", node):
            result = rewriter.call("aten.where", *made)
            if rewriter.same_type(result.meta["val"], node.meta["val"]):
                rewriter.replace(node, result)


def _branch(value: object, condition: object, name: str) -> object:
    """What a branch gives where it is taken, if it asks the same condition again."""
    given = bind(value) if isinstance(value, Node) else {}
    return given[name] if given.get("condition") is condition and isinstance(given.get(name), Node) else value


def _masked_fill(rewriter: Rewriter, node: Node) -> None:
    given = bind(node)
    x, mask = given["self"], given["mask"]
    assert isinstance(x, Node)
    if uniform_number(rewriter, mask, weights=True) == 0 and rewriter.same_type(
        x.meta["val"], node.meta["val"]
    ):
        with rewriter.rewrite("mask-of-nothing", node):
            rewriter.replace(node, x)
    elif aten_name(x) == "masked_fill" and bind(x)["mask"] is mask:
        with rewriter.rewrite("fill-twice", node):
            rewriter.replace(node, rewriter.call(node.target, x.args[0], mask, given["value"]))


def _attention(rewriter: Rewriter, node: Node) -> None:
    given = bind(node)
    mask = given["attn_mask"]
    if not isinstance(mask, Node):
        return
    number = uniform_number(rewriter, mask, weights=True)
    if number == (1 if mask.meta["val"].dtype == torch.bool else 0) and number is not None:
        with rewriter.rewrite("attend-to-all", node):
            result = rewriter.call(node.target, **{**given, "attn_mask": None})
            if rewriter.same_type(result.meta["val"], node.meta["val"]):
                rewriter.replace(node, result)


_BY_OP: dict[str, Callable[[Rewriter, Node], None]] = {
    "where": _where,
    "masked_fill": _masked_fill,
    "scaled_dot_product_attention": _attention,
}
