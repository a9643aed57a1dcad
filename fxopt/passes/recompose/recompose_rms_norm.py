"""Makes one call of an RMS norm that is written out."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._norms import Deviation, affine_of, deviation, other_user, reduced_axes
from fxopt.passes.recompose._polynomial import Reader, close
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["RecomposeRmsNorm"]

_RULE = "recompose-rms-norm"


def _weighted(x: torch.Tensor, w: Const) -> torch.Tensor:
    return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@register_pass
class RecomposeRmsNorm(Pass):
    """x * rsqrt(mean(x^2) + eps) * w  ->  rms_norm(x, w, eps).

    Before: `%a = pow(%x, 2)`, `%b = mean(%a, [-1], True)`, `%c = add(%b, 1e-06)`, `%d = rsqrt(%c)`,
    `%e = mul(%x, %d)`, `%y = mul(w, %e)`. After: `%y = rms_norm(%x, [8], w, 1e-06)`.

    The square may be `x * x`, the root `sqrt` and a quotient or a power. Without a weight of the normalised
    axes' shape the norm has none. It does not fire if the mean is not over the last axes, if epsilon is added
    after the root, or if an inner value has another user.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        _weighted,
        lambda x: x / torch.sqrt((x * x).mean(-1, True) + 1e-5),
        lambda x: x * ((x * x).mean(-1, True) + 1e-5) ** -0.5,
        lambda x: x / (torch.sqrt((x * x).mean(-1, True)) + 1e-5),
        lambda x, y: y * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-5),
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order."""
        for node in rewriter.nodes():
            root = None if node._erased else deviation(node)
            if root is not None and aten_name(root.statistic) == "mean":
                _recompose(rewriter, root)


def _recompose(rewriter: Rewriter, root: Deviation) -> None:
    square, axes = bind(root.statistic)["self"], reduced_axes(root.statistic)
    if axes is None or not isinstance(square, Node) or square.op != "call_function":
        return
    x = square.all_input_nodes[0] if square.all_input_nodes else square
    found = Reader(x).read(square)
    result = next(iter(root.node.users), None)
    whole = Reader(x, root.node).read(result)
    if found is None or not close(found, {(2,): 1.0}) or whole is None or result is None:
        return
    if not close(whole, {(1, root.power): 1.0}):
        return
    why = other_user({*root.calls, root.statistic, square}, result)
    if why:
        rewriter.refuse(result, why, rule=_RULE)
        return
    shape = list(shape_of(x)[axes[0] :])
    if not all(isinstance(d, int) for d in shape):
        rewriter.refuse(result, "the normalised axes are dynamic", rule=_RULE)
        return
    scaled = affine_of(rewriter, result, "mul", shape)
    last, weight = scaled or (result, None)
    with rewriter.rewrite(_RULE, last):
        rewriter.replace(last, rewriter.call("aten.rms_norm", x, shape, weight, root.eps))
