"""Simulates integers: rounds what integer kernels read, by the ranges that calibration shows."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.analysis.ranges import Grid, Histogram, Method
from fxopt.errors import InputError, PipelineError
from fxopt.ops import bind
from fxopt.passes.quantize._calibration import calibrate, place_of
from fxopt.passes.quantize._edges import Contraction, Edges, find_edges
from fxopt.passes.quantize._ends import Ends, find_ends, mark_integers
from fxopt.passes.quantize._placement import placement_of
from fxopt.passes.quantize._rounding import Rounding, activation_numbers, called_with
from fxopt.passes.quantize._schemes import Scheme, Schemes
from fxopt.passes.quantize._weights import round_blocks, round_table, round_weights
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["InsertFakeQuant"]

log = logging.getLogger(__name__)

_NAME = "insert-fake-quant"
_BIAS = Grid(32, signed=True)


def _layers(x: torch.Tensor, w: Const, b: Const, v: Const) -> torch.Tensor:
    return F.linear(F.linear(x, w, b).relu(), v)


@register_pass
class InsertFakeQuant(Pass):
    """Rounds weights, biases and what integer kernels read to integers and back, by calibration.

    Before: `%y = linear(%x, w, b)`. After: `%q = fake_quantize(%x, scale, zero_point, 0, 255)` and the same for `w`
    (a scale a channel) and `b` (32 bits), `%y = linear(%q, %qw, %qb)`: in float what 8-bit kernels compute. Targets
    store such weights as integers.

    Which values are rounded, a placement says: data of the runtime's integer kernels. Sums and pools are integer
    where an integer kernel reads them; what feeds a norm, a softmax or the output stays in float. With
    `scheme=int8-dynamic` what products with a matrix read is rounded by the range that it has at each call, with
    `scheme=int8-weights` nothing but weights is. Tables that rows are looked up in are rounded by every scheme.
    `scheme=int4-weights` rounds weights of linear layers and tables to 4 bits, by a scale for each block of inputs;
    where the placement's kernel reads integers, what it reads is rounded by block too, at each call.
    """

    contract = Contract.APPROXIMATE
    establishes: ClassVar[frozenset[str]] = frozenset({"quantized"})
    excludes: ClassVar[frozenset[str]] = frozenset({"quantized"})
    needs_calibration = True
    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_layers,)

    scheme: Scheme = "int8"
    """int8: weights and activations; int8-dynamic: activations by their range at each call; int8-weights; int4-weights: by block"""
    coverage: Literal["paying", "full"] = "paying"
    """of int8: full runs on integers whatever has an integer kernel, whether it pays or not, and rounds outputs"""
    io: Literal["float", "int8"] = "float"
    """of int8: int8 has files take and give 8-bit integers, whose scales `artifact.io_scales` holds"""
    io_keep: tuple[str, ...] = ()
    """names of inputs and outputs that io=int8 leaves as they are, * for any letters"""
    placement: str = ""
    """the runtime whose kernels decide what is rounded, such as onnx:onnxruntime; by default the target's"""
    rows: bool = False
    """of int8-dynamic: linear layers read rows divided by their largest magnitude, which one scale then fits better"""
    observer: Method = "mse"
    """how ranges of activations are chosen from what calibration shows"""
    weights: Literal["signed", "unsigned"] = "signed"
    """signed: a scale an output channel; unsigned: 0 to 255, one scale and zero point a tensor (not of int4-weights)"""
    bits: Literal[2, 3, 4, 8] = 8
    """of int8-weights: of the weights of products, convolutions included, and of tables"""
    block: Literal[32, 64, 128] = 32
    """of int4-weights: how many inputs share a scale"""
    symmetric: bool = True
    """of int4-weights: integers of -8 to 7; else of 0 to 15 with a zero point for each block"""
    ignore: tuple[str, ...] = ()
    """names of modules or ops whose calls stay in float, * for any letters"""
    layers: tuple[str, ...] = ()
    """PATTERN=SCHEME each: names as for ignore, rounded by another scheme, or float; the first that fits counts"""
    max_error: float | None = None
    """the budget: by what share of its norm an output may move, which check-each holds the pass to"""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            PipelineError: there is no such placement or scheme, or the budget is none.
        """
        self.schemes()
        placement_of(self.placement)
        if self.max_error is not None and not self.max_error >= 0:
            raise PipelineError(f"max_error is {self.max_error:g}; expected a share of an output's norm")
        if self.io == "int8" and self.scheme != "int8":
            raise PipelineError(f"io=int8 needs ranges that are fixed: scheme=int8, not {self.scheme}")

    def budget(self) -> float | None:
        """What was asked for."""
        return self.max_error

    def takes_calibration(self) -> bool:
        """Ranges that are fixed need data."""
        return "int8" in self.schemes().used()

    def schemes(self) -> Schemes:
        """By which scheme each call is rounded."""
        return Schemes(self.scheme, self.layers, self.ignore)

    def placed(self, placement: str) -> Pass:
        """The target's placement, where none was asked for."""
        return self if self.placement else replace(self, placement=placement)

    def run(self, rewriter: Rewriter) -> None:
        """Rounds by calibration, or by what is known without."""
        schemes, placement = self.schemes(), placement_of(self.placement)
        if self.weights == "unsigned":
            placement = replace(placement, weights=Grid(8, signed=False), per_channel=False)
        used = schemes.used()
        # Each goes through the program from the start: what it makes stands before what the others made.
        if "int8" in used:
            self._run_static(rewriter, Rounding(rewriter, placement), schemes)
        if "int4-weights" in used:
            rounding = Rounding(rewriter, placement)
            round_blocks(rewriter, _NAME, rounding, schemes, block=self.block, symmetric=self.symmetric)
        if used & {"int8-dynamic", "int8-weights"}:
            weights = replace(placement.weights, bits=self.bits)
            rounding = Rounding(rewriter, replace(placement, weights=weights))
            round_weights(rewriter, _NAME, rounding, schemes, rows=self.rows)

    def _run_static(self, rewriter: Rewriter, rounding: Rounding, schemes: Schemes) -> None:
        """Finds what is rounded, calibrates, and gives each integer call rounded operands."""
        full = self.coverage == "full"
        edges = find_edges(rewriter.program, rounding.placement, lambda n: _not_static(schemes, n), full=full)
        for node, why in edges.floats.items():
            if schemes.concern(node, "int8"):
                rewriter.refuse(node, f"it stays in float: {why}", rule=_NAME)
        ends = find_ends(rewriter.program, self.io_keep) if self.io == "int8" else Ends()
        edges.add(ends.inputs.values(), ends.outputs.values(), rounding.placement)
        ranges: dict[Node, Histogram] = {}
        if edges.source:
            data = cast(Iterable[object], rewriter.calibration)
            ranges = calibrate(rewriter.program, edges.observed(), data)
            _tell_of_few(ranges, rounding.placement.activations)
        made = _Insertion(rewriter, rounding, self.observer, edges, ranges)
        made.run(schemes, ends)
        if self.io == "int8":
            mark_integers(rewriter.program, *made.marks(ends), rounding.placement)


