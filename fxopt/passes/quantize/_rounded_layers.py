"""Layers whose weights are rounded, as matrices: what passes that choose integers anew have in common."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import bind, fake_quantize
from fxopt.passes._names import aten_name
from fxopt.passes.quantize._edges import contraction_of, is_weight
from fxopt.passes.quantize._left_out import left_out
from fxopt.passes.quantize._optimal_rounding import Steps
from fxopt.rewriting import Rewriter

__all__ = ["Matrix", "RoundedLayer", "add_products", "find_layers", "in_parts", "put_weight"]

_VIEWS = ("reshape",)


@dataclass(frozen=True)
class Matrix:
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
class RoundedLayer:
    """A rounded weight, and what the products read that it is a factor of.

    Attributes:
        rounding: the call that rounds it.
        matrix: how a product reads it.
        reads: the other factor of each product.
    """

    rounding: Node
    matrix: Matrix
    reads: list[Node] = field(default_factory=list)

    @property
    def elements(self) -> int:
        """Of the second moments of what it reads."""
        inputs = math.prod(self.matrix.shape) // self.matrix.shape[-1 if self.matrix.transposed else 0]
        return self.matrix.groups * inputs**2

    def weights(self, rewriter: Rewriter) -> Iterator[tuple[torch.Tensor, Steps]]:
        """Each matrix, float64[out, in], and what its elements may be."""
        bound = bind(self.rounding)
        x, scale, zero_point = (
            cast(torch.Tensor, rewriter.value(bound[n])).detach() for n in ("x", "scale", "zero_point")
        )
        low, high = cast(int, bound["quant_min"]), cast(int, bound["quant_max"])
        parts = (self.matrix.split(t.double().expand(x.shape)) for t in (x, scale, zero_point))
        for weight, s, z in zip(*parts, strict=True):
            yield weight, Steps(s, z, low, high)

    def weight_of(self, rewriter: Rewriter, matrices: list[torch.Tensor]) -> torch.Tensor:
        """The weight of such matrices, as it is stored."""
        stored = cast(torch.Tensor, rewriter.value(bind(self.rounding)["x"]))
        return self.matrix.joined(matrices, stored.shape).to(stored.dtype)


def find_layers(rewriter: Rewriter, rule: str, ignore: tuple[str, ...]) -> list[RoundedLayer]:
    """The weights that are rounded and read by layers alone; refuses others.

    Args:
        rewriter: of the program.
        rule: in whose name is refused.
        ignore: names of modules or ops whose weights stay as they are.
    """
    found: dict[Node, RoundedLayer] = {}
    readers: dict[Node, set[Node]] = {}
    for node in rewriter.nodes():
        product = contraction_of(node, _is_factor)
        rounding = None if isinstance(product, str) else _rounding_of(bind(node).get(product.weight))
        if rounding is None or isinstance(product, str):
            continue
        matrix = _matrix_of(node, product.channel)
        why = left_out(node, ignore) or (matrix if isinstance(matrix, str) else "")
        if why or isinstance(matrix, str):
            rewriter.refuse(node, why, rule=rule)
            continue
        layer = found.setdefault(rounding, RoundedLayer(rounding, matrix))
        layer.reads.append(cast(Node, bind(node)[product.activations[0]]))
        readers.setdefault(rounding, set()).add(node)
    for rounding in list(found):
        # Two roundings of a weight would become two weights.
        if _last_readers(rounding) != readers[rounding] or len(rounding.all_input_nodes[0].users) > 1:
            rewriter.refuse(rounding, "its weight is read elsewhere too", rule=rule)
            del found[rounding]
    return list(found.values())


def put_weight(rewriter: Rewriter, rule: str, layer: RoundedLayer, matrices: list[torch.Tensor]) -> None:
    """Gives a layer other weights, where they are other ones.

    Args:
        rewriter: of the program.
        rule: in whose name.
        layer: one of it.
        matrices: float64[out, in] each.
    """
    old, tensor = cast(Node, bind(layer.rounding)["x"]), layer.weight_of(rewriter, matrices)
    if torch.equal(tensor, cast(torch.Tensor, rewriter.value(old))):
        return
    with rewriter.rewrite(rule, layer.rounding):
        new = rewriter.constant(tensor, name=str(old.target), successor_of=old)
        rewriter.replace(layer.rounding, rewriter.call(fake_quantize, new, *layer.rounding.args[1:]))


def add_products(sums: list[torch.Tensor], left: torch.Tensor, right: torch.Tensor) -> None:
    """Adds `left^T right` of each matrix to its sum; float64[matrices, rows, in], and [in, in] for each matrix."""
    products = list(left.mT @ right)
    sums[:] = [a + b for a, b in zip(sums, products, strict=True)] if sums else products


def in_parts(layers: Sequence[RoundedLayer], most: int) -> Iterator[list[RoundedLayer]]:
    """As many layers at a time as there is room for elements of second moments, in order; at least one."""
    part: list[RoundedLayer] = []
    for layer in layers:
        if part and sum(other.elements for other in [*part, layer]) > most:
            yield part
            part = []
        part.append(layer)
    if part:
        yield part


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


def _matrix_of(node: Node, channel: int | None) -> Matrix | str:
    """A product as matrices, or why it is none."""
    bound = bind(node)
    if node.target is torch.ops.aten.conv2d.default:
        weight = cast(Node, bound["weight"]).meta["val"]
        names = {"stride": "stride", "padding": "padding", "dilation": "dilation"}
        unfold = {k: bound[v] for k, v in names.items()}
        return Matrix(
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
    return Matrix(tuple(weight.shape), transposed=channel == 1)
