"""Products of a rounded value with integer weights: what of them torch's kernels take, and why not the rest."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.lowering.kernels.values import Packed
from fxopt.ops.info import op_key
from fxopt.ops.quantized import choose_qparams, dequantize, fake_quantize, to_integers
from fxopt.ops.schema import bind

__all__ = ["Numbers", "Product", "numbers_of", "product_of", "range_of"]

Weights = Mapping[str, torch.Tensor]
_SMALLEST = float(torch.finfo(torch.float32).tiny)
"""Of scales: kernels multiply by the reciprocal, which must be finite."""
_CONVOLUTIONS = {f"aten.conv{n}d.default": f"conv{n}d" for n in (1, 2, 3)}
_PRODUCTS = {
    **dict.fromkeys((*_CONVOLUTIONS, "aten.linear.default"), ("input", "weight", "bias", False)),
    **dict.fromkeys(("aten.matmul.default",), ("self", "other", "", True)),
    "aten.mm.default": ("self", "mat2", "", True),
    "aten.addmm.default": ("mat1", "mat2", "self", True),
}
"""Names of the activation, the weight and the bias, and whether output channels are the weight's last dimension."""


@dataclass(frozen=True)
class Numbers:
    """Scale and zero point of a value that is rounded to 0 to 255."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Product:
    """A product that a kernel computes."""

    rounded: Node
    """The `fake_quantize` that it reads."""
    packed: Packed
    weight: Node
    """What its integers are, as a weight of the program."""

    def readers(self) -> list[Node]:
        """The calls that read the weight, as floats or integers."""
        stored = [n for n in self.weight.users if n.target is dequantize]
        others = [n for n in self.weight.users if n.target is not dequantize]
        return [*others, *(user for n in stored for user in n.users)]


def numbers_of(node: object, weights: Weights) -> Numbers | None:
    """The numbers of an activation's rounding; None for any other node, or where kernels do not take them."""
    if not isinstance(node, Node):
        return None
    if node.target is dequantize:
        x, scale, zero_point = node.args
        taken = isinstance(x, Node) and x.op == "placeholder" and x.meta["val"].dtype is torch.uint8
        limits: tuple[object, ...] = (0, 255) if taken else ()
    elif node.target in (fake_quantize, to_integers):
        x, scale, zero_point, *bounds = node.args
        limits = tuple(bounds)
    else:
        return None
    if not isinstance(x, Node) or x.op == "get_attr" or limits != (0, 255):
        return None
    found = [_constant(n, weights) for n in (scale, zero_point)]
    if any(t is None or t.numel() != 1 for t in found):
        return None
    if found[0] is not None and found[0].dtype is not torch.float32:
        return None
    step, zero = (t.item() for t in found if t is not None)
    return Numbers(float(step), int(zero)) if step >= _SMALLEST else None


def range_of(node: object) -> tuple[Node, Node, Node] | None:
    """Value, scale and zero point of a rounding to 0 to 255 by the range at each call; None for any other node."""
    if not isinstance(node, Node) or node.target is not fake_quantize or node.args[3:] != (0, 255):
        return None
    x, *numbers = node.args[:3]
    for place, number in enumerate(numbers):
        if not isinstance(number, Node) or number.target is not operator.getitem or number.args[1] != place:
            return None
        source = number.args[0]
        if not isinstance(source, Node) or source.target is not choose_qparams or source.args[0] is not x:
            return None
    assert isinstance(x, Node)
    scale, zero_point = (n for n in numbers if isinstance(n, Node))
    return x, scale, zero_point


