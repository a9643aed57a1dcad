"""Branches that give the same numbers on every input: what reads them reads a small constant instead."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node
from torch.fx.node import map_arg

from fxopt.analysis.channels import Constants
from fxopt.analysis.channels.space import is_part
from fxopt.ops import bind, op_info
from fxopt.ops.sizes import same_size
from fxopt.passes._names import aten_name
from fxopt.program import trained_as
from fxopt.rewriting import Rewriter

__all__ = ["replace_constant_branches"]


@dataclass(frozen=True)
class _Constant:
    """A result that is the same on every input: one number by each position of one dimension.

    Attributes:
        values: f64 of the size of the dimension.
        dim: which it is.
        weight: one that the branch reads; what stands for the branch trains if that does.
    """

    values: np.ndarray
    dim: int
    weight: Node

    def tensor(self, like: torch.Tensor) -> torch.Tensor:
        """Of the rank of the result, of size one but along the dimension."""
        values = self.values[:1] if (self.values == self.values[0]).all() else self.values
        shape = [len(values) if i == self.dim else 1 for i in range(like.dim())]
        return torch.tensor(values).reshape(shape).to(like.dtype)


def replace_constant_branches(rewriter: Rewriter, constants: Constants, rule: str) -> None:
    """Cuts off what gives the same numbers on every input; a sum with zeros goes too.

    Where sizes vary and nothing tells them, a branch stays.
    """
    found = _constant_results(rewriter, constants)
    for node in rewriter.nodes():
        if node in found or not isinstance(node.target, torch._ops.OpOverload):
            continue
        constant = {n: found[n] for n in node.all_input_nodes if n in found}
        if constant:
            _replace(rewriter, node, constant, rule)


def _constant_results(rewriter: Rewriter, constants: Constants) -> dict[Node, _Constant]:
    """Calls that read weights and inputs, and give what the weights alone say."""
    weights: dict[Node, Node] = {}
    found: dict[Node, _Constant] = {}
    for node in rewriter.program.graph.nodes:
        if node.op == "get_attr":
            weights[node] = node
        source = next((weights[n] for n in node.all_input_nodes if n in weights), None)
        if node.op != "call_function" or source is None:
            continue
        weights[node] = source
        value = node.meta["val"]
        if node in constants.known or is_part(node) or not isinstance(value, torch.Tensor):
            continue
        read = [n for n in node.all_input_nodes if isinstance(n.meta["val"], torch.Tensor)]
        if not value.is_floating_point() or all(n in constants.known for n in read):
            continue
        for dim, axis in enumerate(constants.space.axes(node) if value.dim() else ()):
            if axis is not None and axis.size and not np.isnan(constants.values[axis.span]).any():
                found[node] = _Constant(constants.values[axis.span], dim, source)
                break
    return found


def _replace(rewriter: Rewriter, node: Node, constant: Mapping[Node, _Constant], rule: str) -> None:
    """Makes a call anew, with constants in the place of branches."""
    other = _summand(rewriter, node, constant)
    if other is not None:
        with rewriter.rewrite(rule, node):
            rewriter.replace(node, other)
        return
    free = [n for n in node.all_input_nodes if n not in constant]
    value = node.meta["val"]
    broadcasts = op_info(node.target).elementwise and any(
        isinstance(n.meta["val"], torch.Tensor) and rewriter.same_type(n.meta["val"], value) for n in free
    )
    sizes = {n: None if broadcasts else _sizes(rewriter, n) for n in constant}
    usable = [n for n in constant if broadcasts or sizes[n] is not None]
    if not usable:
        return
    with rewriter.rewrite(rule, node):
        made: dict[Node, Node] = {}
        for n in usable:
            tensor = constant[n].tensor(n.meta["val"])
            weight = rewriter.value(constant[n].weight)
            made[n] = rewriter.constant(trained_as(tensor, [] if weight is None else [weight]))
            asked = sizes[n]
            if asked is not None:
                sized = [s if isinstance(s, int) else rewriter.call("aten.sym_size.int", *s) for s in asked]
                made[n] = rewriter.call("aten.expand", made[n], sized)
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda n: made.get(n, n))
        rewriter.replace(node, rewriter.call(node.target, *args, **kwargs))


def _summand(rewriter: Rewriter, node: Node, constant: Mapping[Node, _Constant]) -> Node | None:
    """What a sum with zeros, or a difference, is."""
    if aten_name(node) not in ("add", "sub"):
        return None
    bound = bind(node)
    pairs = [("self", "other")] if aten_name(node) == "sub" else [("self", "other"), ("other", "self")]
    for kept, zero in pairs:
        left, right = bound[kept], bound[zero]
        if not isinstance(left, Node) or not isinstance(right, Node) or right not in constant:
            continue
        plain = kept == "self" or bound["alpha"] == 1
        is_sum = plain and not constant[right].values.any()
        if is_sum and rewriter.same_type(left.meta["val"], node.meta["val"]):
            return left
    return None


def _sizes(rewriter: Rewriter, node: Node) -> list[int | tuple[Node, int]] | None:
    """A result's sizes: numbers, or an input and its dimension that has the size; None if one has none."""
    inputs = [n for n in rewriter.program.graph.nodes if n.op == "placeholder"]
    found: list[int | tuple[Node, int]] = []
    for size in node.meta["val"].shape:
        if isinstance(size, int):
            found.append(size)
            continue
        places = ((n, d) for n in inputs for d, s in enumerate(n.meta["val"].shape) if same_size(s, size))
        place = next(places, None)
        if place is None:
            return None
        found.append(place)
    return found
