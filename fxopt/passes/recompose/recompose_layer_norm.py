"""Makes one call of a layer norm that is written out."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._norms import Deviation, affine_of, deviation, other_user, reduced_axes
from fxopt.passes.recompose._polynomial import Polynomial, Reader, close
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["RecomposeLayerNorm"]

_RULE = "recompose-layer-norm"


def _affine(x: torch.Tensor, w: Const, b: Const) -> torch.Tensor:
    d = x - x.mean(-1, keepdim=True)
    return d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5) * w + b


def _of_var(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, True)) * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-6)


@register_pass
class RecomposeLayerNorm(Pass):
    """(x - mean(x)) / sqrt(var(x) + eps) * w + b  ->  layer_norm(x, w, b, eps).

    Before: `%m = mean(%x, [-1], True)`, `%d = sub(%x, %m)`, `%s = pow(%d, 2)`, `%v = mean(%s, [-1], True)`,
    `%e = add(%v, 1e-05)`, `%r = sqrt(%e)`, `%n = div(%d, %r)`, `%a = mul(%n, w)`, `%y = add(%a, b)`. After:
    `%y = layer_norm(%x, [8], w, b, 1e-05)`.

    The variance may be the mean of squares or `var` of no correction, the root `rsqrt` or a power, weight and
    bias may be absent. It does not fire if a statistic is not over the last axes, if the variance is unbiased,
    if epsilon is added after the root, or if an inner value has another user.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        _affine,
        _of_var,
        lambda x, y: (y - x.mean(-1, True)) * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-6),
        lambda x: (x - x.mean(-1, True)) / (x.std(-1, unbiased=False, keepdim=True) + 1e-6),
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order."""
        for node in rewriter.nodes():
            root = None if node._erased else deviation(node)
            if root is not None:
                _recompose(rewriter, root)


def _recompose(rewriter: Rewriter, root: Deviation) -> None:
    result, axes = next(iter(root.node.users), None), reduced_axes(root.statistic)
    mean = _mean_of(result, axes) if result is not None and axes is not None else None
    if result is None or mean is None or axes is None:
        return
    x = mean.args[0]
    assert isinstance(x, Node)
    whole = Reader(x, mean, root.node).read(result)
    wanted: Polynomial = {(1, 0, root.power): 1.0, (0, 1, root.power): -1.0}
    if whole is None or not close(whole, wanted) or not _is_variance(root.statistic, x, mean):
        return
    inner = {mean, *root.calls, root.statistic, *Reader(x, mean, root.node).inner(result)}
    square = bind(root.statistic)["self"]
    if isinstance(square, Node):
        inner |= Reader(x, mean).inner(square) | {square}
    why = other_user(inner - {x}, result)
    shape = list(shape_of(x)[axes[0] :])
    if not why and not all(isinstance(d, int) for d in shape):
        why = "the normalised axes are dynamic"
    if why:
        rewriter.refuse(result, why, rule=_RULE)
        return
    _rewrite(rewriter, result, x, shape, root.eps)


def _rewrite(rewriter: Rewriter, result: Node, x: Node, shape: Sequence[object], eps: float) -> None:
    """With the weight and the bias that follow."""
    last, weight = affine_of(rewriter, result, "mul", shape) or (result, None)
    last, bias = affine_of(rewriter, last, "add", shape) or (last, None)
    with rewriter.rewrite(_RULE, last):
        rewriter.replace(last, rewriter.call("aten.layer_norm", x, [*shape], weight, bias, eps))


def _mean_of(result: Node, axes: list[int]) -> Node | None:
    """The mean that is subtracted from what is normalised, near the result."""
    near = [result, *result.all_input_nodes]
    near += [n for m in near[1:] for n in m.all_input_nodes]
    for node in near:
        if aten_name(node) == "mean" and reduced_axes(node) == axes:
            square = node.args[0]
            if isinstance(square, Node) and len(square.users) > 1:
                return node
    return None


def _is_variance(statistic: Node, x: Node, mean: Node) -> bool:
    bound = bind(statistic)
    if aten_name(statistic) == "var":
        plain = bound.get("unbiased") is False or bound.get("correction") == 0
        return bound["self"] is x and plain
    found = Reader(x, mean).read(bound["self"])
    return found is not None and close(found, {(2, 0): 1.0, (1, 1): -2.0, (0, 2): 1.0})
