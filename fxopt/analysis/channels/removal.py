"""What can be cut without changing any output: classes of positions that nothing demands.

Of channels that are constant in front of padding one has to stay for the others; a dimension keeps at least
one position.
"""

from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from fxopt.analysis.channels.coupling import Coupling
from fxopt.analysis.channels.products import Product
from fxopt.analysis.channels.reading import some
from fxopt.analysis.channels.space import Axes
from fxopt.program import Program

__all__ = ["Blocked", "Merge", "Removal"]


@dataclass(frozen=True)
class Merge:
    """Constant channels of a product's input that one channel stands for.

    Attributes:
        channel: the one that stays.
        factors: by channel, how many times its own weight each adds to that of `channel`.
    """

    channel: int
    factors: np.ndarray


@dataclass(frozen=True)
class Blocked:
    """Dead positions of a weight that have to stay, and the node that keeps them."""

    weight: Node
    count: int
    total: int
    blocker: Node


@dataclass(frozen=True)
class Removal:
    """What goes.

    Attributes:
        coupling: the classes.
        removed: bool by position.
        merges: by product, where constants are not absorbed.
        blocked: what is dead but stays.
    """

    coupling: Coupling
    removed: np.ndarray
    merges: dict[Product, Merge]
    blocked: tuple[Blocked, ...]

    @classmethod
    def compute(cls, program: Program) -> "Removal":
        """Decides for a program; linear in its nodes and weights."""
        coupling = Coupling.compute(program)
        chooser = _Chooser(coupling)
        merges = chooser.represent()
        chooser.keep_one()
        return cls(coupling, chooser.removed(), merges, tuple(_blocked(coupling)))

    @property
    def empty(self) -> bool:
        """Whether nothing goes."""
        return not self.removed.any()

    def kept(self, axes: Axes) -> tuple[tuple[int, ...] | None, ...]:
        """The positions that stay, by dimension of a tensor; None for all of a dimension."""
        found: list[tuple[int, ...] | None] = []
        for axis in axes:
            gone = None if axis is None else self.removed[axis.span]
            whole = gone is None or not gone.any()
            found.append(None if whole or gone is None else tuple(np.flatnonzero(~gone).tolist()))
        return tuple(found)


class _Chooser:
    """Marks the classes that go."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.labels = coupling, coupling.labels
        demand, space = coupling.demand, coupling.demand.constants.space
        weighty = np.zeros(space.size, dtype=bool)
        for node, axis in space.all_axes():
            weighty[axis.span] = node.op == "get_attr"
        self.goes = np.zeros(space.size, dtype=bool)
        self.goes[self.labels[weighty]] = True
        self.goes[self.labels[demand.needed | (coupling.frozen > 0)]] = False

    def removed(self) -> np.ndarray:
        """By position."""
        return np.asarray(self.goes[self.labels])

    def represent(self) -> dict[Product, Merge]:
        """Keeps one channel for the constants of each product that can't absorb them, best one kept anyway."""
        demand = self.coupling.demand
        kept: dict[Product, int] = {}
        for product in reversed(demand.represented):  # in the order of the graph
            values = self._values(product)
            own = self._labels(product)
            going = self.goes[own] & (np.nan_to_num(values) != 0) & self._reaching(product)
            if not going.any():
                continue
            usable = ~np.isnan(values) & (values != 0)
            staying = usable & ~self.goes[own]
            pool = staying if staying.any() else going
            channel = int(np.argmax(np.where(pool, np.abs(np.nan_to_num(values)), -1)))
            self.goes[own[channel]] = False
            kept[product] = channel
        return {p: m for p, c in kept.items() if (m := self._merge(p, c)) is not None}

    def _merge(self, product: Product, channel: int) -> Merge | None:
        values = self._values(product)
        going = self.goes[self._labels(product)] & (np.nan_to_num(values) != 0)
        factors = np.where(going, np.nan_to_num(values) / values[channel], 0.0)
        return Merge(channel, factors) if going.any() else None

    def _labels(self, product: Product) -> np.ndarray:
        assert product.channel is not None  # one of size one needs no representative
        return self.labels[product.channel.span]

    def _values(self, product: Product) -> np.ndarray:
        return self.coupling.demand.constants.along(product.reading, product.x, product.channels)

    @staticmethod
    def _reaching(product: Product) -> np.ndarray:
        return product.from_grid(product.reaches, product.channels, some)

    def keep_one(self) -> None:
        """Keeps a position of each dimension that would lose all."""
        for _, axis in self.coupling.demand.constants.space.all_axes():
            own = self.labels[axis.span]
            if axis.size and self.goes[own].all():
                self.goes[own[0]] = False


def _blocked(coupling: Coupling) -> list[Blocked]:
    """Zero rows of weights (and what nothing demands) that stay, by weight and what keeps them."""
    demand, labels = coupling.demand, coupling.labels
    keeper = _keepers(coupling)
    found: list[Blocked] = []
    for products in demand.constants.products.values():
        for product in products:
            if product.weight.node.op != "get_attr":
                continue
            dead = ~product.from_grid(product.reaches, product.rows, some)
            if not product.is_plain:
                dead &= demand.constants.values[product.out.span] == 0
            if product.bias is not None:
                bias = demand.constants.along(product.reading, product.bias, product.rows)
                dead &= bias == 0
            blockers = keeper[labels[product.out.span]][dead]
            for number in sorted(set(blockers[blockers >= 0].tolist())):
                count = int((blockers == number).sum())
                found.append(Blocked(product.weight.node, count, dead.size, demand.nodes[number]))
    return found


def _keepers(coupling: Coupling) -> np.ndarray:
    """By class, the node that keeps it, -1 where none does: what can't be cut before what is demanded."""
    demand = coupling.demand
    keeper = np.full(coupling.labels.size, -1, dtype=np.int64)
    for mask, numbers in ((demand.needed, demand.by), (coupling.frozen > 0, coupling.frozen - 1)):
        keeper[coupling.labels[mask][::-1]] = numbers[mask][::-1]
    return keeper
