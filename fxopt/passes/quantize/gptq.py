"""GPTQ: the integers of weights are chosen by what the layers' results are off by."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.errors import InputError, PipelineError
from fxopt.ops import bind, fake_quantize
from fxopt.passes._names import aten_name
from fxopt.passes.quantize._calibration import watch
from fxopt.passes.quantize._edges import contraction_of, is_weight
from fxopt.passes.quantize._left_out import left_out
from fxopt.passes.quantize._optimal_rounding import Steps, round_optimally
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["Gptq"]

_NAME = "gptq"
_VIEWS = ("reshape",)
_AT_ONCE = 64 * 1024**2
"""Elements of second moments that are kept in memory at a time."""


@register_pass
class Gptq(Pass):
    """Chooses the integers of rounded weights by what layers' results are off by, over the calibration data.

    Before and after: `%q = fake_quantize(w, scale, zero_point, -128, 127)`, `%y = linear(%x, %q)`, with another `w`:
    one of the values that this rounding gives. Inputs of a layer are rounded one after the other, and those that come
    make up for what is lost so far; no output channel is off by more than it was.

    Matrix products and convolutions, of any bits, by channel or block. One pass over the data for as many layers as
    half a gigabyte holds the second moments of.

    Frantar et al., 2022, arXiv:2210.17323.
    """

    contract = Contract.APPROXIMATE
    requires: ClassVar[frozenset[str]] = frozenset({"quantized"})
    needs_calibration = True

    damping: float = 0.01
    """what is added to the diagonal of the second moments, as a share of its mean"""
    act_order: bool = True
    """inputs of the largest mean square are rounded first"""
    ignore: tuple[str, ...] = ()
    """names of modules or ops whose weights stay as they are, * for any letters"""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            PipelineError: the damping is no positive number.
        """
        if not self.damping > 0:
            raise PipelineError(f"damping is {self.damping:g}; expected a number above 0")

    def run(self, rewriter: Rewriter) -> None:
        """Takes the second moments of what layers read, some layers at a time, and rounds."""
        for part in _parts(self._layers(rewriter)):
            seen: dict[Node, list[_Layer]] = {}
            for layer in part:
                for value in layer.reads:
                    seen.setdefault(value, []).append(layer)
            data = cast(Iterable[object], rewriter.calibration)
            watch(rewriter.program, {n: _told(layers) for n, layers in seen.items()}, data)
            for layer in part:
                self._round(rewriter, layer)

    def _layers(self, rewriter: Rewriter) -> "list[_Layer]":
        """The weights that are rounded and read by layers alone."""
        found: dict[Node, _Layer] = {}
        readers: dict[Node, set[Node]] = {}
        for node in rewriter.nodes():
            product = contraction_of(node, _is_factor)
            rounding = None if isinstance(product, str) else _rounding_of(bind(node).get(product.weight))
            if rounding is None or isinstance(product, str):
                continue
            matrix = _matrix_of(node, product.channel)
            why = left_out(node, self.ignore) or (matrix if isinstance(matrix, str) else "")
            if why or isinstance(matrix, str):
                rewriter.refuse(node, why, rule=_NAME)
                continue
            layer = found.setdefault(rounding, _Layer(rounding, matrix))
            layer.reads.append(cast(Node, bind(node)[product.activations[0]]))
            readers.setdefault(rounding, set()).add(node)
        for rounding in list(found):
            # Two roundings of a weight would become two weights.
            if _last_readers(rounding) != readers[rounding] or len(rounding.all_input_nodes[0].users) > 1:
                rewriter.refuse(rounding, "its weight is read elsewhere too", rule=_NAME)
                del found[rounding]
        return list(found.values())

    def _round(self, rewriter: Rewriter, layer: "_Layer") -> None:
        if not layer.moments:
            rewriter.refuse(layer.rounding, "calibration never ran it", rule=_NAME)
            return
        bound = bind(layer.rounding)
        tensors = [
            cast(torch.Tensor, rewriter.value(bound[n])).detach() for n in ("x", "scale", "zero_point")
        ]
        stored = tensors[0].shape
        parts = [layer.matrix.split(t.double().expand(stored)) for t in tensors]
        low, high = cast(int, bound["quant_min"]), cast(int, bound["quant_max"])
        rounded = [
            round_optimally(w, h, Steps(s, z, low, high), damping=self.damping, by_activation=self.act_order)
            for w, s, z, h in zip(*parts, layer.moments, strict=True)
        ]
        tensor = layer.matrix.joined(rounded, stored).to(tensors[0].dtype)
        if torch.equal(tensor, tensors[0]):
            return
        old = cast(Node, bound["x"])
        with rewriter.rewrite(_NAME, layer.rounding):
            new = rewriter.constant(tensor, name=str(old.target), successor_of=old)
            rewriter.replace(layer.rounding, rewriter.call(fake_quantize, new, *layer.rounding.args[1:]))


