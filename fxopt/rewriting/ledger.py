"""The ledger: what every node and weight was when the `Rewriter` last had it in hand.

An edit around the Rewriter (`node.args = ...`, `graph.erase_node`, `node.meta["val"] = ...`, a weight written
in place) shows as a difference. Entries hold the very objects, which every assignment replaces: the
comparison is by identity, and a graph of 100,000 nodes is compared in a tenth of a second.
"""

from collections.abc import Iterable

import torch
from torch.fx import Node

from fxopt.program import Program

__all__ = ["Ledger"]

_Entry = tuple[object, object, object, object, object, object]


class Ledger:
    """What the nodes and weights of one program are known to be."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._nodes: dict[Node, _Entry] = {n: _entry(n) for n in program.graph.nodes}
        self._weights = {name: (t, _writes(t)) for name, t in program.weights.items()}

    def note(self, nodes: Iterable[Node]) -> None:
        """Nodes were made, edited or removed by right."""
        for node in nodes:
            if node._erased:
                self._nodes.pop(node, None)
            else:
                self._nodes[node] = _entry(node)

    def note_weight(self, name: str) -> None:
        """A weight was added or removed by right."""
        tensor = self._program.weights.get(name)
        if tensor is None:
            self._weights.pop(name, None)
        else:
            self._weights[name] = (tensor, _writes(tensor))

    def edited(self, nodes: Iterable[Node]) -> Node | None:
        """The first of the nodes that is not what was noted."""
        known = self._nodes
        return next((n for n in nodes if not _same(known.get(n), n)), None)

    def difference(self) -> str | None:
        """What in the program is not as it was noted, None if all is."""
        program, known = self._program, self._nodes
        strange = self.edited(program.graph.nodes)
        if strange is not None:
            return f"{'made' if strange not in known else 'edited'} {strange.name}"
        if len(program.graph.nodes) != len(known):
            return f"removed {next(n.name for n in known if n._erased)}"
        return self._weight_difference()

    def _weight_difference(self) -> str | None:
        weights = self._program.weights
        for name, (tensor, writes) in self._weights.items():
            found = weights.get(name)
            if found is None:
                return f"removed the weight {name!r}"
            if found is not tensor:
                return f"replaced the weight {name!r}"
            if _writes(tensor) != writes:
                return f"wrote into the weight {name!r}, which other programs may share,"
        added = next((n for n in weights if n not in self._weights), None)
        return None if added is None else f"added the weight {added!r}"


def _entry(node: Node) -> _Entry:
    meta = node.meta
    return (node.target, node.args, node.kwargs, meta.get("val"), meta.get("origins"), node._sort_key)


def _same(entry: _Entry | None, node: Node) -> bool:
    if entry is None:
        return False
    meta = node.meta
    return (
        entry[1] is node.args
        and entry[2] is node.kwargs
        and entry[0] is node.target
        and entry[3] is meta.get("val")
        and entry[4] is meta.get("origins")
        and entry[5] == node._sort_key  # another where the node was moved
    )


def _writes(tensor: torch.Tensor) -> int:
    """How often a tensor was written to (torch does not count for inference tensors)."""
    return -1 if tensor.is_inference() else tensor._version
