"""Makes one call of a group norm or an instance norm that is written out."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import Size, same_size, shape_of
from fxopt.passes._affine import affine_of
from fxopt.passes._moves import is_reshape, operand
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._norms import other_user
from fxopt.passes.recompose._scores import same_sizes
from fxopt.passes.recompose._standardised import Standardised, standardised
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import trained_as
from fxopt.rewriting import Const, Rewriter

__all__ = ["RecomposeGroupNorm"]

_RULE = "recompose-group-norm"


def _written_out(x: torch.Tensor, w: Const, b: Const) -> torch.Tensor:
    y = x.reshape(-1, 2, 8)
    y = (y - y.mean(-1, True)) / torch.sqrt(y.var(-1, unbiased=False, keepdim=True) + 1e-5)
    return y.reshape(-1, 4, 4) * w[:, None] + b[:, None]


@register_pass
class RecomposeGroupNorm(Pass):
    """reshape(layer_norm(reshape(x, [n, groups, ...]))) * w + b  ->  group_norm(x, groups, w, b).

    Before, with x of `[batch, 4, 8, 8]`: `%a = reshape(%x, [-1, 2, 128])`, `%b = layer_norm(%a, [128])`,
    `%c = reshape(%b, [-1, 4, 8, 8])`, `%d = mul(%c, w: [4, 1, 1])`, `%y = add(%d, b: [4, 1, 1])`. After:
    `%y = group_norm(%x, 2, w, b)`.

    The layer norm may be written out; without reshapes, over all axes but batch and channels, it is an instance
    norm, where those axes are dynamic or a scale or shift by channel follows: else a layer norm is as good. A scale and a
    shift by channel, or one number, that follow a group norm or an instance norm become its weight and bias.

    It does not fire if the value between has another user, if the groups are dynamic or not of whole channels, if
    the last reshape does not give the first one's shape back, or if the norm has weights of the elements.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_written_out,)

    def run(self, rewriter: Rewriter) -> None:
        """In graph order; then what is multiplied and added."""
        for node in rewriter.nodes():
            found = None if node._erased else _normalised(node) or standardised(node)
            if found is not None:
                _group(rewriter, found) if is_reshape(found.x) else _instance(rewriter, found)
        for node in rewriter.nodes():
            norm: Node | None = node
            while norm is not None and aten_name(norm) in ("group_norm", "instance_norm"):
                norm = _affine(rewriter, norm)


def _normalised(node: Node) -> Standardised | None:
    """A layer norm without weights."""
    if aten_name(node) != "layer_norm":
        return None
    bound = bind(node)
    x, shape, eps = bound["input"], bound["normalized_shape"], bound["eps"]
    if bound["weight"] is not None or bound["bias"] is not None:
        return None
    assert isinstance(x, Node) and isinstance(shape, (list, tuple)) and isinstance(eps, float)
    rank = len(shape_of(x))
    return Standardised(x, [*range(rank - len(shape), rank)], eps, node, frozenset())


def _group(rewriter: Rewriter, found: Standardised) -> None:
    """Between a reshape to groups and one back."""
    source, root = operand(found.x), next(iter(found.result.users), None)
    shape, grouped = shape_of(source), shape_of(found.x)
    if root is None or root.op == "output" or not is_reshape(root) or not same_sizes(root, source):
        return
    by_group = len(shape) > 1 and found.axes == [*range(2, len(grouped))] and same_size(shape[0], grouped[0])
    if not by_group:
        return
    why = other_user({*found.inner, found.result}, root) or _no_groups(shape[1], grouped[1])
    if why:
        rewriter.refuse(root, why, rule=_RULE)
        return
    with rewriter.rewrite(_RULE, root):
        made = rewriter.call("aten.group_norm", source, grouped[1], None, None, found.eps)
        rewriter.replace(root, made)


def _no_groups(channels: Size, groups: Size) -> str:
    """Why channels are not in so many groups; empty if they are."""
    if not isinstance(channels, int) or not isinstance(groups, int):
        return "the groups or the channels are dynamic"
    return "the groups are not of whole channels" if channels % groups else ""


def _instance(rewriter: Rewriter, found: Standardised) -> None:
    """Over all axes but those of batch and channels."""
    shape = shape_of(found.x)
    if len(shape) < 3 or found.axes != [*range(2, len(shape))]:
        return
    fixed = all(isinstance(d, int) for d in shape[2:])
    if fixed and not _by_channel(rewriter, found.result):
        return
    why = other_user({*found.inner}, found.result)
    if why:
        rewriter.refuse(found.result, why, rule=_RULE)
        return
    with rewriter.rewrite(_RULE, found.result):
        given = (found.x, None, None, None, None, True, 0.1, found.eps, True)
        rewriter.replace(found.result, rewriter.call("aten.instance_norm", *given))


def _by_channel(rewriter: Rewriter, node: Node) -> bool:
    """Whether what follows is a scale or a shift that differs by channel."""
    user = next(iter(node.users), node)
    found = affine_of(rewriter, user, 1) if len(node.users) == 1 else None
    return found is not None and max(found.scale.numel(), found.shift.numel()) > 1


def _affine(rewriter: Rewriter, norm: Node) -> Node | None:
    """The norm with the scale or shift that follows it; None if it has none."""
    user, channels = next(iter(norm.users), norm), shape_of(norm)[1]
    found = affine_of(rewriter, user, 1) if len(norm.users) == 1 else None
    bound = bind(norm)
    weight, bias = (rewriter.value(bound[name]) for name in ("weight", "bias"))
    known = (weight is None) == (bound["weight"] is None) and (bias is None) == (bound["bias"] is None)
    if found is None or found.x is not norm or not known or not isinstance(channels, int):
        return None
    dtype = norm.meta["val"].dtype
    scale = found.scale if weight is None else weight.detach().double() * found.scale
    shift = found.shift if bias is None else bias.detach().double() * found.scale + found.shift
    scale, shift = (t.expand(channels).to(dtype) for t in (scale, shift))
    with rewriter.rewrite(_RULE, user):
        vectors = {}
        for name, vector, neutral, old in (("weight", scale, 1, weight), ("bias", shift, 0, bias)):
            if old is not None or bool((vector != neutral).any()):
                vectors[name] = rewriter.constant(trained_as(vector.contiguous(), [old]))
        made = rewriter.call(norm.target, **{**bound, **vectors})
        rewriter.replace(user, made)
    return made
