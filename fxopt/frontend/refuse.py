"""What has no place in an inference graph: training, random numbers, control flow, sparse tensors.

Looked for in the captured graph before anything is rewritten, so that the message names the user's line. Training ops and
random numbers are effects, which `trace(..., state=True)` keeps, as it does buffers that are written.
"""

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxopt.errors import TraceError
from fxopt.frontend.diagnose import NUMBER_OUT_OF_TENSOR
from fxopt.frontend.origins import node_line
from fxopt.ops import bind, is_mutating, is_random, op_key

__all__ = ["check_captured", "is_training", "updates_statistics"]

_INLINED = frozenset({"wrap_with_set_grad_enabled", "wrap_with_autocast"})
"""Regions that functionalisation opens."""
_READS_A_VALUE = frozenset({"aten.item.default", "aten._local_scalar_dense.default"})
_KEPT = "pass state=True to keep it as it is"


def check_captured(graph: Graph, *, state: bool = False) -> None:
    """Refuses a graph that no rewriting makes an inference graph.

    Args:
        graph: as torch.export leaves it.
        state: whether effects are wanted: training ops and random numbers.

    Raises:
        TraceError: what was found, the user's line, what to change there.
    """
    for node in graph.nodes:
        if node.op == "call_function":
            _check_call(node, state)


def _check_call(node: Node, state: bool) -> None:
    where = node_line(node)
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        if node.target.name() not in _INLINED:
            raise TraceError(
                f"control flow (torch.{node.target.name()}) can't be traced{where}: "
                "use torch.where, or trace the branches as models of their own"
            )
        return
    key = op_key(node.target)
    if is_training(node) and not state:
        raise TraceError(
            f"the graph holds the training op {key}{where}: trace it in eval mode "
            f"(model.eval() before torch.export; training=self.training in functional calls), or {_KEPT}"
        )
    if is_random(node) and not _drops_nothing(node) and not state:
        raise TraceError(
            f"the model draws random numbers ({key}){where}: make them an input, or {_KEPT}, "
            "drawing from torch's generator"
        )
    if key in _READS_A_VALUE:
        raise TraceError(f"the model can't be traced{where}: {NUMBER_OUT_OF_TENSOR}")
    for value in pytree.tree_leaves(node.meta.get("val")):
        if isinstance(value, torch.Tensor) and value.layout is not torch.strided:
            kind = str(value.layout).removeprefix("torch.")
            raise TraceError(f"{key} makes a {kind} tensor{where}: only dense tensors are supported")


def is_training(node: Node) -> bool:
    """Whether a call computes something else than in eval mode."""
    bound = bind(node)
    if bound.get("training", bound.get("use_input_stats")) is True and "running_mean" in bound:
        return bound["running_mean"] is not None  # the batch's own statistics would be written to it
    if bound.get("train") is True:
        return not _drops_nothing(node)
    return bound.get("training") is True


def updates_statistics(node: Node) -> bool:
    """Whether a norm writes its batch's statistics to its arguments, which no schema says."""
    returned = op_key(node.target) == "aten._native_batch_norm_legit_functional.default"
    return (
        not returned
        and is_training(node)
        and bind(node).get("running_mean") is not None
        and not is_mutating(node.target)
    )


def _drops_nothing(node: Node) -> bool:
    """Whether a call is in eval mode (`dropout_` too, which the table does not list), or drops at a rate of 0."""
    bound = bind(node)
    eval_mode = bound.get("train", bound.get("training")) is False
    return eval_mode or bound.get("p", bound.get("dropout")) == 0
