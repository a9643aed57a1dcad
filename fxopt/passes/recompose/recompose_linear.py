"""Makes a linear layer of a product with a weight, and of a convolution of one element between permutations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes._moves import operand, permutation
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._norms import other_user
from fxopt.passes.recompose._scores import same_sizes
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["RecomposeLinear"]

_RULE, _LINEAR = "recompose-linear", torch.ops.aten.linear.default
_CONVS = {"conv1d": 3, "conv2d": 4, "conv3d": 5}
"""The rank of what a convolution reads."""


@dataclass(frozen=True)
class _Layer:
    """A linear layer as it is to be."""

    x: Node
    weight: torch.Tensor
    """[out, in], of the values of `stored`."""
    stored: Node
    bias: Node | None = None
    """A weight of `out` values, in any shape."""


def _plain(x: torch.Tensor, w: Const) -> torch.Tensor:
    return x @ w


def _repeated(x: torch.Tensor, w: Const) -> torch.Tensor:
    return x.reshape(2, -1, 4) @ w.expand(2, 4, -1)


def _pointwise(x: torch.Tensor, w: Const, b: Const | None) -> torch.Tensor:
    return F.conv1d(x.permute(0, 2, 1), w, b).permute(0, 2, 1)


def _on_the_left(x: torch.Tensor, w: Const, b: Const) -> torch.Tensor:
    return (w @ x.mT + b[:, None]).mT


@register_pass
class RecomposeLinear(Pass):
    """matmul(x, w)  ->  linear(x, w'), permute(matmul(w, permute(x)) + b)  ->  linear(x, w, b), and of convolutions.

    Before: `%a = permute(%x, [0, 2, 1])`, `%b = conv1d(%a, w: [6, 4, 1], b)`, `%y = permute(%b, [0, 2, 1])`. After:
    `%y = linear(%x, w: [6, 4], b)`.

    The weight is a matrix, may be repeated for each batch, and stands on the right, or on the left of a product that is
    transposed again, with a bias by row. A convolution has one element, no stride, padding or groups, and channels that
    stand last before and after.

    It does not fire if the weight has another user, for which it would be stored twice, on integers, or if a value
    between has another user. What follows, a bias or reshapes, other passes take into the layer.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        _plain,
        _repeated,
        _pointwise,
        _on_the_left,
    )

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order."""
        for node in rewriter.nodes():
            layer = None if node._erased else _layer(rewriter, node)
            if layer is None:
                continue
            why = _objection(layer)
            if why:
                rewriter.refuse(node, why, rule=_RULE)
                continue
            with rewriter.rewrite(_RULE, node):
                weight = rewriter.constant(layer.weight, successor_of=layer.stored)
                made = rewriter.call(_LINEAR, layer.x, weight, _vector(rewriter, layer.bias))
                rewriter.replace(node, made)


def _objection(layer: _Layer) -> str:
    """Why it stays; empty if it becomes a layer."""
    if not layer.weight.is_floating_point():
        return f"a linear layer is of floating point, the weight is {layer.weight.dtype}"
    return f"{layer.stored.name} has another user, for which it stays" if len(layer.stored.users) > 1 else ""


def _vector(rewriter: Rewriter, bias: Node | None) -> Node | None:
    """A bias as a linear layer takes it, inside a rewrite."""
    value = rewriter.value(bias)
    if value is None or bias is None or value.dim() == 1:
        return bias
    return rewriter.constant(value.reshape(-1), successor_of=bias)


def _layer(rewriter: Rewriter, node: Node) -> _Layer | None:
    """The layer that a call is the last of, None if it is none."""
    name = aten_name(node)
    if name in ("matmul", "mm", "bmm"):
        return _product(rewriter, node)
    if name != "permute":
        return None
    inner = operand(node)
    if aten_name(inner) in _CONVS:
        return _convolution(rewriter, node, inner)
    return _on_the_left_of(rewriter, node)


def _product(rewriter: Rewriter, node: Node) -> _Layer | None:
    """X @ w, of a matrix w that may be repeated for each batch."""
    x, other = node.args[:2]
    weight = operand(other) if isinstance(other, Node) and aten_name(other) == "expand" else other
    value = rewriter.value(weight)
    if value is None or not isinstance(x, Node) or not isinstance(weight, Node) or value.dim() < 2:
        return None
    rows, columns = value.shape[-2:]
    if value.numel() != rows * columns or not same_sizes(node, x, skip=1):
        return None
    return _Layer(x, value.reshape(rows, columns).t(), weight)


def _convolution(rewriter: Rewriter, root: Node, conv: Node) -> _Layer | None:
    """permute(conv(permute(x), w, b)), channels last before and after."""
    bound, rank = bind(conv), _CONVS[aten_name(conv)]
    before, value = bound["input"], rewriter.value(bound["weight"])
    assert isinstance(before, Node)
    if value is None or aten_name(before) != "permute" or len(shape_of(conv)) != rank:
        return None
    spatial = rank - 2
    forth, back = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    plain = bound["stride"] == [1] * spatial and bound["padding"] == [0] * spatial and bound["groups"] == 1
    if (
        not plain
        or [*value.shape[2:]] != [1] * spatial
        or permutation(before) != forth
        or permutation(root) != back
    ):
        return None
    if other_user({conv}, root):
        return None
    weight, bias = bound["weight"], bound["bias"]
    assert isinstance(weight, Node)
    if bias is not None and not isinstance(bias, Node):
        return None
    return _Layer(operand(before), value.flatten(1), weight, bias)


def _on_the_left_of(rewriter: Rewriter, root: Node) -> _Layer | None:
    """permute(matmul(w, permute(x)) + b), the last two axes exchanged before and after."""
    last = operand(root)
    found = _summands(rewriter, last) if aten_name(last) == "add" else (last, None)
    if found is None or aten_name(found[0]) not in ("matmul", "mm") or other_user({last, found[0]}, root):
        return None
    product, bias = found
    weight, before = product.args[:2]
    value = rewriter.value(weight)
    assert isinstance(weight, Node) and isinstance(before, Node)
    if value is None or value.dim() != 2 or not _exchanges(root) or not _exchanges(before):
        return None
    return _Layer(operand(before), value, weight, bias)


def _summands(rewriter: Rewriter, add: Node) -> tuple[Node, Node] | None:
    """A product and a weight with a value a row of it."""
    bound = bind(add)
    for product, bias in ((bound["self"], bound["other"]), (bound["other"], bound["self"])):
        value = rewriter.value(bias)
        if (
            value is None
            or not isinstance(product, Node)
            or not isinstance(bias, Node)
            or bound["alpha"] != 1
        ):
            continue
        by_row = [*value.shape[-2:]] == [*shape_of(product)[-2:-1], 1] and value.numel() == value.shape[-2]
        same = rewriter.same_type(add.meta["val"], product.meta["val"])  # no axes come with the weight
        if by_row and same and value.dtype == product.meta["val"].dtype:
            return product, bias
    return None


def _exchanges(node: Node) -> bool:
    """Whether a call exchanges the last two axes, and no others."""
    if aten_name(node) != "permute":
        return False
    order = permutation(node)
    last = len(order) - 1
    return order == [*range(last - 1), last, last - 1]
