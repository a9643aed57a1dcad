"""AdaRound: whether each weight is rounded up or down is learned, layer by layer."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from torch.fx import Node

from fxopt.errors import InputError, PipelineError
from fxopt.ops import bind
from fxopt.passes.quantize._calibration import called, each_batch, last_uses, place_of
from fxopt.passes.quantize._learned_rounding import Learning, Moments, learn_rounding
from fxopt.passes.quantize._optimal_rounding import Steps
from fxopt.passes.quantize._rounded_layers import (
    RoundedLayer,
    add_products,
    find_layers,
    in_parts,
    put_weight,
)
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import Program
from fxopt.rewriting import Rewriter

__all__ = ["Adaround"]

log = logging.getLogger(__name__)

_NAME = "adaround"
_AT_ONCE = 32 * 1024**2
"""Elements of second moments that are kept in memory at a time; of each there are two kinds."""


@register_pass
class Adaround(Pass):
    """Learns which weights are rounded up and which down, by what layers' results are off by over the calibration data.

    Before and after: `%q = fake_quantize(w, scale, zero_point, -8, 7)`, `%y = linear(%x, %q)`, with another `w`: one of
    the two values of this rounding beside each weight. Layers are done in order: one is to give, from what it reads
    when those before it are rounded, what it gave before any rounding. No output channel is off by more than it was.

    Matrix products and convolutions, of any bits, by channel or block. One pass over the data for all layers of which
    none depends on another, as far as half a gigabyte holds their second moments; the same data give the same weights.

    Nagel et al., 2020, arXiv:2004.10568, without the activation function in the error.
    """

    contract = Contract.APPROXIMATE
    requires: ClassVar[frozenset[str]] = frozenset({"quantized"})
    excludes: ClassVar[frozenset[str]] = frozenset({"bias-corrected"})
    needs_calibration = True

    steps: int = 1000
    """of the optimizer, for each layer"""
    learning_rate: float = 0.01
    """of the optimizer, Adam"""
    penalty: float = 10.0
    """the weight of choices that are undecided, beside an error of one a weight when all are rounded to the nearest"""
    ignore: tuple[str, ...] = ()
    """names of modules or ops whose weights stay as they are, * for any letters"""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            PipelineError: a number is not positive.
        """
        for name in ("steps", "learning_rate", "penalty"):
            if not getattr(self, name) > 0:
                raise PipelineError(f"{name} is {getattr(self, name):g}; expected a number above 0")

    def run(self, rewriter: Rewriter) -> None:
        """Learns, those layers first that others depend on."""
        layers = [layer for layer in find_layers(rewriter, _NAME, self.ignore) if _is_open(rewriter, layer)]
        learned: dict[RoundedLayer, list[torch.Tensor]] = {}
        for wave in _waves(rewriter.program, layers):
            for part in in_parts(wave, _AT_ONCE):
                beside = _Beside(rewriter, part, learned)
                each_batch(rewriter.program, cast(Iterable[object], rewriter.calibration), beside.run)
                for layer in part:
                    learned[layer] = self._learned(rewriter, layer, beside.sums[layer])
                    log.info("%s: layer %d of %d", _NAME, len(learned), len(layers))
        # Only now: until the last layer is done its results without rounding are those of the weights as they were.
        for layer, matrices in learned.items():
            put_weight(rewriter, _NAME, layer, matrices)

    def _learned(self, rewriter: Rewriter, layer: RoundedLayer, sums: "_Sums") -> list[torch.Tensor]:
        """The matrices of a layer; as they were, with a refusal, where no data came by."""
        weights, steps = _stacked(rewriter, layer)
        if not sums.read:
            rewriter.refuse(layer.rounding, "calibration never ran it", rule=_NAME)
            return list(weights)
        moments = Moments(torch.stack(sums.read), torch.stack(sums.crossed))
        learning = Learning(self.steps, self.learning_rate, self.penalty)
        return list(learn_rounding(weights, moments, steps, learning))


