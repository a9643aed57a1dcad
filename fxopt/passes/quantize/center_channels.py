"""Means of channels are moved from values between layers into biases, so that ranges need not cover them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.passes._products import Product, product_of, replace_product
from fxopt.passes.quantize._calibration import watch
from fxopt.passes.quantize._left_out import left_out
from fxopt.passes.quantize._smoothing import Channels
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["CenterChannels"]

_NAME = "center-channels"


def _chain(x: torch.Tensor, w: Const, b: Const, v: Const) -> torch.Tensor:
    return F.linear(F.linear(x, w, b), v)


def _block(x: torch.Tensor, w: Const, b: Const, u: Const, c: Const, v: Const) -> torch.Tensor:
    y = F.linear(x, w, b)
    return F.linear(y + F.linear(y.relu(), u, c), v)


def _residual(x: torch.Tensor, w: Const, b: Const, u: Const, v: Const, d: Const, t: Const) -> torch.Tensor:
    y = F.linear(x, w, b)
    return F.linear(F.linear(F.linear(y, u).relu(), v, d) + y, t)


@register_pass
class CenterChannels(Pass):
    """Takes the means of channels off the layers that make them, and adds what they came to where layers read them.

    Before: `%y = conv2d(%x, w, b)`, `%z = conv2d(%y, v, c)`. After: `%y = conv2d(%x, w, b - m)`,
    `%z = conv2d(%y, v, c + v m)`, the same function, with channels of `%y` around zero: one range for all of them,
    which integers are spread over, need not cover how far they lie apart. Of the means of batches the smallest counts, and
    none where their signs differ: numbers at other scales than some batch's keep their digits.

    What layers make may be added up before others read it, as where blocks of a network are residual: a sum's means
    are the sum of its terms'. It does not fire through an activation, into an output, or into a convolution that pads,
    whose border sees zeros. Values that are added up, and the sums, stay as they are together, unless the squares of
    the ranges that layers read become less. One pass over the data.

    Wei et al., "Outlier Suppression+", 2023, arXiv:2304.09145, section 4.1 (channels of norms).
    """

    contract = Contract.EQUIVALENT
    establishes: ClassVar[frozenset[str]] = frozenset({"centered"})
    excludes: ClassVar[frozenset[str]] = frozenset({"centered", "quantized"})
    needs_calibration = True
    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_chain, _block, _residual)

    share: float = 0.9
    """of the squared ranges of what layers read at most so much is left, or values stay as they are"""
    ignore: tuple[str, ...] = ()
    """names of modules or ops whose biases stay as they are, * for any letters"""

    def run(self, rewriter: Rewriter) -> None:
        """Finds the values, sees their channels over the data, and moves the means of each group."""
        groups = list(_groups(rewriter, self.ignore))
        if not groups:
            return
        seen = {n: _Seen() for g in groups for n in g.axes}
        told = {n: partial(_see, seen[n], axis) for g in groups for n, axis in g.axes.items()}
        watch(rewriter.program, told, cast(Iterable[object], rewriter.calibration))
        now: dict[Node, Node] = {}
        for group in groups:
            why = group.objection(seen, self.share)
            if why:
                rewriter.refuse(next(iter(group.axes)), why, rule=_NAME)
            else:
                _move(rewriter, group, seen, now)


class _Seen(Channels):
    """Ranges of channels, and of their means that which all batches have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: torch.Tensor = torch.zeros(())

    def update(self, values: torch.Tensor) -> None:
        """Adds a batch: of two means of one sign the smaller stays, of two signs 0."""
        if not values.numel():
            return
        mean = values.detach().double().reshape(-1, values.shape[-1]).mean(0)
        if self.count:
            mean = torch.where(mean.abs() < self.mean.abs(), mean, self.mean) * (mean * self.mean > 0)
        super().update(values)
        self.mean = mean


@dataclass(eq=False)
class _Group:
    """Values whose means move together, since they are added up.

    Attributes:
        axes: of the channels of each value, in graph order.
        terms: of each value that is a sum, those of its operands that are in the group.
        readers: the layers that read each value.
    """

    axes: dict[Node, int] = field(default_factory=dict)
    terms: dict[Node, list[Node]] = field(default_factory=dict)
    readers: dict[Node, list[Node]] = field(default_factory=dict)

    def means(self, seen: dict[Node, _Seen]) -> dict[Node, torch.Tensor]:
        """What is taken off each value, f64[channels]."""
        found: dict[Node, torch.Tensor] = {}
        for node in self.axes:
            terms = self.terms.get(node)
            found[node] = seen[node].mean if terms is None else torch.stack([found[t] for t in terms]).sum(0)
        return found

    def objection(self, seen: dict[Node, _Seen], share: float) -> str:
        """Why the values stay as they are; "" if they do not."""
        if not all(seen[n].count for n in self.axes):
            return "calibration never ran it"
        means = self.means(seen)
        before = after = 0.0
        for node in self.axes:
            if self.readers[node]:
                low, high, mean = seen[node].low, seen[node].high, means[node]
                before += _squared_range(low, high)
                after += _squared_range(low - mean, high - mean)
        return "" if after < share * before else "calibration shows no gain"


