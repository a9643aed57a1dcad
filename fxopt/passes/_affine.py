"""Calls that multiply each channel of a tensor by a number and add a number.

All numbers are float64 tensors: of one element, or of one a channel.
"""

import math
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import same_size, shape_of
from fxopt.passes._batch_norm import scale_of, shifted_bias
from fxopt.passes._names import aten_name
from fxopt.rewriting import Rewriter

__all__ = ["Affine", "affine_of", "moves_of", "norm_of"]

_POOLS = {f"avg_pool{n}d": n for n in (1, 2, 3)}
_ADAPTIVE = {f"adaptive_avg_pool{n}d": n for n in (1, 2, 3)}


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


def affine_of(rewriter: Rewriter, node: Node, axis: int) -> Affine | None:
    """A product, quotient, sum or difference with a number or a constant that varies along one axis only."""
    name = aten_name(node)
    if name not in ("mul", "div", "add", "sub"):
        return None
    given = bind(node)
    if given.get("alpha", 1) != 1 or given.get("rounding_mode") is not None:
        return None
    pairs = [(given["self"], given["other"]), (given["other"], given["self"])]
    for x, constant in pairs if name in ("mul", "add") else pairs[:1]:
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
