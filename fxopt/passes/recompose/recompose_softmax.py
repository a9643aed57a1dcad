"""Makes one call of a softmax that is written out."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._norms import other_user
from fxopt.passes.recompose._polynomial import Reader, close
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["RecomposeSoftmax"]

_RULE = "recompose-softmax"


def _shifted(x: torch.Tensor) -> torch.Tensor:
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def _plain(x: torch.Tensor) -> torch.Tensor:
    e = torch.exp(x)
    return e / e.sum(1, keepdim=True)


def _other_axis(x: torch.Tensor) -> torch.Tensor:
    e = torch.exp(x - x.amax(0, keepdim=True))
    return e / e.sum(-1, keepdim=True)


@register_pass
class RecomposeSoftmax(Pass):
    """exp(x - max(x)) / sum(exp(x - max(x)))  ->  softmax(x).

    Before: `%m = amax(%x, [-1], True)`, `%a = sub(%x, %m)`, `%e = exp(%a)`, `%s = sum(%e, [-1], True)`,
    `%y = div(%e, %s)`. After: `%y = softmax(%x, -1)`.

    It does not fire unless the largest value along the axis of the sum is subtracted (`exp` alone overflows where
    softmax does not), for a sum over several axes or one that is not kept, on integers, nor if an inner
    value has another user.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_shifted, _plain, _other_axis)

    def run(self, rewriter: Rewriter) -> None:
        """In graph order."""
        for node in rewriter.nodes():
            if not node._erased and aten_name(node) == "sum":
                _recompose(rewriter, node)


def _recompose(rewriter: Rewriter, total: Node) -> None:
    bound, result = bind(total), next(iter(total.users), None)
    exp, dims = bound["self"], bound.get("dim")
    if not isinstance(exp, Node) or aten_name(exp) != "exp" or result is None:
        return
    whole = Reader(exp, total).read(result)
    if whole is None or not close(whole, {(1, -1): 1.0}):
        return
    if not isinstance(dims, (list, tuple)) or len(dims) != 1 or not bound["keepdim"]:
        rewriter.refuse(result, "the sum is not over one axis that it keeps", rule=_RULE)
        return
    operand = exp.args[0]
    assert isinstance(operand, Node)
    x = _without_shift(operand, dims)
    why = "the largest value is not subtracted: exp overflows where softmax does not" if x is None else ""
    if x is not None and x.meta["val"].dtype != result.meta["val"].dtype:
        why = "the quotient is in another dtype"
    why = why or other_user({exp, total}, result)
    if why or x is None:
        rewriter.refuse(result, why, rule=_RULE)
        return
    with rewriter.rewrite(_RULE, result):
        rewriter.replace(result, rewriter.call("aten.softmax.int", x, dims[0]))


def _without_shift(operand: Node, dims: list[int] | tuple[int, ...]) -> Node | None:
    """What the largest value along the axis is subtracted from; None if it is not."""
    bound = bind(operand)
    x, top = bound.get("self"), bound.get("other")
    if aten_name(operand) != "sub" or bound["alpha"] != 1 or not isinstance(top, Node):
        return None
    if aten_name(top) == "getitem" and top.args[1] == 0 and isinstance(top.args[0], Node):
        top = top.args[0]
    given = bind(top)
    along = given.get("dim") if aten_name(top) == "amax" else [given.get("dim")]
    same = given.get("self") is x and along == list(dims) and given.get("keepdim") is True
    return x if same and aten_name(top) in ("amax", "max") and isinstance(x, Node) else None
