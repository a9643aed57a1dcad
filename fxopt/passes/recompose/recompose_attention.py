"""Makes one call of attention that is written out."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes._moves import Sizes, stated_shape
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._masks import Masking, attention_mask, is_causal
from fxopt.passes.recompose._scores import Scores, read_scores, same_sizes
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["RecomposeAttention"]

aten = torch.ops.aten
_RULE, _SDPA = "recompose-attention", aten.scaled_dot_product_attention.default


def _masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores = q @ k.transpose(-2, -1) / 2.0 + mask
    return torch.softmax(scores, -1) @ v


def _of_one(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """In one batch, so that it is attention whatever shapes are drawn."""
    q, v = x.reshape(1, -1, 4), y.reshape(1, -1, 4)
    return torch.softmax(q @ v.mT / 2, -1) @ v


@register_pass
class RecomposeAttention(Pass):
    """softmax(q @ k^T * scale + mask) @ v  ->  scaled_dot_product_attention(q, k, v, mask, scale).

    Before: `%a = matmul(%q, %kt)`, `%b = mul(%a, 0.125)`, `%c = softmax(%b, -1)`, `%y = matmul(%c, %v)`. After:
    `%k = permute(%kt, [0, 1, 3, 2])`, `%y = scaled_dot_product_attention(%q, %k, %v, scale=0.125)`.

    The product may be `matmul`, `bmm` or `baddbmm`; the scale may stand on the query, the key, both or the scores; masks
    may be added, or filled with -inf, or one number from -1e9 down, by `masked_fill` or `where`, several of them; softmax
    may be taken in another precision, scores be reshaped between products and masks, and eval dropout follow. A constant
    mask that hides what is later makes it causal. Key heads that several query heads share stay repeated as they are.

    It does not fire if softmax is over another axis than the keys, if a mask comes after it or is scaled, if scores
    are filled with a number nearer to them or with several, or with -inf by a mask of which it is not known that each
    query sees a key (of none softmax makes NaN, attention 0: a constant is known, and a causal mask made by `tril`),
    if a scale is data, if operands broadcast, or if an inner value has another user.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        _masked,
        _of_one,
        lambda x: torch.softmax((q := x.reshape(1, -1, 4) * 0.5) @ q.mT, -1) @ q,
        lambda q, k, v: torch.softmax((q * 0.5) @ k.mT, -1) @ v,
        lambda q, k, v: torch.softmax(torch.bmm(q, k.mT) * 0.5, -1).bmm(v),
        lambda q, k, v, mask: torch.softmax((q @ k.mT).masked_fill(mask > 1, -math.inf), -1) @ v,
        lambda x: torch.softmax(((q := x.reshape(1, -1, 4)) @ q.mT).masked_fill(q[..., 0] > 0, -1e9), -1) @ q,
        lambda q, k, v: torch.softmax(q @ k.mT, -2) @ v,
        lambda q, k, v, mask: (torch.softmax(q @ k.mT, -1) + mask) @ v,
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order; then constant masks that are causal."""
        for node in rewriter.nodes():
            if not node._erased and aten_name(node) in ("softmax", "_softmax"):
                _recompose(rewriter, node)
        for node in rewriter.nodes():
            if node.target is _SDPA and is_causal(rewriter, node):
                q, k, v, *_ = node.args
                with rewriter.rewrite("causal-mask", node):
                    made = rewriter.call(_SDPA, q, k, v, None, 0.0, True, **node.kwargs)
                    rewriter.replace(node, made)


def _recompose(rewriter: Rewriter, softmax: Node) -> None:
    operand = bind(softmax)["self"]
    scores = read_scores(rewriter, operand) if isinstance(operand, Node) else None
    after = _calls_after(softmax)
    if scores is None or after is None:
        return
    root = after[-1]
    why = _objection(rewriter, softmax, scores, after) or _other_user({*scores.calls, softmax, *after}, root)
    if why:
        rewriter.refuse(root, why, rule=_RULE)
        return
    value = bind(root)["other" if aten_name(root) == "matmul" else "mat2"]
    assert isinstance(value, Node)
    _rewrite(rewriter, scores, value, root)


def _calls_after(softmax: Node) -> list[Node] | None:
    """Casts, reshapes and eval dropouts of the weights, and their product with the value."""
    calls, node = [], softmax
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        name = aten_name(node)
        calls.append(node)
        if name in ("matmul", "bmm"):
            return calls if node.args[0] is before and node.args[1] is not before else None
        if name not in ("to", "reshape", "dropout") or (name == "dropout" and bind(node)["train"]):
            return None
    return None


def _objection(rewriter: Rewriter, softmax: Node, scores: Scores, after: list[Node]) -> str:
    """Why it is no attention; empty if it is."""
    rank, root = len(shape_of(softmax)), after[-1]
    query, value = scores.query, root.args[1]
    assert isinstance(value, Node)
    if bind(softmax)["dim"] != rank - 1:
        return f"softmax is over axis {bind(softmax)['dim']}, not over the keys"
    if not all(n.meta["val"].is_floating_point() for n in (query, *after)):
        return "it is cast to another kind of number"
    if len({n.meta["val"].dtype for n in (query, scores.key, value, root)}) > 1:
        return "query, key and value are of several dtypes"
    if len(shape_of(query)) < 3:
        return "it has no batch axis"
    if not same_sizes(query, scores.key, skip=2) or not same_sizes(query, value, skip=2):
        return "query, key and value broadcast"
    if not same_sizes(scores.calls[-1], after[-1].args[0], skip=0):  # type: ignore[arg-type]
        return "the weights have another shape than the scores"
    return ""


def _other_user(inner: set[Node], root: Node) -> str:
    for node in inner - {root}:
        user = next((u for u in node.users if u not in inner), None)
        if user is not None:
            return f"{node.name} has another user, {user.name}"
    return ""


def _rewrite(rewriter: Rewriter, scores: Scores, value: Node, root: Node) -> None:
    """As it stands, or all in the shape in which the scores are masked."""
    product = scores.calls[-1]
    level = scores.masks[-1].at if scores.masks else product
    masking = Masking(level, scores.masks)
    why = masking.objection(rewriter, scores.query)
    flat = same_sizes(level, product)
    sizes, back = stated_shape(level), _stated_result(root)
    if not flat and (sizes is None or back is None):
        why = why or "several sizes are dynamic, none stated"
    if why:
        rewriter.refuse(root, why, rule=_RULE)
        return
    width = shape_of(scores.query)[-1]
    default = isinstance(width, int) and width and math.isclose(scores.scale, width**-0.5, rel_tol=1e-15)
    with rewriter.rewrite(_RULE, root):
        order = [*range(len(shape_of(product)))]
        key = rewriter.call(aten.permute.default, scores.key, [*order[:-2], order[-1], order[-2]])
        query = scores.query
        operands = [query, key, value]
        if not flat and sizes is not None:
            rows = [sizes[:-1], [*sizes[:-2], sizes[-1]], [*sizes[:-2], sizes[-1]]]
            operands = [_reshaped(rewriter, x, r) for x, r in zip(operands, rows, strict=True)]
        mask = attention_mask(rewriter, masking, query.meta["val"].dtype)
        made = rewriter.call(_SDPA, *operands, mask, scale=None if default else scores.scale)
        rewriter.replace(root, made if flat else rewriter.call(aten.reshape.default, made, back))


def _stated_result(root: Node) -> Sizes | None:
    """The shape of the product with the value, as that of the weights states it where several sizes are dynamic."""
    weights, width, stated = root.args[0], shape_of(root)[-1], stated_shape(root)
    assert isinstance(weights, Node)
    rows = stated_shape(weights)
    return [*rows[:-1], width] if stated is None and rows and isinstance(width, int) and width else stated


def _reshaped(rewriter: Rewriter, x: Node, rows: Sizes) -> Node:
    width = shape_of(x)[-1]
    assert isinstance(width, int)
    return rewriter.call(aten.reshape.default, x, [*rows, width])
