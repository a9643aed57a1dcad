"""Bias correction: what rounding moves the mean of a layer's results by is taken off its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, arXiv:1906.04721, the
empirical form of its appendix D.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch.fx import Node

from fxopt.ops import bind, fake_quantize
from fxopt.passes.quantize._calibration import called, each_batch, last_uses
from fxopt.passes.quantize._edges import contraction_of, is_weight
from fxopt.passes.quantize._placement import placement_of
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import Program
from fxopt.rewriting import Rewriter

__all__ = ["CorrectBias"]

_NAME = "correct-bias"
_LOW, _HIGH = -(2**31), 2**31 - 1


@register_pass
class CorrectBias(Pass):
    """Takes off the biases what rounding moves the means of layers' results by, over the calibration data.

    Before: `%y = linear(%q, %qw, b)`. After: `%y = linear(%q, %qw, b')`, with `b'` such that the mean of each
    channel of `%y` is that which it has without any rounding. A layer without a bias gets one.

    One pass over the data, layer by layer: what a layer reads is corrected before. Memory is that of one batch.
    Where rare large values are clipped, a mean says little of the rest: if all corrections together do not bring
    the outputs nearer to those without rounding, none is made.
    """

    contract = Contract.APPROXIMATE
    requires: ClassVar[frozenset[str]] = frozenset({"quantized"})
    establishes: ClassVar[frozenset[str]] = frozenset({"bias-corrected"})
    excludes: ClassVar[frozenset[str]] = frozenset({"bias-corrected"})
    needs_calibration = True

    placement: str = ""
    """whose kernels say whether a new bias is rounded to 32 bits; by default the target's"""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            PipelineError: there is no such placement.
        """
        placement_of(self.placement)

    def placed(self, placement: str) -> Pass:
        """The target's placement, where none was asked for and it leaves biases in float."""
        return self if self.placement or placement_of(placement).bias else replace(self, placement=placement)

    def run(self, rewriter: Rewriter) -> None:
        """Measures what all layers are off by, then gives each its new bias."""
        layers = {n: found for n in rewriter.nodes() if (found := _layer_of(rewriter, n)) is not None}
        if not layers:
            return
        beside = _Beside(rewriter.program, layers)
        each_batch(rewriter.program, cast(Iterable[object], rewriter.calibration), beside.run)
        for node, layer in layers.items():
            shift = beside.shifts.get(node)
            if not beside.helps:
                rewriter.refuse(node, "the outputs would not come nearer", rule=_NAME)
            elif shift is not None and bool((shift != 0).any()):
                _correct(rewriter, node, layer, shift, rounds=placement_of(self.placement).bias)


@dataclass(frozen=True)
class _Layer:
    """A product with a rounded weight.

    Attributes:
        channel: the result's dimension of output channels, from the right.
        units: what a bias is a multiple of where it is rounded, one number a channel: input scale times weight
            scale.
    """

    channel: int
    units: torch.Tensor


def _layer_of(rewriter: Rewriter, node: Node) -> _Layer | None:
    """How a call is a product with a rounded weight; None, with a refusal, where it has no place for a bias."""
    found = contraction_of(node, _is_rounded_weight)
    if isinstance(found, str) or not found.weight or found.channel is None:
        return None
    bound = bind(node)
    weight, activation = bound[found.weight], bound[found.activations[0]]
    if not _is_rounding(weight):
        return None
    if "bias" not in bound or (found.bias or "bias") != "bias":
        rewriter.refuse(node, "it has no place for a bias", rule=_NAME)
        return None
    if not _is_rounding(activation):
        rewriter.refuse(node, "what it reads is not rounded", rule=_NAME)
        return None
    scale, weight_scale = (rewriter.value(cast(Node, n).args[1]) for n in (activation, weight))
    if found.result_channel is None or scale is None or weight_scale is None or scale.numel() != 1:
        return None
    count = node.meta["val"].shape[found.result_channel]
    units = (scale.reshape(()) * weight_scale.flatten()).expand(count).contiguous()
    return _Layer(found.result_channel, units)


def _is_rounding(value: object) -> bool:
    return isinstance(value, Node) and value.target is fake_quantize


def _is_rounded_weight(argument: object) -> bool:
    """A weight, rounded or not."""
    return is_weight(argument) or (
        isinstance(argument, Node) and _is_rounding(argument) and is_weight(argument.args[0])
    )


