"""What has no place in an inference graph: training, random numbers, control flow, complex or sparse tensors.

Looked for in the captured graph before anything is rewritten, so that the message names the user's line.
"""

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxopt.errors import TraceError
from fxopt.frontend.diagnose import NUMBER_OUT_OF_TENSOR
from fxopt.frontend.origins import node_line
from fxopt.ops import bind, is_random, op_key

__all__ = ["check_captured", "is_training"]

_INLINED = frozenset({"wrap_with_set_grad_enabled", "wrap_with_autocast"})
"""Regions that functionalisation opens."""
_READS_A_VALUE = frozenset({"aten.item.default", "aten._local_scalar_dense.default"})


def check_captured(graph: Graph) -> None:
    """Refuses a graph that no rewriting makes an inference graph.

    Raises:
        TraceError: what was found, the user's line, what to change there.
    """
    for node in graph.nodes:
        if node.op == "call_function":
            _check_call(node)


def _check_call(node: Node) -> None:
    where = node_line(node)
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        if node.target.name() not in _INLINED:
            raise TraceError(
                f"control flow (torch.{node.target.name()}) can't be traced{where}: "
                "use torch.where, or trace the branches as models of their own"
            )
        return
    key = op_key(node.target)
    if is_training(node):
        raise TraceError(
            f"the graph holds the training op {key}{where}: trace it in eval mode "
            "(model.eval() before torch.export; training=self.training in functional calls)"
        )
    if is_random(node) and not _drops_nothing(node):
        raise TraceError(f"the model draws random numbers ({key}){where}: make them an input")
    if key in _READS_A_VALUE:
        raise TraceError(f"the model can't be traced{where}: {NUMBER_OUT_OF_TENSOR}")
    for value in pytree.tree_leaves(node.meta.get("val")):
        if isinstance(value, torch.Tensor):
            _check_tensor(value, key, where)


def is_training(node: Node) -> bool:
    """Whether a call computes something else than in eval mode."""
    bound = bind(node)
    if bound.get("training", bound.get("use_input_stats")) is True and "running_mean" in bound:
        return bound["running_mean"] is not None  # the batch's own statistics would be written to it
    if bound.get("train") is True:
        return not _drops_nothing(node)
    return bound.get("training") is True


def _drops_nothing(node: Node) -> bool:
    """Whether a call is in eval mode (`dropout_` too, which the table does not list), or drops at a rate of 0."""
    bound = bind(node)
    eval_mode = bound.get("train", bound.get("training")) is False
    return eval_mode or bound.get("p", bound.get("dropout")) == 0


def _check_tensor(value: torch.Tensor, key: str, where: str) -> None:
    if value.is_complex():
        raise TraceError(
            f"{key} makes a complex tensor ({value.dtype}){where}: "
            "complex numbers are not supported, use real and imaginary parts"
        )
    if value.layout is not torch.strided:
        kind = str(value.layout).removeprefix("torch.")
        raise TraceError(f"{key} makes a {kind} tensor{where}: only dense tensors are supported")
