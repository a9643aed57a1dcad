"""Leaves out the expansion of an operand that broadcasts by itself."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import op_info
from fxopt.ops.sizes import shape_of
from fxopt.passes._moves import operand
from fxopt.passes._names import aten_name
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import infer_value
from fxopt.rewriting import Rewriter

__all__ = ["SimplifyBroadcasts"]

_RULE = "simplify-broadcasts"


@register_pass
class SimplifyBroadcasts(Pass):
    """div(x, expand(y))  ->  div(x, y), where the result keeps its shape.

    Before, as `normalize` has it: `%a = clamp_min(%n, 1e-12)`, `%b = expand(%a, [-1, 8])`, `%c = div(%x, %b)`. After:
    `%c = div(%x, %a)`.

    Of every call that treats all elements alike. It does not fire if the result would be smaller, or on a single number of
    another dtype than the others, which then has no say in theirs. Kernels for operands of one shape may round otherwise.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x, y: x / y.sum(-1, keepdim=True).expand(-1, 4),
        lambda x: torch.where(
            x.unsqueeze(0).expand(2, *x.shape) > 0, x.unsqueeze(0).expand(2, *x.shape), 0.0
        ),
    )

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order, operand by operand."""
        for node in rewriter.nodes():
            target, current = node.target, node
            if not isinstance(target, torch._ops.OpOverload) or not op_info(target).elementwise:
                continue
            for place, value in enumerate(node.args):
                if isinstance(value, Node) and aten_name(value) == "expand":
                    current = _without(rewriter, current, place, operand(value))


def _without(rewriter: Rewriter, node: Node, place: int, x: Node) -> Node:
    """The call with one operand as it is, if that is the same."""
    args = (*node.args[:place], x, *node.args[place + 1 :])
    values = [n.meta["val"] for n in (*node.all_input_nodes, x)]
    dtypes = {v.dtype for v in values if isinstance(v, torch.Tensor)}  # others are sizes
    if not shape_of(x) and len(dtypes) > 1:
        rewriter.refuse(node, f"{x.name} is one number of another dtype", rule=_RULE)
        return node
    if not rewriter.same_type(
        infer_value(rewriter.program, node.target, args, node.kwargs), node.meta["val"]
    ):
        return node
    with rewriter.rewrite(_RULE, node):
        made = rewriter.call(node.target, *args, **node.kwargs)
        rewriter.replace(node, made)
    return made
