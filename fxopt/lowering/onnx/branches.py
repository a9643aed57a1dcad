"""`If` for `torch.cond`: the ONNX nodes that only one side needs go into that side's body.

A `cond` is recorded as `Where`, like everything else; its sides are found afterwards, among the ONNX nodes, so
that no rule has to know of bodies.

>>> with_branches([], [], {}, set())
[]
"""

from collections.abc import Mapping, Sequence

import torch

from fxopt.lowering.onnx.graph import Body, OnnxNode, Value
from fxopt.lowering.regions import Choice, choices

__all__ = ["with_branches"]


def with_branches(
    nodes: list[OnnxNode], outputs: Sequence[Value], dtypes: Mapping[Value, torch.dtype], sources: set[str]
) -> list[OnnxNode]:
    """The nodes, those of branches within `If`.

    Args:
        nodes: in order, under their final names.
        outputs: of the graph.
        dtypes: of the nodes' values.
        sources: the fx nodes (as `OnnxNode.source`) that pick results of a `cond`.
    """
    groups: dict[Value, list[int]] = {}
    for i, node in enumerate(nodes):
        if node.op_type == "Where" and node.source in sources and node.inputs[1] != node.inputs[2]:
            groups.setdefault(node.inputs[0], []).append(i)
    if not groups:
        return nodes
    kept = {i for i, n in enumerate(nodes) if not set(n.outputs).isdisjoint(outputs)}
    found = choices(range(len(nodes)), _uses(nodes), kept, list(groups.values()))
    return _Bodies(nodes, found, dtypes).run()


def _uses(nodes: list[OnnxNode]) -> dict[int, list[tuple[int, int]]]:
    """Who uses each node's results, and as which input alone (0 if as several)."""
    makers = {value: i for i, node in enumerate(nodes) for value in node.outputs if value}
    uses: dict[int, list[tuple[int, int]]] = {}
    for user, node in enumerate(nodes):
        for value in dict.fromkeys(node.inputs):
            if value in makers:
                place = node.inputs.index(value) if node.inputs.count(value) == 1 else 0
                uses.setdefault(makers[value], []).append((user, place))
    return uses


class _Bodies:
    def __init__(
        self, nodes: list[OnnxNode], found: list[Choice[int]], dtypes: Mapping[Value, torch.dtype]
    ) -> None:
        self.nodes, self.dtypes = nodes, dtypes
        self.choices = {c.selections[0]: c for c in found}
        self.inner = {i for c in found for i in (*c.first, *c.second, *c.selections[1:])}

    def run(self) -> list[OnnxNode]:
        return self._block([i for i in range(len(self.nodes)) if i not in self.inner])

    def _block(self, steps: Sequence[int]) -> list[OnnxNode]:
        return [self._if(self.choices[i]) if i in self.choices else self.nodes[i] for i in steps]

    def _if(self, choice: Choice[int]) -> OnnxNode:
        picks = [self.nodes[i] for i in choice.selections]
        bodies = {
            "then_branch": self._body(picks, 1, choice.first, "then"),
            "else_branch": self._body(picks, 2, choice.second, "else"),
        }
        outputs = tuple(p.outputs[0] for p in picks)
        first = picks[0]
        return OnnxNode("If", first.inputs[:1], outputs, {**bodies}, first.source, first.module)

    def _body(self, picks: list[OnnxNode], side: int, steps: Sequence[int], name: str) -> Body:
        """A side; what it passes on as it is, or twice, gets a name of its own in it."""
        nodes = self._block(steps)
        made = {v for n in nodes for v in n.outputs}
        outputs: list[tuple[Value, torch.dtype]] = []
        for pick in picks:
            value, dtype = pick.inputs[side], self.dtypes[pick.outputs[0]]
            if value not in made or any(value == v for v, _ in outputs):
                own = f"{pick.outputs[0]}.{name}"
                nodes.append(OnnxNode("Identity", (value,), (own,), {}, pick.source, pick.module))
                value = own
            outputs.append((value, dtype))
        return Body(nodes, outputs)
