"""Linear layers and convolutions whose constant weights a pass may change, in one form.

All numbers are float64 tensors.
"""

from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes._names import aten_name
from fxopt.program import trained_as
from fxopt.rewriting import Rewriter

__all__ = ["Product", "product_of", "replace_product"]

_CONVS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
_TRANSPOSED = {f"conv_transpose{n}d": n for n in (1, 2, 3)}


@dataclass(frozen=True)
class Product:
    """A linear layer or a convolution of constant weights, which nothing else reads.

    Attributes:
        node: the call.
        weight: f64, [out, in / groups, ...]; of transposed ones too, which are stored as [in, out / groups, ...].
        bias: f64[out], zeros if it has none.
        axis: which axis of the result the channels are, and of the operand.
        groups: 1 but for convolutions.
        pads: whether some of its outputs see zeros in the place of input elements, or not all taps.
    """

    node: Node
    weight: torch.Tensor
    bias: torch.Tensor
    axis: int
    groups: int
    pads: bool

    def by_input(self, vector: torch.Tensor) -> torch.Tensor:
        """One number an input channel as it stands beside the weight: f64[out, in / groups, 1...]."""
        rows, columns = self.weight.shape[:2]
        each = vector.reshape(self.groups, 1, columns).expand(-1, rows // self.groups, -1)
        return each.reshape(rows, columns, *[1] * (self.weight.dim() - 2))


def product_of(rewriter: Rewriter, node: Node) -> Product | None:
    """The product that a call is, None if it is none whose weights are known and its own."""
    name = aten_name(node)
    spatial = _CONVS.get(name, 0) or _TRANSPOSED.get(name, 0)
    if name != "linear" and not spatial:
        return None
    given, rank = bind(node), len(shape_of(node))
    stored = given["weight"]
    weight, bias = rewriter.value(stored), rewriter.value(given["bias"])
    if weight is None or (bias is None and given["bias"] is not None) or not weight.is_floating_point():
        return None
    assert isinstance(stored, Node)
    if weight.is_meta or len(stored.users) > 1:
        return None  # a copy of a weight that others read makes the file larger
    axis, groups, pads = rank - 1, 1, False
    rows = weight.detach().double()
    if spatial:
        if rank != spatial + 2:
            return None  # without a batch axis the channels stand first
        axis, pads = 1, name in _TRANSPOSED or given["padding"] != [0] * spatial
        assert isinstance(given["groups"], int)
        groups = given["groups"]
        rows = _exchanged(rows, groups) if name in _TRANSPOSED else rows
    elif weight.dim() != 2:
        return None
    zeros = rows.new_zeros(rows.shape[0]) if bias is None else bias.detach().double()
    return Product(node, rows, zeros, axis, groups, pads)


def _exchanged(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """[in, out / groups, ...] as [out, in / groups, ...], and back."""
    parts = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
    return parts.reshape(-1, *parts.shape[2:])


def replace_product(
    rewriter: Rewriter, product: Product, x: Node, weight: torch.Tensor, bias: torch.Tensor
) -> Node:
    """Makes the product anew, inside a rewrite; the bias is left out where it had none and the new one is zeros."""
    given = bind(product.node)
    old, old_bias = given["weight"], given["bias"]
    assert isinstance(old, Node)
    dtype = old.meta["val"].dtype
    if aten_name(product.node) in _TRANSPOSED:
        weight = _exchanged(weight, product.groups).contiguous()
    made: dict[str, object] = {"weight": rewriter.constant(weight.to(dtype), successor_of=old)}
    if isinstance(old_bias, Node):
        made["bias"] = rewriter.constant(bias.to(dtype), successor_of=old_bias)
    elif bool(bias.any()):
        made["bias"] = rewriter.constant(trained_as(bias.to(dtype), [rewriter.value(old)]))
    return rewriter.call(product.node.target, **{**given, next(iter(given)): x, **made})
