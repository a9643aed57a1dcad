"""SmoothQuant: channels of a norm's result that outlie the others become smaller, the weights that read them larger."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.errors import PipelineError
from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.passes.quantize._calibration import watch
from fxopt.passes.quantize._edges import product_of
from fxopt.passes.quantize._left_out import left_out
from fxopt.passes.quantize._rounding import called_with
from fxopt.passes.quantize._smoothing import Channels, best_scale, smoothing_scale
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["SmoothQuant"]

_NAME = "smooth-quant"
_NORMS = ("layer_norm", "rms_norm")


def _block(x: torch.Tensor, g: Const, b: Const, w: Const, v: Const) -> torch.Tensor:
    y = F.layer_norm(x, x.shape[-1:], g, b)
    return F.linear(F.linear(y, w).relu(), v) + y


@register_pass
class SmoothQuant(Pass):
    """Moves outlying channels of a norm's result into the weights that read it: what is then rounded is smoother.

    Before: `%y = layer_norm(%x, [64], g, b)`, `%z = linear(%y, w)`. After: `%y = layer_norm(%x, [64], g / s, b / s)`,
    `%z = linear(%y, w * s)`, the same function. What else reads the norm's result reads `%y * s`.

    For each norm, `s = max|x|**alpha / max|w|**(1 - alpha)` with the alpha of 0.1 to 1 by which results of the layers
    have the least error to expect once inputs and weights are rounded to 8 bits; a norm is left alone where none takes
    a tenth off it. One pass over the data, with memory of one batch.

    Xiao et al., 2022, arXiv:2211.10438.
    """

    contract = Contract.EQUIVALENT
    establishes: ClassVar[frozenset[str]] = frozenset({"smoothed"})
    excludes: ClassVar[frozenset[str]] = frozenset({"smoothed", "quantized"})
    needs_calibration = True
    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_block,)

    alpha: float | None = None
    """the share of the range that moves to the weights, 0 to 1; by default the best for each norm"""
    ignore: tuple[str, ...] = ()
    """names of modules or ops whose calls stay as they are, * for any letters"""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            PipelineError: alpha is no share.
        """
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise PipelineError(f"alpha is {self.alpha:g}; expected 0 to 1")

    def run(self, rewriter: Rewriter) -> None:
        """Finds norms and the layers that read them, chooses an alpha for each, and moves the channels."""
        groups = [g for n in rewriter.nodes() if (g := self._group(rewriter, n)) is not None]
        if not groups:
            return
        channels = {g.norm: Channels() for g in groups}
        data = cast(Iterable[object], rewriter.calibration)
        watch(rewriter.program, {n: c.update for n, c in channels.items()}, data)
        for group in groups:
            scale = self._scale(channels[group.norm], group.weights)
            if scale is None:
                rewriter.refuse(group.norm, "calibration shows no gain", rule=_NAME)
            else:
                _move(rewriter, group, scale)

    def _scale(self, channels: Channels, weights: torch.Tensor) -> torch.Tensor | None:
        if self.alpha is not None:
            return smoothing_scale(channels, weights, self.alpha)
        return best_scale(channels, weights) if channels.count else None

    def _group(self, rewriter: Rewriter, node: Node) -> "_Group | None":
        """A norm whose scale is known, with the layers that read it."""
        if aten_name(node) not in _NORMS:
            return None
        bound = bind(node)
        affine = [bound.get(n) for n in ("weight", "bias") if bound.get(n) is not None]
        layers = {
            u: found for u in node.users if u.op != "output" and (found := _weight_of(u, node)) is not None
        }
        if not layers:
            return None
        why = left_out(node, self.ignore) or next((w for u in layers if (w := left_out(u, self.ignore))), "")
        if not all(rewriter.value(a) is not None for a in affine):
            why = "its scale is computed at run time"
        elif any(u not in layers for w, _ in layers.values() for u in w.users):
            why = "a layer's weight is read elsewhere too"
        if why:
            rewriter.refuse(node, why, rule=_NAME)
            return None
        matrices = [
            cast(torch.Tensor, rewriter.value(w)).detach().movedim(axis, 0) for w, axis in layers.values()
        ]
        return _Group(node, layers, torch.cat(matrices, 1))


@dataclass(frozen=True, eq=False)
class _Group:
    """A norm and the layers that read it.

    Attributes:
        norm: the call.
        layers: the products, each with its weight and the weight's axis of input channels.
        weights: of all of them, [in, out].
    """

    norm: Node
    layers: dict[Node, tuple[Node, int]]
    weights: torch.Tensor


def _weight_of(node: Node, x: Node) -> tuple[Node, int] | None:
    """The weight of a product that sums over the last dimension of `x`, and its axis of input channels."""
    found = product_of(node, _is_factor)
    if isinstance(found, str) or found.channel is None or found.result_channel != -1:
        return None
    bound = bind(node)
    weight = bound[found.weight]
    assert isinstance(weight, Node)
    if weight.meta["val"].dim() != 2 or bound[found.activations[0]] is not x:
        return None
    return weight, 1 - found.channel


def _is_factor(argument: object) -> bool:
    """Whether an argument is a floating-point weight: a factor, or what is added."""
    if not isinstance(argument, Node) or argument.op != "get_attr":
        return False
    value = argument.meta["val"]
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _move(rewriter: Rewriter, group: _Group, scale: torch.Tensor) -> None:
    """Divides the norm's result by a number a channel, and multiplies the weights and whatever else reads it."""
    norm, bound = group.norm, bind(group.norm)
    dtype = norm.meta["val"].dtype
    scale = scale.to(dtype)
    others = [u for u in norm.users if u not in group.layers]
    with rewriter.rewrite(_NAME, norm):
        given = dict(bound)
        for name in ("weight", "bias"):
            old = bound.get(name)
            if old is None and name == "bias":
                continue
            tensor = (
                torch.ones_like(scale) if old is None else cast(torch.Tensor, rewriter.value(old)).detach()
            )
            divided = (tensor.double() / scale.double()).to(tensor.dtype)
            given[name] = rewriter.constant(divided, successor_of=cast("Node | None", old))
        smooth = rewriter.call(norm.target, **given)
        for layer, (weight, axis) in group.layers.items():
            with rewriter.instead(layer):
                rewriter.replace(layer, _scaled(rewriter, layer, smooth, weight, axis, scale, norm))
        if others:
            factor = rewriter.constant(scale, name=f"{norm.name}_smoothing")
            rewriter.replace(norm, rewriter.call("aten.mul", smooth, factor))


def _scaled(
    rewriter: Rewriter, layer: Node, smooth: Node, weight: Node, axis: int, scale: torch.Tensor, norm: Node
) -> Node:
    """A layer that reads the smoother values, its weight larger where they are smaller."""
    tensor = cast(torch.Tensor, rewriter.value(weight)).detach()
    factor = scale.double().reshape([-1, 1] if axis == 0 else [1, -1])
    moved = rewriter.constant(
        (tensor.double() * factor).to(tensor.dtype), name=str(weight.target), successor_of=weight
    )
    operands = {norm: smooth, weight: moved}
    return called_with(rewriter, layer, operands)
