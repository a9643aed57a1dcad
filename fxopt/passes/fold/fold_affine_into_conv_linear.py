"""Takes scales and shifts beside a linear layer or a convolution into its weights."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import op_info
from fxopt.passes._affine import Affine, affine_of, moves_of
from fxopt.passes._names import aten_name
from fxopt.passes._products import Product, product_of, replace_product
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["FoldAffineIntoConvLinear", "fold_before"]

_NAME = "fold-affine-into-conv-linear"


def _scaled(x: torch.Tensor, w: Const, b: Const | None, s: Const) -> torch.Tensor:
    return F.linear(x, w, b) * s


def _shifted(x: torch.Tensor, w: Const, b: Const | None) -> torch.Tensor:
    return F.conv2d(x / 2 - 1, w, b) + 3


def _through(x: torch.Tensor, w: Const) -> torch.Tensor:
    return F.linear(x, w).reshape(-1) * 0.5


def _flattened(x: torch.Tensor, w: Const, s: Const) -> torch.Tensor:
    y = x.reshape(2, 4, -1) * s[:, None]
    return F.linear(y.flatten(1), w)


def _transposed(x: torch.Tensor, w: Const) -> torch.Tensor:
    return F.conv_transpose1d(x * 2, w) * 3


@register_pass
class FoldAffineIntoConvLinear(Pass):
    """linear(x, w, b) * s + t  ->  linear(x, w', b'), and of what is multiplied and added before, for convolutions too.

    Before: `%y = linear(%x, w, b)`, `%z = mul(%y, s)`. After: `%z = linear(%x, w', b')` with `w' = w * s` along
    the rows and `b' = b * s`. Before: `%y = div(%x, 2)`, `%z = conv2d(%y, w)`. After: `%z = conv2d(%x, w / 2)`.

    Products, quotients, sums and differences with a number or with a constant that varies along the channels.
    One number is also taken through what is linear in between: reshapes, permutations, average pools; what differs by
    channel before a layer through averages and a flattening. Convolutions may be transposed. All numbers are computed
    in float64 and rounded once.

    It does not fire if the value between the two has another user, if the layer's weight has one (it would be
    stored twice), if something is added before a convolution that pads or is transposed (its border sees zeros, or fewer
    taps, not the sum),
    on convolutions without a batch axis, or if a weight would be infinite.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        _scaled,
        _shifted,
        _through,
        _flattened,
        _transposed,
    )

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order: a chain folds call by call."""
        for node in rewriter.nodes():
            product = product_of(rewriter, node)
            if product is not None:
                fold_before(rewriter, product, _NAME, lambda n, axis: affine_of(rewriter, n, axis))
            elif aten_name(node) in ("mul", "div", "add", "sub"):
                _fold_after(rewriter, node)


def fold_before(
    rewriter: Rewriter, product: Product, rule: str, find: Callable[[Node, int], Affine | None]
) -> None:
    """Takes what its operand is multiplied by, and what is added, into a product's weights, as long as there is any."""
    while True:
        operand = product.node.args[0]
        assert isinstance(operand, Node)
        moves, repeats = moves_of(operand)
        found = find(operand, product.axis)
        if found is None and moves:
            operand = moves[-1].all_input_nodes[0]
            found = find(operand, 1)
        else:
            moves, repeats = [], 1
        if found is None:
            return
        scale, shift = (
            t.repeat_interleave(repeats) if t.numel() > 1 else t for t in (found.scale, found.shift)
        )
        weight = _by_input(product, scale)
        bias = product.bias + _sums(product, shift)
        why = (
            "the convolution pads: its border would not see what is added"
            if product.pads and shift.any()
            else ""
        )
        why = why or _objection(operand, weight, bias, product)
        if why:
            rewriter.refuse(product.node, why, rule=rule)
            return
        with rewriter.rewrite(rule, product.node):
            x = _moved(rewriter, found.x, moves)
            made = replace_product(rewriter, product, x, weight, bias)
            rewriter.replace(product.node, made)
        again = None if made._erased else product_of(rewriter, made)
        if again is None:
            return
        product = again


def _moved(rewriter: Rewriter, x: Node, moves: list[Node]) -> Node:
    """The same calls of another value, inside a rewrite."""
    for move in reversed(moves):
        x = rewriter.call(move.target, x, *move.args[1:], **move.kwargs)
    return x


def _fold_after(rewriter: Rewriter, node: Node) -> None:
    """Takes a scale or a shift into the product that it is of; where two products meet, neither is a constant."""
    for x in node.all_input_nodes:
        chain = _chain(x)
        product = product_of(rewriter, chain[-1])
        if product is None:
            continue
        found = affine_of(rewriter, node, product.axis)
        if found is None or found.x is not x or (len(chain) > 1 and not found.uniform):
            return
        rows = [-1] + [1] * (product.weight.dim() - 1)
        weight, bias = product.weight * found.scale.reshape(rows), product.bias * found.scale + found.shift
        why = _objection(x, weight, bias, product)
        if why:
            rewriter.refuse(node, why, rule=_NAME)
            return
        with rewriter.rewrite(_NAME, node):
            source = product.node.args[0]
            assert isinstance(source, Node)
            made = replace_product(rewriter, product, source, weight, bias)
            rewriter.replace(node, _moved(rewriter, made, chain[:-1]))
        return


def _chain(node: Node) -> list[Node]:
    """A value, and what it is made of by calls that are linear in their first operand, up to what is not."""
    chain = [node]
    while _is_linear(chain[-1]) and len(chain[-1].users) == 1:
        operand = chain[-1].args[0]
        assert isinstance(operand, Node)
        chain.append(operand)
    return chain


def _is_linear(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or not node.args or aten_name(node) == "linear":
        return False
    x = node.args[0]
    linear = "self" in op_info(node.target).linear_in and len(node.all_input_nodes) == 1
    value = node.meta["val"]
    return (
        linear
        and isinstance(x, Node)
        and isinstance(value, torch.Tensor)
        and x.meta["val"].dtype == value.dtype
    )


def _by_input(product: Product, scale: torch.Tensor) -> torch.Tensor:
    """The weight for an operand of which each channel is multiplied by a number."""
    if scale.numel() == 1:
        return product.weight * scale
    return product.by_input(scale) * product.weight


def _sums(product: Product, shift: torch.Tensor) -> torch.Tensor:
    """What each output grows by where each input channel grows by a number, f64[out]."""
    terms = product.weight * (shift if shift.numel() == 1 else product.by_input(shift))
    return terms.flatten(1).sum(1)


def _objection(between: Node, weight: torch.Tensor, bias: torch.Tensor, product: Product) -> str:
    """Why the two do not become one; empty if they may."""
    if len(between.users) > 1:
        return f"{between.name} has another user"
    dtype = product.node.meta["val"].dtype
    if not bool(weight.to(dtype).isfinite().all() and bias.to(dtype).isfinite().all()):
        return "a weight would not be finite"
    return ""