def _tell_of_few(ranges: dict[Node, Histogram], grid: Grid) -> None:
    """Warns of ranges that fewer values have shown than there are integers to round them to."""
    few = [n for n, h in ranges.items() if 0 < h.count <= grid.high - grid.low]
    if few:
        log.warning(
            "calibration has shown only %d values of %s (%d such ranges): give it more data",
            ranges[few[0]].count,
            place_of(few[0]),
            len(few),
        )


def _not_static(schemes: Schemes, node: Node) -> str:
    """Why a call does not run on integers of ranges that are fixed; "" if it does."""
    scheme = schemes.of(node)
    return schemes.left_out(node) or ("" if scheme == "int8" else f"it is rounded by {scheme}")


class _Insertion:
    """The rounded values made so far; nodes are those of the program as it was."""

    def __init__(
        self,
        rewriter: Rewriter,
        rounding: Rounding,
        observer: str,
        edges: Edges,
        ranges: dict[Node, Histogram],
    ) -> None:
        self.rewriter, self.rounding, self.edges = rewriter, rounding, edges
        self.placement = rounding.placement
        self.ranges = ranges
        self.numbers = {
            n: activation_numbers(h, observer, self.placement)
            for n, h in ranges.items()
            if h.count and not h.masks
        }
        self.rounded: dict[Node, Node] = {}
        self.scales: dict[Node, Node] = {}
        self.now: dict[Node, Node] = {}
        """What stands for a call that was made anew."""

    def run(self, schemes: Schemes, ends: Ends) -> None:
        """Makes the integer calls anew, in order, with rounded operands and, where it must be, a rounded result."""
        for node in ends.inputs.values():
            self._round_input(node)
        for node in self.rewriter.nodes():
            if schemes.concern(node, "int8"):
                looked_up = round_table(self.rewriter, _NAME, self.rounding, schemes, node)
                if looked_up is not None:
                    self.now[node] = looked_up
            reads = self.edges.integer.get(node, ())
            unknown = [x for x in reads if self.edges.source[x] not in self.numbers]
            if unknown:
                self.rewriter.refuse(node, f"it stays in float: {self._why_float(unknown[0])}", rule=_NAME)
            elif reads or self._rounds_result(node):
                self._make(node, reads)

    def _why_float(self, value: Node) -> str:
        """Why a value has no numbers."""
        masks = self.ranges[self.edges.source[value]].masks
        return (
            "it holds a mask, beside whose values all others round to 0"
            if masks
            else "calibration never ran it"
        )

    def _make(self, node: Node, reads: tuple[Node, ...]) -> None:
        with self.rewriter.rewrite(_NAME, node):
            operands = {self.now.get(x, x): self._activation(x) for x in reads}
            contraction = self.edges.contractions.get(node)
            if contraction is not None:
                operands |= self._constants(node, contraction, reads)
            new = self.now[node] = called_with(self.rewriter, node, operands)
            if self._rounds_result(node):
                new = self.rounded[node] = self._rounded(node, self.edges.source[node])
            self.rewriter.replace(node, new)

    def _round_input(self, node: Node) -> None:
        """An input, rounded for all that read it."""
        if node in self.numbers:
            with self.rewriter.rewrite(_NAME, self.rewriter.nodes()[0]):
                rounded = self._activation(node)
                self.rewriter.replace(node, rounded)
            self.now[node] = rounded

    def marks(self, ends: Ends) -> tuple[Ends, dict[Node, tuple[float, int]]]:
        """The inputs and outputs that are rounded, and their numbers; state why the others are not."""
        found = {
            n: self.numbers.get(self.edges.source[n]) for n in (*ends.inputs.values(), *ends.outputs.values())
        }
        for name, node in ends.outputs.items():
            if found[node] is None:
                raise InputError(f"the output {name!r} can't become integers: {self._why_float(node)}")
        for node in ends.inputs.values():
            if found[node] is None:
                self.rewriter.refuse(node, f"it stays in float: {self._why_float(node)}", rule=_NAME)
        numbers = {n: f for n, f in found.items() if f is not None}
        inputs = {name: n for name, n in ends.inputs.items() if n in numbers}
        return Ends(inputs, ends.outputs), numbers

    def _rounds_result(self, node: Node) -> bool:
        return node in self.edges.results and self.edges.source[node] in self.numbers

    def _activation(self, value: Node) -> Node:
        """A value, rounded; once for all that read it."""
        if value not in self.rounded:
            self.rounded[value] = self._rounded(value, self.edges.source[value])
        return self.rounded[value]

    def _rounded(self, value: Node, source: Node) -> Node:
        """The call that rounds a value by the range of another, of which it is a part."""
        scale, zero_point = self.numbers[source]
        if source not in self.scales:
            name = f"{self.now.get(source, source).name}_scale"
            self.scales[source] = self.rewriter.constant(torch.tensor(scale), name=name)
        now = self.now.get(value, value)
        return self.rounding.fake(now, self.scales[source], zero_point, self.placement.activations)

    def _constants(self, node: Node, contraction: Contraction, reads: tuple[Node, ...]) -> dict[Node, Node]:
        """Weight and bias of a product, rounded."""
        if not contraction.weight:
            return {}
        bound = bind(node)
        weight, bias = bound[contraction.weight], bound.get(contraction.bias)
        added = self.rewriter.value(bias) if self.placement.bias else None
        assert isinstance(weight, Node)
        input_scale, _ = self.numbers[self.edges.source[reads[0]]]
        # A bias is an integer of 32 bits in units of both scales: a scale that would not hold it grows.
        least = None if added is None else added.detach().abs() / (input_scale * (_BIAS.high // 2))
        rounded, scale = self.rounding.weight(weight, contraction.channel, least)
        if added is None:
            return {weight: rounded}
        assert isinstance(bias, Node)
        units = (scale.flatten() * torch.tensor(input_scale)).expand(added.shape).contiguous()
        return {weight: rounded, bias: self.rounding.by(bias, units, _BIAS)}
