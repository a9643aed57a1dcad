"""The precision in which outputs are computed: the narrowest float dtype that rounds on the way to each.

A float32 result that is cast to float64 at the end carries float32's errors: judged by its own dtype every
correct rewrite of it would be a difference.

>>> from fxopt.frontend import trace
>>> class Wide(torch.nn.Linear):
...     def forward(self, x):
...         return super().forward(x).double()
>>> output_precisions(trace(Wide(4, 2).eval(), (torch.zeros(3, 4),)))
(torch.float32,)
"""

from collections.abc import Iterable

import torch
from torch.fx import Node

from fxopt.ops import QuantRole, op_info
from fxopt.program import Program

__all__ = ["coarsest", "output_precisions", "rounds"]

aten = torch.ops.aten


def coarsest(dtypes: Iterable[torch.dtype | None]) -> torch.dtype | None:
    """The real float dtype of the largest eps (a complex dtype counts as its parts); None if there is none."""
    floats = [d.to_real() for d in dtypes if d is not None and (d.is_floating_point or d.is_complex)]
    return max(floats, key=lambda d: torch.finfo(d).eps, default=None)


def rounds(target: object) -> bool:
    """Whether an op computes values of its own, which other code may round in another way."""
    return isinstance(target, torch._ops.OpOverload) and op_info(target).role is not QuantRole.SAME_SCALE


def output_precisions(program: Program) -> tuple[torch.dtype | None, ...]:
    """For each computed output the narrowest float dtype in which an op on its path rounds.

    What integers carry (an index, a comparison) does not count, nor do weights and inputs, which are what
    they are; None where nothing rounds.
    """
    found: dict[Node, torch.dtype | None] = {}
    for node in program.graph.nodes:
        own = _dtype(node.meta.get("val"))
        if node.op != "call_function" or own is None:
            found[node] = None
            continue
        inputs = node.all_input_nodes
        is_cast = node.target is aten.to.dtype
        rounded = _is_narrower(own, _dtype(inputs[0].meta.get("val"))) if is_cast else rounds(node.target)
        computed = own if rounded else None
        found[node] = coarsest([computed, *(found[n] for n in inputs)])
    return tuple(found.get(n) if isinstance(n, Node) else None for n in program.output_nodes())


def _is_narrower(dtype: torch.dtype, other: torch.dtype | None) -> bool:
    return other is None or torch.finfo(dtype).eps > torch.finfo(other).eps


def _dtype(value: object) -> torch.dtype | None:
    """The float dtype of a node's value (the coarsest of several), None if it has none."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return coarsest(v.dtype for v in values if isinstance(v, torch.Tensor))