@dataclass(frozen=True)
class _Matrix:
    """A layer as matrices, [out, in] each, of which each reads its rows: one, or one a group of a convolution.

    Attributes:
        shape: of the weight as the layer reads it.
        transposed: the weight is [in, out].
        unfold: how a convolution takes its windows; None for a product of matrices.
        groups: of the convolution.
    """

    shape: tuple[int, ...]
    transposed: bool
    unfold: dict[str, Any] | None = None
    groups: int = 1

    def split(self, weight: torch.Tensor) -> list[torch.Tensor]:
        """The matrices of a weight, or of numbers for each of its elements, in the shape that is stored."""
        weight = weight.reshape(self.shape)
        weight = weight.t() if self.transposed else weight
        return list(weight.reshape(len(weight), -1).chunk(self.groups))

    def joined(self, matrices: list[torch.Tensor], stored: torch.Size) -> torch.Tensor:
        """The weight of such matrices."""
        whole = torch.cat(matrices)
        return (whole.t() if self.transposed else whole).reshape(stored)

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """What the matrices read, [groups, rows, in]."""
        if self.unfold is None:
            return x.reshape(1, -1, x.shape[-1])
        windows: torch.Tensor = F.unfold(x if x.dim() == 4 else x[None], **self.unfold)
        by_group: torch.Tensor = windows.unflatten(1, (self.groups, -1))
        return by_group.movedim(1, 0).mT.flatten(1, 2)


@dataclass(eq=False)
class _Layer:
    """A rounded weight, and what the products read that it is a factor of.

    Attributes:
        moments: the sums of `x x^T`, one for each matrix; none before data are seen.
    """

    rounding: Node
    matrix: _Matrix
    reads: list[Node] = field(default_factory=list)
    moments: list[torch.Tensor] = field(default_factory=list)

    @property
    def elements(self) -> int:
        """Of the second moments."""
        inputs = math.prod(self.matrix.shape) // self.matrix.shape[-1 if self.matrix.transposed else 0]
        return self.matrix.groups * inputs**2

    def update(self, x: torch.Tensor) -> None:
        """Adds what a product reads in a batch."""
        if not x.numel():
            return
        rows = self.matrix.rows(x).double()
        moments = list(rows.mT @ rows)
        self.moments = (
            [a + b for a, b in zip(self.moments, moments, strict=True)] if self.moments else moments
        )


def _parts(layers: list[_Layer]) -> Iterator[list[_Layer]]:
    """As many layers at a time as memory has room for, in order; at least one."""
    part: list[_Layer] = []
    for layer in layers:
        if part and sum(other.elements for other in [*part, layer]) > _AT_ONCE:
            yield part
            part = []
        part.append(layer)
    if part:
        yield part


def _told(layers: list[_Layer]) -> Callable[[torch.Tensor], None]:
    def see(value: torch.Tensor) -> None:
        if not bool(value.isfinite().all()):
            raise InputError("a value is NaN or infinite")
        for layer in layers:
            layer.update(value)

    return see


def _rounding_of(argument: object) -> Node | None:
    """The call that rounds a weight, which an argument is, or is a view of; None if it is none."""
    while isinstance(argument, Node) and aten_name(argument) in _VIEWS:
        argument = argument.args[0]
    rounds = isinstance(argument, Node) and argument.target is fake_quantize and is_weight(argument.args[0])
    return argument if rounds and isinstance(argument, Node) else None


def _last_readers(node: Node) -> set[Node]:
    """What reads a value, or a view of it."""
    return {r for u in node.users for r in (_last_readers(u) if aten_name(u) in _VIEWS else {u})}


def _is_factor(argument: object) -> bool:
    return is_weight(argument) or _rounding_of(argument) is not None


def _matrix_of(node: Node, channel: int | None) -> _Matrix | str:
    """A product as matrices, or why it is none."""
    bound = bind(node)
    if node.target is torch.ops.aten.conv2d.default:
        weight = cast(Node, bound["weight"]).meta["val"]
        names = {"stride": "stride", "padding": "padding", "dilation": "dilation"}
        unfold = {k: bound[v] for k, v in names.items()}
        return _Matrix(
            tuple(weight.shape),
            False,
            unfold | {"kernel_size": tuple(weight.shape[2:])},
            cast(int, bound["groups"]),
        )
    product = contraction_of(node, _is_factor)
    weight = None if isinstance(product, str) else cast(Node, bound[product.weight]).meta["val"]
    if (
        weight is None
        or weight.dim() != 2
        or channel is None
        or isinstance(product, str)
        or product.result_channel != -1
    ):
        return "it is no product with a matrix and no convolution in two dimensions"
    return _Matrix(tuple(weight.shape), transposed=channel == 1)
