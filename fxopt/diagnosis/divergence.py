"""`first_parting`: the first node of a program from which on a candidate's values are others.

Values of a program are matched by provenance: a rewritten node stands for the last of the nodes that it comes
from. Values of a foreign file are matched by value: a node of the reference agrees if some value of the same
shape there is equal to it, as the oracle of rounding judges. What fusing took away has no match and says
nothing as long as what follows agrees.

>>> import torch
>>> from fxopt.frontend import trace
>>> class Net(torch.nn.Module):
...     def __init__(self, factor): super().__init__(); self.factor = factor
...     def forward(self, x): return torch.tanh(torch.relu(x) * self.factor) + 1
>>> right, wrong = (trace(Net(f).eval(), (torch.ones(2),)) for f in (2.0, 2.5))
>>> x = [torch.tensor([0.5, -0.25])]
>>> parting = first_parting(right, program_values(wrong, x), x)
>>> parting.node, parting.op, parting.after
('mul', 'aten.mul.Tensor', ('relu',))
"""

from collections.abc import Mapping, Sequence

import torch
from torch.fx import Node

from fxopt.diagnosis.inner import InnerValue, double_values, program_values
from fxopt.ops import op_key
from fxopt.program import Program, origins_of
from fxopt.report import OutputComparison, Parting, Verdict
from fxopt.verification import compare_rounding
from fxopt.verification.measure import measured_error

__all__ = ["Judge", "first_parting", "nearest", "program_values"]

_NEAR = 0.1
"""A value whose relative error is larger is no counterpart at all."""


def first_parting(
    reference: Program, values: Sequence[InnerValue], tensors: Sequence[torch.Tensor]
) -> Parting | None:
    """The first node that parts.

    Args:
        reference: the original.
        values: what the candidate computes at the same inputs, in order.
        tensors: inputs at which the outputs differ.

    Returns:
        None where every node that an output depends on agrees, or nothing can be told.
    """
    own = {v.name: v.tensor for v in program_values(reference, tensors)}
    judge = Judge(own, double_values(reference, tensors))
    if any(v.origins for v in values):
        found = _by_provenance(reference, values, judge)
        if found is not None:
            return found
    return _by_value(reference, values, judge)


class Judge:
    """Whether a value of the candidate is a node's."""

    def __init__(self, own: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor]) -> None:
        self.own, self.exact = own, exact

    def compare(self, node: Node, value: torch.Tensor) -> OutputComparison | None:
        """The oracle's result; None where the two are of other kinds."""
        original = self.own.get(node.name)
        if original is None or original.shape != value.shape or original.dtype != value.dtype:
            return None
        exact = self.exact.get(node.name)
        truth = exact if exact is not None and exact.shape == original.shape else original
        return compare_rounding(value, original, truth, name=node.name)

    def agrees(self, node: Node, values: Sequence[InnerValue]) -> bool:
        """Whether one of the values is the node's."""
        return self.match(node, values) is not None

    def match(self, node: Node, values: Sequence[InnerValue]) -> InnerValue | None:
        """The value that is the node's, None if none is."""
        original = self.own.get(node.name)
        if original is None:
            return None
        near = [v for v in values if v.tensor.shape == original.shape and v.tensor.dtype == original.dtype]
        for value in sorted(near, key=lambda v: measured_error(v.tensor, original).l2)[:3]:
            result = self.compare(node, value.tensor)
            if result is not None and result.verdict is not Verdict.DIFFERENT:
                return value
        return None


def _by_provenance(reference: Program, values: Sequence[InnerValue], judge: Judge) -> Parting | None:
    """The first of the candidate's values that is not that of the last node it comes from."""
    last_of = {v.origins: v for v in values if v.origins}
    for value in last_of.values():
        sources = [n for n in reference.calls() if set(origins_of(n)) <= set(value.origins) and origins_of(n)]
        node = sources[-1] if sources else None
        result = None if node is None else judge.compare(node, value.tensor)
        if node is not None and result is not None and result.verdict is Verdict.DIFFERENT:
            if judge.agrees(node, values):
                continue  # another value of the candidate is the node's
            return _parting(node, result.reason, f"{value.op} ({value.name})", node.all_input_nodes)
    return None


def _by_value(reference: Program, values: Sequence[InnerValue], judge: Judge) -> Parting | None:
    """From the outputs back, as long as nothing agrees; the first node of what does not."""
    agreed: dict[Node, bool] = {}

    def agrees(node: Node) -> bool:
        if node not in agreed:
            agreed[node] = node.op != "call_function" or judge.agrees(node, values)
        return agreed[node]

    apart: set[Node] = set()
    todo = [n for n in reference.output_nodes() if isinstance(n, Node) and not agrees(n)]
    while todo:
        node = todo.pop()
        if node not in apart:
            apart.add(node)
            todo += [n for n in node.all_input_nodes if n.name in judge.own and not agrees(n)]
    first = next((n for n in reference.calls() if n in apart), None)
    if first is None:
        return None
    closest = nearest(judge.own[first.name], values) if first.name in judge.own else None
    result = judge.compare(first, closest.tensor) if closest is not None else None
    reason = result.reason if result is not None else "the candidate computes no such value"
    candidate = f"{closest.op} ({closest.name})" if closest is not None else ""
    return _parting(first, reason, candidate, [n for n in first.all_input_nodes if agrees(n)])


def nearest(original: torch.Tensor, values: Sequence[InnerValue]) -> InnerValue | None:
    """The value of the same kind that is closest, if it is close at all."""
    like = [v for v in values if v.tensor.shape == original.shape and v.tensor.dtype == original.dtype]
    best = min(like, key=lambda v: measured_error(v.tensor, original).l2, default=None)
    scale = measured_error(original, torch.zeros_like(original)).l2
    if best is None or measured_error(best.tensor, original).l2 > _NEAR * max(scale, 1e-30):
        return None
    return best


def _parting(node: Node, reason: str, candidate: str, after: Sequence[Node]) -> Parting:
    where = "; ".join(map(str, origins_of(node)))
    names = tuple(n.name for n in after if n.op != "get_attr")
    return Parting(node.name, op_key(node.target), where, reason, candidate, names)
