"""`torch.cond` without regions: both branches stand in the graph, and `where` picks the results.

Branches are pure (torch.cond sees to that), so that this is the same function bit for bit, and everything that
knows flat graphs knows these. What only one branch needs becomes a branch again when it is lowered: the `where`
says by its origin that it was a `cond`.

>>> inlined.__name__
'inlined'
"""

import operator
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from fxopt.errors import TraceError
from fxopt.frontend.origins import node_line
from fxopt.ops import is_random, op_key
from fxopt.program.program import COND

__all__ = ["inlined"]

aten = torch.ops.aten


def inlined(module: GraphModule) -> Graph:
    """The graph of an exported module, with the branches of every `torch.cond` in it; itself if there is none.

    Raises:
        TraceError: the branches return what can't be picked by values (other shapes, numbers).
    """
    if not any(_is_cond(n) for n in module.graph.nodes):
        graph: Graph = module.graph
        return graph
    walk = _Inliner()
    walk.graph.output(walk.copy(module, None))
    return walk.graph


def _is_cond(node: Node) -> bool:
    return isinstance(node.target, torch._ops.HigherOrderOperator) and node.target.name() == "cond"


class _Inliner:
    def __init__(self) -> None:
        self.graph = Graph()

    def copy(self, module: GraphModule, operands: list[Any] | None) -> Any:
        """Copies a graph's calls, its inputs standing for operands if these are given; returns its results."""
        env: dict[Any, Any] = {}
        given = iter(operands or ())
        for node in module.graph.nodes:
            if node.op == "output":
                return map_arg(node.args[0], env.__getitem__)
            if node.op == "placeholder" and operands is not None:
                env[node] = next(given)
            elif node.op == "get_attr" and isinstance(getattr(module, str(node.target), None), GraphModule):
                env[node] = getattr(module, str(node.target))
            elif _is_cond(node):
                env[node] = self._cond(node, env)
            elif node.target is operator.getitem and isinstance(env[node.args[0]], tuple):
                env[node] = env[node.args[0]][node.args[1]]
            else:
                if operands is not None and is_random(node):
                    # Both branches are run, so that one would take the numbers that the other draws.
                    raise TraceError(
                        f"a branch of torch.cond draws random numbers ({op_key(node.target)}){node_line(node)}: "
                        "draw them before it"
                    )
                env[node] = self.graph.node_copy(node, env.__getitem__)
                if node.op == "placeholder":  # found by their names; calls may stand here twice
                    env[node].name = node.name
        raise AssertionError("a graph ends in its output")

    def _cond(self, node: Node, env: dict[Any, Any]) -> tuple[Any, ...]:
        predicate, first, second, operands = node.args
        values: list[Any] = [map_arg(o, env.__getitem__) for o in operands]  # type: ignore[union-attr]
        results = [self.copy(env[branch], values) for branch in (first, second)]
        flag = self._flag(node, map_arg(predicate, env.__getitem__))
        picks = zip(*results, node.meta["val"], strict=True)
        return tuple(self._picked(node, flag, a, b, value) for a, b, value in picks)

    def _flag(self, node: Node, predicate: Any) -> Any:
        """The predicate as a tensor without dimensions."""
        value = predicate.meta["val"] if isinstance(predicate, Node) else predicate
        if isinstance(value, torch.Tensor) and value.dim() == 0:
            return predicate
        fakes = (v for v in node.meta["val"] if isinstance(v, FakeTensor))
        like = next(fakes, None)
        if like is None:
            raise TraceError(f"torch.cond returns no tensor{node_line(node)}: return tensors")
        if isinstance(value, torch.Tensor):
            flag = self.graph.call_function(aten.reshape.default, (predicate, []))
        else:
            flag = self.graph.call_function(aten.scalar_tensor.default, (predicate,), {"dtype": torch.bool})
        with torch.no_grad(), like.fake_mode:
            flag.meta = {**node.meta, "val": torch.empty((), dtype=torch.bool, device=like.device)}
        return flag

    def _picked(self, node: Node, flag: Any, first: Any, second: Any, value: Any) -> Any:
        plain = not isinstance(first, Node) and not isinstance(second, Node)
        if first is second or (plain and type(first) is type(second) and first == second):
            return first
        given = [n.meta["val"] if isinstance(n, Node) else n for n in (first, second)]
        if not all(isinstance(t, torch.Tensor) for t in given):
            raise TraceError(f"a branch of torch.cond returns a number{node_line(node)}: return tensors")
        if any(str(t.shape) != str(value.shape) for t in given):
            raise TraceError(
                f"the branches of torch.cond return tensors of different sizes{node_line(node)}: "
                "make them equal, or trace the branches as models of their own"
            )
        picked = self.graph.call_function(aten.where.self, (flag, first, second))
        picked.meta = {**node.meta, "val": value, COND: True}
        return picked