class _Beside:
    """Runs a program without rounding, with it, and with it and corrected, call by call, a batch at a time.

    Attributes:
        shifts: what each layer's bias grows by, one number a channel.
    """

    def __init__(self, program: Program, layers: dict[Node, _Layer]) -> None:
        self._program, self._layers = program, layers
        self._last = last_uses(program.graph.nodes)
        self._counts: dict[Node, int] = {}
        self._error, self._error_corrected = 0.0, 0.0
        self.shifts: dict[Node, torch.Tensor] = {}

    @property
    def helps(self) -> bool:
        """Whether the outputs are nearer to those without rounding with the corrections than without them."""
        return self._error_corrected < self._error

    def run(self, *tensors: torch.Tensor) -> None:
        """One batch."""
        given = iter(tensors)
        values: dict[Node, _Three] = {}
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                values[node] = _Three.of(next(given))
            elif node.op == "get_attr":
                values[node] = _Three.of(self._program.weights[str(node.target)].detach())
            elif node.op == "call_function":
                values[node] = self._called(node, values)
            else:
                self._compare(values)
            for used in self._last.get(node, ()):
                del values[used]

    def _called(self, node: Node, values: dict[Node, "_Three"]) -> "_Three":
        plain = called(node, lambda n: values[n].plain, rounds=False)
        rounded = called(node, lambda n: values[n].rounded)
        if all(values[n].rounded is values[n].corrected for n in node.all_input_nodes):
            corrected = rounded
        else:
            corrected = called(node, lambda n: values[n].corrected)
        return _Three(plain, rounded, self._corrected(node, plain, corrected))

    def _corrected(self, node: Node, wanted: object, got: object) -> object:
        """A layer's rounded result with the mean of what it should have been, over all batches so far."""
        layer = self._layers.get(node)
        if layer is None:
            return got
        assert isinstance(wanted, torch.Tensor) and isinstance(got, torch.Tensor)
        if not got.numel():
            return got
        others = [d for d in range(-got.dim(), 0) if d != layer.channel]
        error = wanted.double() - got.double()
        shift = error.mean(others) if others else error
        total = self._counts[node] = self._counts.get(node, 0) + got.numel()
        old = self.shifts.get(node, torch.zeros_like(shift))
        new = self.shifts[node] = old + (shift - old) * (got.numel() / total)
        return got + new.to(got.dtype).reshape([-1] + [1] * (-layer.channel - 1))

    def _compare(self, values: dict[Node, "_Three"]) -> None:
        """Adds up the squared errors of the outputs, each relative to its own size."""
        for node in self._program.output_nodes():
            three = values[node] if isinstance(node, Node) else None
            if (
                three is None
                or not isinstance(three.plain, torch.Tensor)
                or not three.plain.is_floating_point()
            ):
                continue
            wanted = three.plain.double()
            size = float(wanted.square().sum()) or 1.0
            for name, got in (("_error", three.rounded), ("_error_corrected", three.corrected)):
                assert isinstance(got, torch.Tensor)
                error = float((wanted - got.double()).square().sum()) / size
                setattr(self, name, getattr(self, name) + error)


@dataclass(frozen=True)
class _Three:
    """A value without rounding, with it, and with it and corrected."""

    plain: object
    rounded: object
    corrected: object

    @classmethod
    def of(cls, value: object) -> "_Three":
        return cls(value, value, value)


def _correct(rewriter: Rewriter, node: Node, layer: _Layer, shift: torch.Tensor, *, rounds: bool) -> None:
    """Gives a layer its new bias, a multiple of the same units as the old one if that was rounded.

    `rounds` is whether a bias is rounded where there was none.
    """
    bound = bind(node)
    old = bound["bias"]
    weight = old.args[0] if isinstance(old, Node) and _is_rounding(old) else old
    moved = shift if old is None else _bias_value(rewriter, old).double() + shift
    if bool((moved / layer.units).abs().max() >= _HIGH):
        rewriter.refuse(node, "its bias would not fit into 32 bits", rule=_NAME)
        return
    with rewriter.rewrite(_NAME, node):
        dtype = node.meta["val"].dtype
        successor = weight if isinstance(weight, Node) else None
        bias = rewriter.constant(moved.to(dtype), successor_of=successor, name=_bias_name(weight, node))
        if old is None and rounds:
            units = rewriter.constant(layer.units, name=f"{bias.target}_scale")
            zero = rewriter.constant(torch.tensor(0), name="zero_point_0")
            bias = rewriter.call(fake_quantize, bias, units, zero, _LOW, _HIGH)
        elif old is not None and weight is not old:
            bias = rewriter.call(fake_quantize, bias, *cast(Node, old).args[1:])
        given = {**bound, "bias": bias}
        rewriter.replace(node, rewriter.call(node.target, **given))


def _bias_value(rewriter: Rewriter, bias: object) -> torch.Tensor:
    """What is added now: a weight, or what it is rounded to."""
    tensor = rewriter.value(bias)
    if tensor is not None:
        return tensor.detach()
    assert isinstance(bias, Node)
    found = called(bias, lambda n: cast(torch.Tensor, rewriter.value(n)).detach())
    assert isinstance(found, torch.Tensor)
    return found


def _bias_name(weight: object, node: Node) -> str:
    return str(weight.target) if isinstance(weight, Node) else f"{node.name}_bias"