def _squared_range(low: torch.Tensor, high: torch.Tensor) -> float:
    return float(high.max().clamp(min=0) - low.min().clamp(max=0)) ** 2


def _see(channels: _Seen, axis: int, value: torch.Tensor) -> None:
    channels.update(value.movedim(axis, -1))


def _groups(rewriter: Rewriter, ignore: tuple[str, ...]) -> Iterator[_Group]:
    """The values whose means can move, those together that are added up."""
    products: dict[Node, Product] = {}
    axes: dict[Node, int] = {}
    for node in rewriter.nodes():
        product = product_of(rewriter, node)
        if product is not None and not left_out(node, ignore):
            products[node], axes[node] = product, product.axis
        elif (axis := _axis_of_sum(rewriter, node, axes)) is not None:
            axes[node] = axis
    movable: set[Node] = set()
    for node in reversed(axes):
        reads = [_absorbs(u, axes[node], products) or u in movable for u in node.users]
        if all(reads):
            movable.add(node)
        elif any(reads):
            rewriter.refuse(node, "not only layers that see all of its channels read it", rule=_NAME)
    group_of: dict[Node, _Group] = {}
    for node, axis in axes.items():
        terms = [] if node in products else [n for n in _operands(node) if n in group_of]
        if node not in movable or not (terms or node in products):
            continue
        group = _joined([group_of[t] for t in terms], group_of)
        group.axes[node] = axis
        group.readers[node] = [u for u in node.users if _absorbs(u, axis, products)]
        if terms:
            group.terms[node] = terms
        group_of[node] = group
    yield from dict.fromkeys(group_of.values())


def _joined(groups: list[_Group], group_of: dict[Node, _Group]) -> _Group:
    """One group of several, a new one of none."""
    first, *others = dict.fromkeys(groups) or [_Group()]
    for other in others:
        first.axes |= other.axes
        first.terms |= other.terms
        first.readers |= other.readers
        group_of |= dict.fromkeys(other.axes, first)
    return first


def _operands(node: Node) -> list[Node]:
    """The two that a sum adds."""
    given = bind(node)
    return [n for n in (given["self"], given["other"]) if isinstance(n, Node)]


def _axis_of_sum(rewriter: Rewriter, node: Node, axes: dict[Node, int]) -> int | None:
    """Where a sum of two values of one shape has channels; None if it is none of values that have channels."""
    if aten_name(node) != "add" or bind(node).get("alpha", 1) != 1:
        return None
    operands = _operands(node)
    found = {axes[n] for n in operands if n in axes}
    alike = len(operands) == 2 and all(rewriter.same_type(n.meta["val"], node.meta["val"]) for n in operands)
    return found.pop() if alike and len(found) == 1 else None


def _absorbs(node: Node, axis: int, products: dict[Node, Product]) -> bool:
    """Whether a call is a layer that sums over the channels of an axis, and sees no zeros beside them."""
    product = products.get(node)
    return product is not None and not product.pads and product.axis == axis


def _move(rewriter: Rewriter, group: _Group, seen: dict[Node, _Seen], now: dict[Node, Node]) -> None:
    """Takes the means off the biases of layers that make values, and adds what they came to to those that read them.

    `now` is what stands for a layer that was made anew, as one of another group.
    """
    means = group.means(seen)
    added: dict[Node, torch.Tensor] = {n: -means[n] for n in group.axes if n not in group.terms}
    for node, readers in group.readers.items():
        for reader in readers:
            product = _now(rewriter, now, reader)
            came = (product.weight * product.by_input(means[node])).flatten(1).sum(1)
            added[reader] = added.get(reader, 0) + came
    layers = {n: _now(rewriter, now, n) for n in added}
    biases = {n: layer.bias + added[n] for n, layer in layers.items()}
    first = next(iter(layers.values())).node
    if not all(bool(biases[n].to(n.meta["val"].dtype).isfinite().all()) for n in layers):
        rewriter.refuse(first, "a bias would not be finite", rule=_NAME)
        return
    with rewriter.rewrite(_NAME, first):
        for node, layer in layers.items():
            x = next(iter(bind(layer.node).values()))
            assert isinstance(x, Node)
            with rewriter.instead(layer.node):
                now[node] = replace_product(rewriter, layer, x, layer.weight, biases[node])
                rewriter.replace(layer.node, now[node])


def _now(rewriter: Rewriter, now: dict[Node, Node], node: Node) -> Product:
    """A layer as it is after what was moved before."""
    product = product_of(rewriter, now.get(node, node))
    assert product is not None
    return product
