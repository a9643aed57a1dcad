"""Makes one call of a vector's norm that is written out, as `normalize` computes it."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._norms import other_user
from fxopt.passes.recompose._polynomial import Reader, close
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["RecomposeNormalize"]

_RULE = "recompose-normalize"


@register_pass
class RecomposeNormalize(Pass):
    """x / clamp(sqrt(sum(x^2)), eps)  ->  x / clamp(vector_norm(x), eps).

    Before: `%a = mul(%x, %x)`, `%b = sum(%a, [-1], True)`, `%c = sqrt(%b)`. After:
    `%c = linalg_vector_norm(%x, 2, [-1], True)`, one kernel on every target. What is divided by it stays: no target
    has a call for the quotient with its bound.

    The square may be a power, the root one of 0.5. It does not fire on sums in another dtype, on sums that may be of
    one element (of which the norm is the magnitude, where its square overflows), or if the square or the sum has
    another user.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: x / torch.sqrt((x * x).sum(-1, keepdim=True)).clamp_min(1e-6),
        lambda x: x.pow(2).sum() ** 0.5,
        lambda x: x.pow(3).sum(0).sqrt(),
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order."""
        for node in rewriter.nodes():
            name = "" if node._erased else aten_name(node)
            root = name == "sqrt" or (name == "pow" and bind(node)["exponent"] == 0.5)
            total = node.args[0] if root else None
            if isinstance(total, Node) and aten_name(total) == "sum":
                _recompose(rewriter, node, total)


def _recompose(rewriter: Rewriter, root: Node, total: Node) -> None:
    bound = bind(total)
    square = bound["self"]
    assert isinstance(square, Node)
    x = next((n for n in square.all_input_nodes if isinstance(n.meta["val"], torch.Tensor)), square)
    found = Reader(x).read(square) if x is not square and x.meta["val"].is_floating_point() else None
    if found is None or not close(found, {(2,): 1.0}):
        return
    why = other_user({total, square}, root)
    why = why or ("the sum is in another dtype" if bound["dtype"] is not None else "")
    axes = bound.get("dim") or range(len(shape_of(x)))
    assert isinstance(axes, Sequence)
    if not any(isinstance(size := shape_of(x)[a], int) and size != 1 for a in axes):
        why = why or "the sum may be of one element"
    if why:
        rewriter.refuse(root, why, rule=_RULE)
        return
    with rewriter.rewrite(_RULE, root):
        norm = rewriter.call(
            "aten.linalg_vector_norm", x, 2, bound.get("dim") or None, bound.get("keepdim", False)
        )
        rewriter.replace(root, norm)
