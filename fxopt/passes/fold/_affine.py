"""Calls that multiply each channel of a tensor by a number and add a number, and the products that can take them in.

All numbers are float64 tensors: of one element, or of one a channel.
"""

import math
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import same_size, shape_of
from fxopt.passes._names import aten_name
from fxopt.passes.fuse._batch_norm import scale_of, shifted_bias
from fxopt.program import trained_as
from fxopt.rewriting import Rewriter

__all__ = ["Affine", "Product", "affine_of", "moves_of", "norm_of", "product_of", "replace_product"]

_CONVS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
_POOLS = {f"avg_pool{n}d": n for n in (1, 2, 3)}
_ADAPTIVE = {f"adaptive_avg_pool{n}d": n for n in (1, 2, 3)}
_TRANSPOSED = {f"conv_transpose{n}d": n for n in (1, 2, 3)}


@dataclass(frozen=True)
class Affine:
    """`x * scale + shift` along an axis."""

    x: Node
    scale: torch.Tensor
    shift: torch.Tensor

    @property
    def uniform(self) -> bool:
        """Whether each channel is multiplied by the same number, and nothing added."""
        return self.scale.numel() == 1 and not bool(self.shift.any())


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


def affine_of(rewriter: Rewriter, node: Node, axis: int) -> Affine | None:
    """A product, quotient, sum or difference with a number or a constant that varies along one axis only."""
    name = aten_name(node)
    if name not in ("mul", "div", "add", "sub"):
        return None
    given = bind(node)
    if given.get("alpha", 1) != 1 or given.get("rounding_mode") is not None:
        return None
    pairs = [(given["self"], given["other"]), (given["other"], given["self"])]
    for x, constant in pairs[: 2 if name in ("mul", "add") else 1]:
        if not isinstance(x, Node) or not rewriter.same_type(x.meta["val"], node.meta["val"]):
            continue
        number = _along(rewriter, constant, node, axis)
        if number is not None:
            one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
            return {
                "mul": Affine(x, number, zero),
                "div": Affine(x, 1 / number, zero),
                "add": Affine(x, one, number),
                "sub": Affine(x, one, -number),
            }[name]
    return None


def moves_of(node: Node) -> tuple[list[Node], int]:
    """The calls over a value of channels on axis 1 that keep each channel's scale and shift, last first.

    Returns:
        Averages and flattenings with one user each, and into how many elements the last flattening spreads a channel.
    """
    moves: list[Node] = []
    repeats = 1
    while len(node.users) == 1:
        flat = _spread(node)
        if not flat and not _averages(node):
            break
        moves.append(node)
        repeats *= flat or 1
        node = node.all_input_nodes[0]
    return moves, repeats


def _averages(node: Node) -> bool:
    """Whether a call takes averages of elements of one channel, the shares adding up to one."""
    name, given, rank = aten_name(node), bind(node), len(shape_of(node))
    if name in _ADAPTIVE:
        return rank == _ADAPTIVE[name] + 2
    plain = not given.get("ceil_mode") and given.get("divisor_override") is None
    return name in _POOLS and rank == _POOLS[name] + 2 and plain and not any(_listed(given["padding"]))


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _spread(node: Node) -> int:
    """Of a flattening of [n, channels, ...] to [n, all], how many elements a channel has; 0 if it is none."""
    if aten_name(node) not in ("reshape", "flatten") or len(shape_of(node)) != 2:
        return 0
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    if (
        len(before) < 3
        or not same_size(before[0], after[0])
        or not all(isinstance(d, int) for d in before[1:])
    ):
        return 0
    return math.prod(int(d) for d in before[2:])


def norm_of(rewriter: Rewriter, node: Node) -> Affine | None:
    """A BatchNorm of known statistics, along axis 1."""
    if aten_name(node) != "batch_norm":
        return None
    given = bind(node)
    names = ("weight", "bias", "running_mean", "running_var")
    values = {n: rewriter.value(given[n]) for n in names}
    if given["training"] or any(values[n] is None and given[n] is not None for n in names):
        return None
    gamma, beta, mean, var = (None if v is None else v.detach().double() for v in values.values())
    x, eps = given["input"], given["eps"]
    assert mean is not None and var is not None and isinstance(x, Node) and isinstance(eps, float)
    scale = scale_of(var, gamma, eps)
    return Affine(x, scale, shifted_bias(None, mean, scale, beta))


def _along(rewriter: Rewriter, constant: object, node: Node, axis: int) -> torch.Tensor | None:
    """A number, f64[], or a weight that broadcasts along one axis, f64[n]."""
    if isinstance(constant, (int, float)):
        return torch.tensor(constant, dtype=torch.float64)
    value = rewriter.value(constant)
    if value is None or value.is_meta or value.is_complex():
        return None
    value = value.detach().double()
    if value.numel() == 1:
        return value.reshape(())
    place = axis - len(shape_of(node)) + value.dim()
    alone = place >= 0 and all(size == 1 for i, size in enumerate(value.shape) if i != place)
    return value.reshape(-1) if alone else None