def _stacked(rewriter: Rewriter, layer: RoundedLayer) -> tuple[torch.Tensor, Steps]:
    """All matrices of a layer, float64[matrices, out, in], and what their elements may be."""
    weights, steps = zip(*layer.weights(rewriter), strict=True)
    scale, zero_point = (torch.stack([getattr(s, n) for s in steps]) for n in ("scale", "zero_point"))
    return torch.stack(weights), Steps(scale, zero_point, steps[0].low, steps[0].high)


def _is_open(rewriter: Rewriter, layer: RoundedLayer) -> bool:
    """Whether rounding changes the weights at all; refuses where it does not."""
    stored = cast(torch.Tensor, rewriter.value(bind(layer.rounding)["x"])).dtype
    weights, steps = _stacked(rewriter, layer)
    if torch.equal(steps.nearest(weights).to(stored), weights.to(stored)):
        rewriter.refuse(layer.rounding, "its weights are values of its integers already", rule=_NAME)
        return False
    return True


def _waves(program: Program, layers: list[RoundedLayer]) -> Iterator[list[RoundedLayer]]:
    """The layers, those together of which none depends on another, in order."""
    rounds = {layer.rounding for layer in layers}
    depth: dict[Node, int] = {}
    for node in program.graph.nodes:
        # What is rounded is a weight, so that it is the product that comes one step later.
        own = node.all_input_nodes
        depth[node] = max((depth[n] for n in own), default=0) + (not rounds.isdisjoint(own))
    of = {layer: max(depth[n] for n in layer.reads) for layer in layers}
    for wanted in sorted(set(of.values())):
        yield [layer for layer in layers if of[layer] == wanted]


@dataclass
class _Sums:
    """The sums of a layer's `Moments`, one for each matrix; none before data are seen."""

    read: list[torch.Tensor] = field(default_factory=list)
    crossed: list[torch.Tensor] = field(default_factory=list)


class _Beside:
    """Runs a program without rounding and with it, up to what some layers read, a batch at a time.

    Args:
        rewriter: of the program.
        layers: those whose moments are taken.
        learned: the matrices of layers before them.

    Attributes:
        sums: of each layer.
    """

    def __init__(
        self,
        rewriter: Rewriter,
        layers: list[RoundedLayer],
        learned: dict[RoundedLayer, list[torch.Tensor]],
    ) -> None:
        program = self._program = rewriter.program
        self.sums = {layer: _Sums() for layer in layers}
        self._learned = {bind(d.rounding)["x"]: d.weight_of(rewriter, m) for d, m in learned.items()}
        self._readers: dict[Node, list[RoundedLayer]] = {}
        for layer in layers:
            for value in layer.reads:
                self._readers.setdefault(value, []).append(layer)
        needed = _needed(program, self._readers)
        self._last = last_uses(n for n in program.graph.nodes if n in needed)

    def run(self, *tensors: torch.Tensor) -> None:
        """One batch."""
        given = dict(zip(self._program.placeholders(), tensors, strict=True))
        plain: dict[Node, object] = {}
        rounded: dict[Node, object] = {}
        for node in reversed(self._last):
            if node.op == "call_function":
                plain[node] = called(node, plain.__getitem__, rounds=False)
                rounded[node] = called(node, rounded.__getitem__)
            else:
                value = given[node] if node in given else self._program.weights[str(node.target)].detach()
                plain[node], rounded[node] = value, self._learned.get(node, value)
            for layer in self._readers.get(node, ()):
                _see(node, layer, self.sums[layer], plain[node], rounded[node])
            for used in self._last[node]:
                del plain[used], rounded[used]


def _needed(program: Program, wanted: Iterable[Node]) -> set[Node]:
    """Some values and what they are computed from."""
    needed = set(wanted)
    for node in reversed(program.graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return needed


def _see(node: Node, layer: RoundedLayer, sums: _Sums, plain: object, rounded: object) -> None:
    """Adds what a layer reads in a batch."""
    assert isinstance(plain, torch.Tensor) and isinstance(rounded, torch.Tensor)
    if not plain.numel():
        return
    if not bool(plain.isfinite().all() and rounded.isfinite().all()):
        raise InputError(f"{place_of(node)}: a value is NaN or infinite")
    x, r = (layer.matrix.rows(v).double() for v in (plain, rounded))
    add_products(sums.read, r, r)
    add_products(sums.crossed, x, r)
