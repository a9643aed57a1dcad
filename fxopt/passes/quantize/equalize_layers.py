"""Cross-layer equalisation: ranges of channels between two layers are made alike, by their weights alone."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import Mark, QuantRole, align_inputs, bind, bind_values, call_index_map, op_info
from fxopt.passes._products import Product, product_of, replace_product
from fxopt.passes.quantize._calibration import watch
from fxopt.passes.quantize._left_out import left_out
from fxopt.passes.quantize._smoothing import Channels, best_scale
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["EqualizeLayers"]

_NAME = "equalize-layers"
_SWEEPS = 100
"""At most so many times over all pairs, of which each layer may be in two."""
_ALIKE = 1.001
"""Ranges of so small a quotient count as equal."""


def _layers(x: torch.Tensor, w: Const, b: Const, u: Const, v: Const) -> torch.Tensor:
    y = F.linear(x, w, b).relu()
    return F.linear(y, u) + F.linear(y, v)


def _head(x: torch.Tensor, w: Const, v: Const) -> torch.Tensor:
    return F.linear(F.linear(x, w).relu().reshape(-1, w.shape[0]), v)


@register_pass
class EqualizeLayers(Pass):
    """Divides the channels that a layer makes by numbers that the weights which read them are multiplied by.

    Before: `%y = conv2d(%x, w, b)`, `%z = relu(%y)`, `%u = conv2d(%z, v)`. After: `%y = conv2d(%x, w / s, b / s)`,
    `%u = conv2d(%z, v * s)`, the same function, since a relu of `s` times as much is `s` times as much for `s > 0`.

    Between the layers may stand whatever keeps channels apart and is homogeneous: relu, leaky and parametric relus,
    pools, moves. Several layers may read the channels. Clamps at other numbers than zero (relu6) are not homogeneous.

    With calibration `s` is that of SmoothQuant, with the alpha by which results of the layers that read have the least
    error to expect once what they read is rounded to 8 bits with one scale, and their weights by channel; layers stay
    as they are where none leaves at most
    a `share` of it: what the estimate takes no notice of may be as large. One pass over the data.
    With `observe=false` it needs no data, and makes the ranges of both weights alike: `s = sqrt(max|w| / max|v|)`,
    for weights that are rounded with one scale for all channels.

    Nagel et al., 2019, arXiv:1906.04721.
    """

    contract = Contract.EQUIVALENT
    establishes: ClassVar[frozenset[str]] = frozenset({"equalized"})
    excludes: ClassVar[frozenset[str]] = frozenset({"equalized", "quantized"})
    needs_calibration = True
    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_layers, _head)

    observe: bool = True
    """ranges of what layers read are taken from calibration data; else weights alone count"""
    share: float = 0.5
    """with calibration: of the error to expect at most so much is left, or layers stay as they are"""
    ignore: tuple[str, ...] = ()
    """names of modules or ops whose weights stay as they are, * for any letters"""

    def takes_calibration(self) -> bool:
        """Weights are known without data."""
        return self.observe

    def run(self, rewriter: Rewriter) -> None:
        """Finds pairs of layers, chooses the numbers for all of them, and moves the channels of each."""
        pairs = [p for n in rewriter.nodes() if (p := _pair_of(rewriter, n, self.ignore)) is not None]
        observes = self.observe and pairs
        scales = _observed(rewriter, pairs, self.share) if observes else _by_weights(rewriter, pairs)
        now: dict[Node, Node] = {}
        for pair, scale in zip(pairs, scales, strict=True):
            if scale is None:
                rewriter.refuse(pair.first, "calibration shows no gain", rule=_NAME)
            elif bool((scale != 1).any()):
                _move(rewriter, pair, scale, now)


@dataclass(eq=False)
class _Pair:
    """A layer, and those that read its channels.

    Attributes:
        first: the call of the layer.
        value: what the others read.
        made_axis: of the channels that the layer makes.
        axis: of those that the others read.
        count: of channels that the first layer makes.
        readers: the calls that read it.
    """

    first: Node
    value: Node
    made_axis: int
    axis: int
    count: int
    readers: list[Node]

    @property
    def calls(self) -> list[Node]:
        """All layers."""
        return [self.first, *self.readers]

    def by_channel(self, reader: Product) -> torch.Tensor:
        """The weight of a reader, [groups, in / groups, out / groups, taps]; what one channel became counts as taps."""
        groups, (out, *_) = reader.groups, reader.weight.shape
        return reader.weight.reshape(groups, out // groups, self.count // groups, -1).transpose(1, 2)

    def divided(self, first: Product, scale: torch.Tensor) -> Product:
        """The layer that makes channels divided by numbers."""
        rows = scale.reshape(-1, *[1] * (first.weight.dim() - 1))
        return replace(first, weight=first.weight / rows, bias=first.bias / scale)

    def multiplied(self, reader: Product, scale: torch.Tensor) -> Product:
        """A layer that reads such channels, and gives what it gave."""
        inputs = int(reader.weight.shape[1]) * reader.groups
        spread = scale.repeat_interleave(inputs // self.count)
        return replace(reader, weight=reader.weight * reader.by_input(spread))


def _pair_of(rewriter: Rewriter, node: Node, ignore: tuple[str, ...]) -> _Pair | None:
    """A layer whose channels only layers read."""
    first = product_of(rewriter, node)
    if first is None:
        return None
    value, axis, readers = _end_of(node, first.axis)
    found = [p for u in readers if (p := product_of(rewriter, u)) is not None]
    if not found:
        return None
    count = len(first.weight)
    why = next((w for n in (node, *readers) if (w := left_out(n, ignore))), "")
    if len(found) < len(readers):
        why = "what reads its channels is not layers alone"
    elif any(p.axis != axis or count % p.groups for p in found):
        why = "its channels are not what a layer that reads it sums over"
    if why:
        rewriter.refuse(node, why, rule=_NAME)
        return None
    return _Pair(node, value, first.axis, axis, count, readers)


def _end_of(node: Node, axis: int) -> tuple[Node, int, list[Node]]:
    """What becomes of a value whose channels lie along an axis, where they lie then, and what reads that."""
    while True:
        readers = [u for u in node.users if u.op == "output" or not op_info(u.target).shape_only]
        place = _carried(readers[0], node, axis) if len(readers) == 1 else None
        if place is None:
            return node, axis, readers
        node, axis = readers[0], place


def _carried(node: Node, value: Node, axis: int) -> int | None:
    """Where a homogeneous call has the channels of a value that it reads; None if it is none, or mixes them.

    A dimension that they are the outermost part of will do.
    """
    if not isinstance(node.target, torch._ops.OpOverload) or not isinstance(node.meta["val"], torch.Tensor):
        return None
    info, bound, result = op_info(node.target), bind_values(node), node.meta["val"]
    name = next(iter(bound))
    others = [a for n, a in bind(node).items() if n != name]
    if bind(node)[name] is not value or value in others or info.role is QuantRole.CONTRACTION:
        return None
    homogeneous = info.homogeneous(bound) if callable(info.homogeneous) else info.homogeneous
    index_map = call_index_map(node.target, bound)
    if not (homogeneous or name in info.linear_in) or index_map is None:
        return None
    operand = next(o for n, o, _ in align_inputs(node.target, index_map, bound) if n == name)
    channel = operand.expanded(value.meta["val"].dim())[axis].indices
    if len(channel) != 1 or channel[0].mark is not Mark.CARRIED:
        return None
    given = index_map.outputs[0].expanded(result.dim())
    places = [i for i, d in enumerate(given) if d.indices and d.indices[0].name == channel[0].name]
    return places[0] if places else None


def _observed(rewriter: Rewriter, pairs: list[_Pair], share: float) -> list[torch.Tensor | None]:
    """For each pair the numbers by which the least error is to expect; None where calibration shows no gain."""
    made, read = ([Channels() for _ in pairs] for _ in range(2))
    told = {p.first: partial(_see, m, p.made_axis, p.count) for p, m in zip(pairs, made, strict=True)}
    told |= {p.value: partial(_see, r, p.axis, p.count) for p, r in zip(pairs, read, strict=True)}
    watch(rewriter.program, told, cast(Iterable[object], rewriter.calibration))
    now = _products(rewriter, (n for p in pairs for n in p.calls))
    scales: list[torch.Tensor | None] = []
    for pair, m, r in zip(pairs, made, read, strict=True):
        # A relu that was silent over the data may speak later: what counts is how far its layer reaches.
        reach = m.reach if m.count else r.reach
        weights = [pair.by_channel(now[n]) for n in pair.readers]
        scales.append(best_scale(r, weights, reach, share=share) if r.count else None)
    return scales


def _see(channels: Channels, axis: int, count: int, value: torch.Tensor) -> None:
    """Adds the values of a batch, of which a channel may hold several along its axis."""
    if value.numel():
        channels.update(value.movedim(axis, -1).unflatten(-1, (count, -1)).transpose(-1, -2))


def _by_weights(rewriter: Rewriter, pairs: list[_Pair]) -> list[torch.Tensor | None]:
    """For each pair the numbers by which the ranges of its weights become alike; a layer may be in two pairs."""
    now = _products(rewriter, (n for p in pairs for n in p.calls))
    scales = [torch.ones(p.count, dtype=torch.float64) for p in pairs]
    most = math.inf
    for _ in range(_SWEEPS):
        if most < _ALIKE:
            break
        most = 1.0
        for i, pair in enumerate(pairs):
            made = now[pair.first].weight.abs().flatten(1).amax(1)
            read = torch.stack([pair.by_channel(now[n]).abs().amax((2, 3)).flatten() for n in pair.readers])
            step = (made / read.amax(0)).sqrt()
            step = torch.where(step.isfinite() & (step > 0), step, 1.0)
            # A bias counts in the range of what is read: that of a channel with next to no weights stays within the layer's.
            biases, _ = torch.broadcast_tensors(now[pair.first].bias.abs(), made)
            bias = biases.reshape(-1, pair.count).amax(0)
            step = step.maximum(bias / (made + bias).max().clamp(min=torch.finfo(torch.float64).tiny))
            now[pair.first] = pair.divided(now[pair.first], step)
            now |= {n: pair.multiplied(now[n], step) for n in pair.readers}
            scales[i] = scales[i] * step
            most = max(most, float(torch.maximum(step, 1 / step).max()))
    return list(scales)


def _products(rewriter: Rewriter, nodes: Iterable[Node]) -> dict[Node, Product]:
    return {n: p for n in nodes if (p := product_of(rewriter, n)) is not None}


def _move(rewriter: Rewriter, pair: _Pair, scale: torch.Tensor, now: dict[Node, Node]) -> None:
    """Divides the channels that a layer makes, and multiplies the weights that read them.

    `now` is what stands for a layer that was made anew, as one of another pair.
    """
    olds = pair.calls
    first, *readers = _products(rewriter, [now.get(n, n) for n in olds]).values()
    made = [pair.divided(first, scale), *(pair.multiplied(r, scale) for r in readers)]
    dtype = first.node.meta["val"].dtype
    if not all(bool(t.to(dtype).isfinite().all()) for m in made for t in (m.weight, m.bias)):
        rewriter.refuse(first.node, "a weight would not be finite", rule=_NAME)
        return
    with rewriter.rewrite(_NAME, first.node):
        for layer, old in zip(made, olds, strict=True):
            x = next(iter(bind(layer.node).values()))
            assert isinstance(x, Node)
            with rewriter.instead(layer.node):
                now[old] = replace_product(rewriter, layer, x, layer.weight, layer.bias)
                rewriter.replace(layer.node, now[old])
