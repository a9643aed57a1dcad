"""A program as what can be cut: pieces that stay together, the tensors between them, the weights that they read.

A call that picks one of several results stays with what made them. Sizes are no tensors: each stage reads them
again, but for numbers that come from data (`item`), whose makers and users stay together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx
import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from fxopt.errors import InputError
from fxopt.ops import tensor_bytes
from fxopt.program import Program, origins_of

__all__ = ["Crossing", "Piece", "Pieces", "is_size", "pieces_of", "renumbered"]


@dataclass(frozen=True)
class Piece:
    """Calls of one stage."""

    calls: tuple[Node, ...]
    seconds: float

    @property
    def modules(self) -> set[str]:
        """The paths of the modules that they come from."""
        return {origin.module for call in self.calls for origin in origins_of(call)}


@dataclass(frozen=True)
class Crossing:
    """A tensor (or weight) that several pieces need.

    Attributes:
        node: it.
        bytes: of its elements, at the example's sizes.
        maker: the piece that makes it; -1 for an input of the program and for a weight.
        users: the pieces that read it, in order; the number of pieces stands for the program's outputs.
    """

    node: Node
    bytes: int
    maker: int
    users: tuple[int, ...]


@dataclass(frozen=True)
class Pieces:
    """The pieces in an order in which they can run.

    Attributes:
        pieces: them.
        tensors: what flows between them, inputs and outputs included.
        weights: by storage: bytes, and which pieces read them.
    """

    pieces: tuple[Piece, ...]
    tensors: tuple[Crossing, ...]
    weights: tuple[Crossing, ...]

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def seconds(self) -> list[float]:
        """Of each piece."""
        return [p.seconds for p in self.pieces]


def is_size(node: Node) -> bool:
    """Whether a call computes numbers and no tensor."""
    return isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool))


def pieces_of(program: Program, seconds: Mapping[Node, float]) -> Pieces:
    """Cuts a program as finely as it can be cut.

    Raises:
        InputError: the bytes of a tensor depend on data.
    """
    groups = _groups(program)
    place = {node: i for i, group in enumerate(groups) for node in group}
    pieces = tuple(Piece(tuple(g), sum(seconds[n] for n in g)) for g in groups)
    outputs = {n for n in program.output_nodes() if isinstance(n, Node)}
    tensors, weights = [], []
    for node in program.graph.nodes:
        users = {place[u] for u in node.users if u in place}
        if node.op == "get_attr":
            weight = program.weights[str(node.target)]
            weights.append(Crossing(node, weight.numel() * weight.element_size(), -1, tuple(sorted(users))))
            continue
        maker = place.get(node, -1)
        users = (users | ({len(groups)} if node in outputs else set())) - {maker}
        if users and isinstance(node.meta["val"], torch.Tensor):
            tensors.append(Crossing(node, _bytes(node), maker, tuple(sorted(users))))
    return Pieces(pieces, tuple(tensors), tuple(weights))


def _bytes(node: Node) -> int:
    size = tensor_bytes(node.meta["val"])
    number = size if isinstance(size, int) else size.node.hint
    if number is None:
        raise InputError(f"the size of {node.name} depends on data: what it costs to send is not known")
    return int(number)


def _groups(program: Program) -> list[list[Node]]:
    """Calls that stay together, in an order in which the groups can run."""
    order = {n: i for i, n in enumerate(n for n in program.calls() if not _is_plain_size(n))}
    together = networkx.utils.UnionFind(order)
    for node in order:
        for source in node.all_input_nodes:
            if source in order and (is_size(source) or is_size(node) or _is_several(source)):
                together.union(source, node)
    graph = networkx.DiGraph()
    graph.add_nodes_from(together[n] for n in order)
    for node in order:
        for source in node.all_input_nodes:
            if source in order and together[source] != together[node]:
                graph.add_edge(together[source], together[node])
    whole = networkx.condensation(graph)  # what would wait for one another is one
    begins: dict[Node, int] = {}
    for node, number in order.items():
        begins.setdefault(together[node], number)
    first = {g: min(begins[n] for n in members) for g, members in whole.nodes(data="members")}
    rank = {
        g: i for i, g in enumerate(networkx.lexicographical_topological_sort(whole, key=first.__getitem__))
    }
    groups: list[list[Node]] = [[] for _ in rank]
    mapping = whole.graph["mapping"]
    for node in order:
        groups[rank[mapping[together[node]]]].append(node)
    return groups


def _is_plain_size(node: Node) -> bool:
    """Numbers that are computed from sizes alone."""
    value = node.meta.get("val")
    return is_size(node) and not (
        isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)) and free_unbacked_symbols(value)
    )


def _is_several(node: Node) -> bool:
    return isinstance(node.meta.get("val"), (tuple, list))


def renumbered(pieces: Pieces, groups: Sequence[Sequence[int]]) -> Pieces:
    """Coarser pieces: each group of consecutive ones becomes one."""
    place = {old: new for new, group in enumerate(groups) for old in group} | {
        -1: -1,
        len(pieces): len(groups),
    }

    def merged(group: Sequence[int]) -> Piece:
        own = [pieces.pieces[i] for i in group]
        return Piece(tuple(call for piece in own for call in piece.calls), sum(p.seconds for p in own))

    def moved(crossing: Crossing) -> Crossing:
        """A tensor that its own group alone reads keeps no user; what is an input is made by none."""
        maker = place[crossing.maker]
        users = {place[u] for u in crossing.users} - ({maker} if maker >= 0 else set())
        return Crossing(crossing.node, crossing.bytes, maker, tuple(sorted(users)))

    tensors = (t for t in map(moved, pieces.tensors) if t.users)
    return Pieces(tuple(map(merged, groups)), tuple(tensors), tuple(map(moved, pieces.weights)))
