"""Which channels and heads can go: the classes that `Coupling` ties, put together layer by layer.

A group is one class: rows of a weight, its bias, BatchNorm's vectors, the columns that read them, and through
residual sums those of other layers. Groups that lie along the same axes are one layer; they are ranked among
themselves.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from fxopt.analysis.channels.coupling import Coupling
from fxopt.analysis.channels.reading import Reading, tensor_operands
from fxopt.analysis.channels.space import Axis
from fxopt.ops import op_info
from fxopt.program import Program, origins_of

__all__ = ["Layer", "Member", "layers_of", "statistics_of"]


@dataclass(frozen=True, eq=False)
class Member:
    """The slices of one weight, along one dimension, that belong to the groups of a layer.

    Attributes:
        weight: its name.
        dim: the dimension.
        index: positions, int[groups, width].
        makes: whether these slices make the channels; else they read them.
        is_vector: whether the weight has this dimension alone, and is no factor of a product: a bias, a scale.
        scales: whether it is what an op scales its result by.
        is_statistic: whether it is neither that nor a shift: means and variances, which need no zeros.
    """

    weight: str
    dim: int
    index: np.ndarray
    makes: bool
    is_vector: bool
    scales: bool
    is_statistic: bool


@dataclass(frozen=True, eq=False)
class Layer:
    """Groups of one kind.

    Attributes:
        name: the first weight whose slices make the channels.
        members: all slices of weights that a group holds.
        labels: the class of each group.
        heads: whether the groups are heads of an attention.
    """

    name: str
    members: tuple[Member, ...]
    labels: np.ndarray
    heads: bool

    @property
    def makers(self) -> list[Member]:
        """The weights, of two dimensions and more, whose slices make the channels."""
        return [m for m in self.members if m.makes and not m.is_vector]

    @property
    def width(self) -> int:
        """How many positions of the weight that names the layer a group takes."""
        return int(self.makers[0].index.shape[1])


def layers_of(coupling: Coupling, program: Program) -> tuple[list[Layer], list[tuple[str, str]]]:
    """The layers of a program, and which rows can't go, with the reason.

    Returns:
        Layers in the order of the graph; (weight, reason) for those that something keeps whole.
    """
    roles = _Roles(coupling)
    labels, space = coupling.labels, coupling.demand.constants.space
    axes = list(space.all_axes())
    stays = np.zeros(space.size, dtype=bool)
    stays[labels[coupling.frozen > 0]] = True
    axes.sort(key=lambda pair: pair[1].start)
    starts = np.array([a.start for _, a in axes])
    owner = np.searchsorted(starts, np.arange(space.size), side="right") - 1
    positions = np.flatnonzero(~stays[labels])
    positions = positions[np.argsort(labels[positions], kind="stable")]
    found = []
    for table in _alike(positions, labels[positions], owner[positions]):
        members = []
        numbers = np.unique(owner[table[0]]).tolist()
        for number, columns in zip(numbers, _columns(table[0], owner), strict=True):
            node, axis = axes[number]
            if (node, axis) in roles.places:
                members.append(roles.member(node, axis, table[:, columns] - starts[number]))
        heads = bool(roles.heads[table[0]].any())
        makers = [m for m in members if m.makes and not m.is_vector]
        if makers and len(table) > 1:
            found.append(Layer(makers[0].weight, tuple(members), labels[table[:, 0]], heads))
    order = {str(n.target): i for i, n in enumerate(program.weight_nodes())}
    found.sort(key=lambda layer: order[layer.name])
    return found, roles.blocked(stays)


def _alike(positions: np.ndarray, labels: np.ndarray, owner: np.ndarray) -> list[np.ndarray]:
    """A table, int[classes, positions], of the classes that have as many positions on each axis.

    Args:
        positions: by class, in order.
        labels: the class of each.
        owner: the number of the axis that each lies on.
    """
    runs = np.flatnonzero(np.diff(labels, prepend=-1) | np.diff(owner, prepend=-1))
    told = np.stack([owner[runs], np.diff(runs, append=positions.size)], 1)
    firsts = np.flatnonzero(np.diff(labels[runs], prepend=-1))
    kinds: dict[bytes, list[int]] = {}
    for number, (start, stop) in enumerate(itertools.pairwise([*firsts.tolist(), runs.size])):
        kinds.setdefault(told[start:stop].tobytes(), []).append(number)
    begins = runs[firsts]
    sizes = np.diff(begins, append=positions.size)
    return [positions[begins[own][:, None] + np.arange(sizes[own[0]])] for own in kinds.values()]


def _columns(first: np.ndarray, owner: np.ndarray) -> list[np.ndarray]:
    """Which entries of a sorted class lie on each axis."""
    return np.split(np.arange(first.size), np.flatnonzero(np.diff(owner[first])) + 1)


class _Roles:
    """What the axes of weights are for: which make channels, which scale them, which positions are heads."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.places: dict[tuple[Node, Axis], int] = {}
        self.heads = np.zeros(coupling.labels.size, dtype=bool)
        self._makes: set[tuple[Node, int]] = set()
        self._scales: set[Node] = set()
        self._statistics = statistics_of(coupling.demand.nodes)
        constants = coupling.demand.constants
        self._factors = {p.weight.node for products in constants.products.values() for p in products}
        for node in coupling.demand.nodes:
            if node.op == "get_attr" and node.meta["val"].is_floating_point():
                axes = constants.space.axes(node)
                self.places |= {(node, a): d for d, a in enumerate(axes) if a is not None}
        for reading in constants.readings.values():
            self._read(reading)

    def _read(self, reading: Reading) -> None:
        kept = {n for s in reading.outputs for d in s.dims for n in d}
        for side in reading.inputs:
            if side.node.op != "get_attr":
                continue
            self._makes |= {
                (side.node, d) for d, _, _ in side.places() if side.dims and reading.makes(side, d)
            }
            if side.name == reading.info.scaled_by:
                self._scales.add(side.node)
        self._note_heads(reading, kept)

    def _note_heads(self, reading: Reading, kept: set[str]) -> None:
        """A product of two activations is one product a head, along indices that both and the result have."""
        known = self.coupling.demand.constants.known
        factors = [s for s in reading.inputs if s.node not in known]
        own = [{n for d in s.dims for n in d} for s in factors]
        for one, other in itertools.combinations(own, 2):
            if any(reading.skips_zeros(n) for n in (one & other) - kept):
                for _, axis, names in (p for s in factors for p in s.places()):
                    if one & other & kept & set(names):
                        self.heads[axis.span] = True

    def member(self, node: Node, axis: Axis, index: np.ndarray) -> Member:
        """The slices of a weight's axis."""
        dim = self.places[node, axis]
        value = node.meta["val"]
        return Member(
            str(node.target),
            dim,
            index,
            makes=(node, dim) in self._makes,
            is_vector=value.numel() == axis.size and node not in self._factors,
            scales=node in self._scales,
            is_statistic=node in self._statistics,
        )

    def blocked(self, stays: np.ndarray) -> list[tuple[str, str]]:
        """Weights whose rows can't be cut, and by what."""
        coupling, found = self.coupling, []
        keeper = np.zeros(coupling.labels.size, dtype=np.int64)
        held = np.flatnonzero(coupling.frozen)
        keeper[coupling.labels[held[::-1]]] = coupling.frozen[held[::-1]]
        for (node, axis), dim in self.places.items():
            own = coupling.labels[axis.span]
            if (node, dim) in self._makes and axis.size < node.meta["val"].numel() and stays[own].all():
                blocker = coupling.demand.nodes[int(keeper[own].max()) - 1]
                found.append((str(node.target), _place(blocker)))
        return found


def statistics_of(nodes: Iterable[Node]) -> set[Node]:
    """The weights of normalisations that neither scale nor shift: means and variances."""
    found: set[Node] = set()
    for node in nodes:
        info = op_info(node.target) if isinstance(node.target, torch._ops.OpOverload) else None
        if info is not None and info.scaled_by:
            plain = (info.scaled_by, info.shifted_by)
            found |= {n for k, n in tensor_operands(node) if k not in plain and n.op == "get_attr"}
    return found


def _place(node: Node) -> str:
    if node.op in ("output", "placeholder"):
        return f"the model's {'output' if node.op == 'output' else 'input'}"
    modules = [o.module for o in origins_of(node) if o.module]
    return f"{node.name} at {modules[0]}" if modules else node.name