def product_of(node: Node, weights: Weights, most_groups: int | None) -> Product | str:
    """A call as a product that a kernel computes, or why it is none; "" where it reads no integer weight.

    Args:
        node: any call.
        weights: of its program.
        most_groups: of a convolution, above which its kernel may saturate; None for no limit.
    """
    names = _PRODUCTS.get(op_key(node.target)) if isinstance(node.target, torch._ops.OpOverload) else None
    operands = list(node.args)
    stored = [a for a in operands if isinstance(a, Node) and a.target is dequantize and not _taken(a)]
    if not stored:
        return ""
    if names is None:
        return "torch has no integer kernel for it"
    bound = bind(node)
    x, weight, bias = (bound.get(n) for n in names[:3])
    if numbers_of(x, weights) is None and range_of(x) is None:
        return "what it reads is not rounded to 0 to 255"
    assert isinstance(x, Node)
    kind = _CONVOLUTIONS.get(op_key(node.target), "linear")
    geometry = _geometry(bound) if kind != "linear" else ()
    if geometry is None:
        return "its padding is no number"
    if any(bound.get(n, 1) != 1 for n in ("alpha", "beta")):
        return "its terms are scaled"
    groups = bound.get("groups", 1)
    assert isinstance(groups, int)
    if most_groups is not None and groups > most_groups:
        return f"the kernel for more than {most_groups} groups saturates"
    why = _why_not_taken(x, weight, kind)
    if why:
        return why
    stored_weight = _stored(weight, weights, names[3], matrix=kind == "linear")
    if isinstance(stored_weight, str):
        return stored_weight
    stored_bias = _bias(bias, weights)
    if isinstance(stored_bias, str):
        return stored_bias
    packed = Packed(kind, *stored_weight, *stored_bias, names[3], geometry, groups)
    assert isinstance(weight, Node) and isinstance(weight.args[0], Node)
    return Product(x, packed, weight.args[0])


def _why_not_taken(x: Node, weight: object, kind: str) -> str:
    """Why a kernel does not take what it reads, by its number of dimensions; "" if it does."""
    values = [n.meta.get("val") if isinstance(n, Node) else None for n in (x, weight)]
    ranks = [v.dim() for v in values if isinstance(v, torch.Tensor)]
    if len(ranks) < 2:
        return "the sizes of what it reads are not known"
    if kind == "linear":
        return "" if ranks[0] > 1 else "what it reads is a vector"
    return "" if ranks[0] == ranks[1] else "what it reads has no batch"


def _geometry(bound: Mapping[str, object]) -> tuple[tuple[int, ...], ...] | None:
    found = [bound[n] for n in ("stride", "padding", "dilation")]
    if any(not isinstance(v, (list, tuple)) or not all(type(i) is int for i in v) for v in found):
        return None
    return tuple(tuple(v) for v in found if isinstance(v, (list, tuple)))


def _stored(weight: object, weights: Weights, last: bool, *, matrix: bool) -> tuple[str, str] | str:
    """The names of the integers and their scale, or why a kernel does not take them."""
    if not isinstance(weight, Node) or weight.target is not dequantize:
        return "its weight is no stored integer"
    integers, scale, zero_point = (_constant(n, weights) for n in weight.args)
    if integers is None or scale is None or zero_point is None:
        return "its weight is computed"
    if integers.dtype is not torch.int8 or bool((zero_point != 0).any()):
        return "its weight is not int8 around zero"
    if matrix and integers.dim() != 2:
        return "its weight is no matrix"
    channel = integers.dim() - 1 if last else 0
    by_channel = scale.dim() == integers.dim() and scale.shape[channel] == scale.numel()
    if scale.numel() != 1 and not by_channel:
        return "its scales are not one an output channel"
    return _name(weight.args[0]), _name(weight.args[1])


def _bias(bias: object, weights: Weights) -> tuple[str, str] | str:
    """The names of a bias and its scale, "" for what there is not; or why a kernel does not take it."""
    if bias is None:
        return "", ""
    assert isinstance(bias, Node)
    if bias.target is dequantize:
        integers, scale, zero_point = (_constant(n, weights) for n in bias.args)
        if integers is not None and scale is not None and zero_point is not None and integers.dim() == 1:
            return _name(bias.args[0]), _name(bias.args[1])
    found = _constant(bias, weights)
    return "its bias is no weight by channel" if found is None or found.dim() != 1 else (_name(bias), "")


def _taken(node: Node) -> bool:
    """Whether a call makes floats of an input, not of a weight."""
    return isinstance(node.args[0], Node) and node.args[0].op == "placeholder"


def _name(argument: object) -> str:
    assert isinstance(argument, Node)
    return str(argument.target)


def _constant(argument: object, weights: Weights) -> torch.Tensor | None:
    """The weight that an argument is; None if it is none."""
    if isinstance(argument, Node) and argument.op == "get_attr":
        return weights[str(argument.target)]
    return None
