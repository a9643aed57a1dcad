"""Normalisations written out: a value divided by the root of its mean square or its variance plus epsilon."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import shape_of
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._polynomial import Reader
from fxopt.rewriting import Rewriter

__all__ = ["Deviation", "affine_of", "deviation", "other_user", "reduced_axes"]

_POWERS = {"rsqrt": 1, "sqrt": -1}
"""With which power a root is a factor of what is normalised."""


@dataclass(frozen=True)
class Deviation:
    """`(statistic + eps) ** 0.5` or its inverse."""

    node: Node
    statistic: Node
    eps: float
    power: int
    """1 if a value is multiplied by the call, -1 if it is divided."""
    calls: tuple[Node, ...]


def deviation(node: Node) -> Deviation | None:
    """A root of a statistic plus epsilon, None if a call is none."""
    name = aten_name(node)
    if name != "pow" and name not in _POWERS:
        return None
    bound = bind(node)
    power = _POWERS.get(name, 0)
    if bound.get("exponent") in (0.5, -0.5):
        power = -1 if bound["exponent"] == 0.5 else 1
    operand = bound.get("self")
    if not power or not isinstance(operand, Node) or operand.op != "call_function":
        return None
    for statistic in (operand, *operand.all_input_nodes):
        if aten_name(statistic) in ("mean", "var"):
            found = Reader(statistic).read(operand)
            if found is not None and found.get((1,)) == 1 and found.keys() <= {(0,), (1,)}:
                return Deviation(node, statistic, found.get((0,), 0.0), power, (node, operand))
    return None


def reduced_axes(node: Node) -> list[int] | None:
    """Over which trailing axes a mean or a variance is taken that keeps them, None if it is otherwise."""
    bound = bind(node)
    operand, dims = bound.get("self"), bound.get("dim")
    if not isinstance(operand, Node) or not isinstance(dims, (list, tuple)) or not bound.get("keepdim"):
        return None
    rank = len(shape_of(operand))
    axes = sorted(d for d in dims if isinstance(d, int))
    return axes if axes and axes == list(range(rank - len(axes), rank)) else None


def affine_of(rewriter: Rewriter, node: Node, op: str, shape: Sequence[object]) -> tuple[Node, Node] | None:
    """The one call that multiplies a value by a weight of a shape, or adds one, and the weight."""
    user = next(iter(node.users), node)
    if len(node.users) != 1 or aten_name(user) != op or bind(user).get("alpha", 1) != 1:
        return None
    operands = (bind(user)["self"], bind(user)["other"])
    weight = operands[1] if operands[0] is node else operands[0]
    tensor = rewriter.value(weight)
    fits = tensor is not None and list(tensor.shape) == list(shape) and tensor.dtype == node.meta["val"].dtype
    return (user, weight) if fits and isinstance(weight, Node) else None


def other_user(inner: set[Node], root: Node) -> str:
    """Which inner value has a user outside; empty if none has."""
    for node in inner - {root}:
        user = next((u for u in node.users if u not in inner and u is not root), None)
        if user is not None:
            return f"{node.name} has another user, {user.name}"
    return ""
