"""A value less its mean over the square root of its variance, written out."""

from dataclasses import dataclass

from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._norms import deviation, reduced_axes
from fxopt.passes.recompose._polynomial import Polynomial, Reader, close

__all__ = ["Standardised", "standardised"]


@dataclass(frozen=True)
class Standardised:
    """`(x - mean) / sqrt(variance + eps)`, both over the last axes."""

    x: Node
    axes: list[int]
    eps: float
    result: Node
    inner: frozenset[Node]
    """The calls between x and the result."""


def standardised(node: Node) -> Standardised | None:
    """What is divided by a root of its variance, None if a call is no such root."""
    root = deviation(node)
    axes = reduced_axes(root.statistic) if root is not None else None
    result = next(iter(node.users), None)
    mean = _mean_of(result, axes) if result is not None and axes is not None else None
    if root is None or result is None or mean is None or axes is None:
        return None
    x = mean.args[0]
    assert isinstance(x, Node)
    reader = Reader(x, mean, root.node)
    whole = reader.read(result)
    wanted: Polynomial = {(1, 0, root.power): 1.0, (0, 1, root.power): -1.0}
    if whole is None or not close(whole, wanted) or not _is_variance(root.statistic, x, mean):
        return None
    inner = {mean, *root.calls, root.statistic, *reader.inner(result)}
    square = bind(root.statistic)["self"]
    if isinstance(square, Node):
        inner |= Reader(x, mean).inner(square) | {square}
    return Standardised(x, axes, root.eps, result, frozenset(inner - {x}))


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
