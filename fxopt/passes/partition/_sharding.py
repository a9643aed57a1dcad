"""Which layers of a program can be shared among processes, and what each process then adds to a sum.

A layer is what `Coupling` ties: rows of the weights that make some channels or heads, and the columns of those that
read them (the column and row parallel linears of Shoeybi et al., Megatron-LM, arXiv:1909.08053). It can be shared
if all that sums over its channels is a product with a weight: the sums of the processes then add up to the whole.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import networkx
import numpy as np
import torch
from torch.fx import Node
from torch.fx.node import map_arg

from fxopt.analysis.channels import Axis, Coupling, Layer, Product, Reading, layers_of
from fxopt.program import Program

__all__ = ["Candidates", "Sharding", "Shared"]


@dataclass(frozen=True, eq=False)
class Shared:
    """Layers that are shared together: some product reads the channels of all.

    Attributes:
        layers: each of groups that so many ranks divide.
        makes: products that make their channels.
        partial: products that sum over them, of which each process has a part.
    """

    layers: tuple[Layer, ...]
    makes: frozenset[Product]
    partial: tuple[Product, ...]

    @property
    def products(self) -> set[Product]:
        """All that make or read the channels."""
        return {*self.makes, *self.partial}

    @property
    def cost(self) -> float:
        """Rows to be summed up for each element of weights that is shared."""
        readers = {p.weight.node for p in self.partial}
        held: int = sum(n.meta["val"].numel() for n in readers)
        made: int = sum(m.index.size for layer in self.layers for m in layer.makers)
        return sum(p.out.size for p in self.partial) / (held + made)


@dataclass(frozen=True, eq=False)
class Candidates:
    """The layers of a program and what reads them, however many processes are to share them.

    Attributes:
        coupling: the classes.
        uses: of each layer.
        together: layers that are shared together or not at all.
        whole: by weight whose rows are in no layer, what keeps them together.
    """

    coupling: Coupling
    uses: "_Uses"
    together: list[list[Layer]]
    whole: dict[str, str]

    @classmethod
    def compute(cls, program: Program) -> "Candidates":
        """Finds them."""
        coupling = Coupling.compute(program)
        layers, blocked = layers_of(coupling, program)
        uses = _Uses(coupling, layers)
        return cls(coupling, uses, uses.together(), dict(blocked))


@dataclass(frozen=True)
class Sharding:
    """The layers that are shared, and why others are not.

    Attributes:
        coupling: the classes.
        shared: no two of them meet in a product.
        refused: the weight that names a layer, and why it stays whole.
    """

    coupling: Coupling
    shared: tuple[Shared, ...]
    refused: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, candidates: "Candidates", ranks: int) -> "Sharding":
        """Chooses, of layers that meet, those that hold the most weights for what has to be summed up."""
        uses = candidates.uses
        found: list[Shared] = []
        refused: list[tuple[str, str]] = []
        for together in candidates.together:
            why = next(filter(None, (uses.problem(layer, ranks) for layer in together)), "")
            if why:
                refused += [(layer.name, why) for layer in together]
            else:
                found.append(uses.shared(together))
        chosen: list[Shared] = []
        taken: set[Product] = set()
        for candidate in sorted(found, key=lambda c: c.cost):
            if taken & candidate.products:
                refused += [
                    (layer.name, "what makes or reads it is shared already") for layer in candidate.layers
                ]
                continue
            chosen.append(candidate)
            taken |= candidate.products
        return cls(candidates.coupling, tuple(chosen), tuple(refused))

    def others(self, rank: int, ranks: int) -> np.ndarray:
        """Bool by position: what the other ranks hold."""
        goes = np.zeros(self.coupling.labels.size, dtype=bool)
        for layer in (layer for shared in self.shared for layer in shared.layers):
            share = len(layer.labels) // ranks
            goes[np.delete(layer.labels, slice(rank * share, (rank + 1) * share))] = True
        return np.asarray(goes[self.coupling.labels])

    @property
    def partial(self) -> dict[Node, Product]:
        """By call, the product whose sum each process has a part of."""
        return {p.reading.node: p for shared in self.shared for p in shared.partial}

    @property
    def held(self) -> set[str]:
        """The weights of which each process has a share."""
        return {m.weight for shared in self.shared for layer in shared.layers for m in layer.members}


class _Uses:
    """By layer, the products that make its channels, and the calls that sum over them."""

    def __init__(self, coupling: Coupling, layers: Sequence[Layer]) -> None:
        self.layers, self._labels = layers, coupling.labels
        self._known = coupling.demand.constants.known
        self._layer_of = np.full(coupling.labels.size, -1)
        for number, layer in enumerate(layers):
            self._layer_of[layer.labels] = number
        self._sums: dict[int, dict[Node, Product | None]] = defaultdict(dict)
        self._makes: dict[int, set[Product]] = defaultdict(set)
        self._units: set[int] = set()
        for node, reading in coupling.demand.constants.readings.items():
            self._read(reading, coupling.demand.constants.products[node])

    def _of(self, axis: Axis) -> list[int]:
        """The layers on an axis, -1 among them where a position is of none."""
        return [int(n) for n in np.unique(self._layer_of[self._labels[axis.span]])]

    def _read(self, reading: Reading, products: Sequence[Product]) -> None:
        for product in products:
            for number in self._of(product.out):
                self._makes[number].add(product)
        for side in (*reading.inputs, *reading.outputs):
            for _, axis, names in side.places():
                if reading.info.units:
                    self._units.update(self._of(axis))
                elif set(names) & reading.contracted:
                    met = next((p for p in products if side is p.weight or axis == p.channel), None)
                    for number in self._of(axis):
                        self._sums[number][reading.node] = met

    def together(self) -> list[list[Layer]]:
        """Layers whose channels one product reads stand or fall together."""
        sets = networkx.utils.UnionFind(range(len(self.layers)))
        for number in range(len(self.layers)):
            sets.union(number, *(n for n in self._beside(number) if n >= 0))
        return [[self.layers[i] for i in sorted(numbers)] for numbers in sets.to_sets()]

    def _beside(self, number: int) -> set[int]:
        axes = (p.channel for p in self._sums[number].values() if p is not None)
        return {n for axis in axes if axis is not None for n in self._of(axis)}

    def problem(self, layer: Layer, ranks: int) -> str:
        """Why a layer can't be shared, "" if it can."""
        (number,) = self._of_layer(layer)
        if number in self._units:
            return "recurrent units read one another"
        for node, product in self._sums[number].items():
            if product is None:
                return f"{node.name} sums over its channels, and is no product with a weight"
            if product.bias is not None and not self._can_be_left_out(product.bias.node):
                return f"the bias of {node.name} is computed"
        if -1 in self._beside(number):
            return "what reads its channels also reads some that stay whole"
        if self._makes[number] & set(self._sums[number].values()):
            return "what makes its channels reads them"
        return (
            f"{ranks} do not divide {len(layer.labels)} groups of channels"
            if len(layer.labels) % ranks
            else ""
        )

    def _can_be_left_out(self, bias: Node) -> bool:
        """Whether all ranks but one can add zeros: a weight, or what calls (rounding) make of one, zeros of zeros."""
        if bias.op == "get_attr":
            return True
        first = bias.args[0] if bias in self._known else None
        if not isinstance(first, Node) or not self._can_be_left_out(first):
            return False
        others = map_arg(bias.args[1:], self._known.__getitem__)
        kwargs = map_arg(bias.kwargs, self._known.__getitem__)
        made = bias.target(torch.zeros_like(self._known[first]), *others, **kwargs)  # type: ignore[operator]  # of a call
        return not made.any()

    def shared(self, layers: Sequence[Layer]) -> Shared:
        """Layers of which none has a problem."""
        numbers = [n for layer in layers for n in self._of_layer(layer)]
        partial = {p: None for n in numbers for p in self._sums[n].values() if p is not None}
        makes = frozenset(p for n in numbers for p in self._makes[n])
        return Shared(tuple(layers), makes, tuple(partial))

    def _of_layer(self, layer: Layer) -> list[int]:
        return [int(self._layer_of[layer.labels[0]])]
