"""Complex numbers between real ones: a complex value is the real one of its parts, along a last axis of 2.

ONNX has no complex tensors. A model that has them inside only (rotary embeddings by `view_as_complex`, the real part of a Fourier
transform) is written without; what has no rule here has none for complex values.
"""

import math
from collections.abc import Callable

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call
from fxopt.lowering.onnx.graph import Value
from fxopt.lowering.target import find_rule
from fxopt.ops.info import op_key
from fxopt.ops.sizes import Size

__all__ = ["complex_rule", "is_complex"]

_Rule = Callable[[Builder, Call], Value]
_RULES: dict[str, _Rule] = {}
_BY_LEADING_AXES = frozenset(
    {"aten.slice.Tensor", "aten.select.int", "aten.unsqueeze.default", "aten.sym_size.int"}
)
"""Their rules count axes from the front, so that one more at the end is nothing to them."""


def is_complex(node: Node) -> bool:
    """Whether a call takes or gives complex values."""
    values = pytree.tree_leaves([n.meta.get("val") for n in (node, *node.all_input_nodes)])
    return any(isinstance(v, torch.Tensor) and v.dtype.is_complex for v in values)


def complex_rule(node: Node) -> Callable[[Builder, Node], object] | None:
    """The rule for a call with complex values."""
    key = op_key(node.target)
    if key in _BY_LEADING_AXES:
        return find_rule("onnx", node.target)
    rule = _RULES.get(key)
    return None if rule is None else lambda builder, call: rule(builder, Call(builder, call))


def _on(*keys: str) -> Callable[[_Rule], _Rule]:
    def register(rule: _Rule) -> _Rule:
        _RULES.update(dict.fromkeys(keys, rule))
        return rule

    return register


def _part(b: Builder, x: Value, index: int) -> Value:
    return b.op("Gather", x, b.constant(index, torch.int64), axis=-1)


def _joined(b: Builder, real: Value, imaginary: Value) -> Value:
    return b.op("Concat", b.unsqueeze(real, -1), b.unsqueeze(imaginary, -1), axis=-1)


def _is(c: Call, name: str) -> bool:
    argument = c[name]
    return isinstance(argument, Node) and c.fake(name).dtype.is_complex


@_on(
    "aten.view_as_complex.default",
    "aten.view_as_real.default",
    "aten.resolve_conj.default",
    "aten.alias.default",
    "aten.clone.default",
)
def same(b: Builder, c: Call) -> Value:
    return c.x


@_on("aten.real.default")
def real(b: Builder, c: Call) -> Value:
    return _part(b, c.x, 0)


@_on("aten.imag.default")
def imag(b: Builder, c: Call) -> Value:
    return _part(b, c.x, 1)


@_on("aten.complex.default")
def make(b: Builder, c: Call) -> Value:
    if tuple(c.shape_of("real")) != tuple(c.shape_of("imag")):
        raise c.error("its parts have two shapes")
    return _joined(b, c.tensor("real"), c.tensor("imag"))


@_on("aten.polar.default")
def polar(b: Builder, c: Call) -> Value:
    size, angle = c.tensor("abs"), c.tensor("angle")
    return _joined(b, *(b.op("Mul", size, b.op(function, angle)) for function in ("Cos", "Sin")))


@_on("aten.abs.default")
def absolute(b: Builder, c: Call) -> Value:
    return b.op("ReduceL2", c.x, b.ints([-1]), keepdims=0)


@_on("aten.conj.default", "aten._conj.default", "aten.conj_physical.default", "aten._conj_physical.default")
def conjugate(b: Builder, c: Call) -> Value:
    return b.op("Mul", c.x, b.constant([1.0, -1.0], b.dtype(c.x)))


@_on("aten.mul.Tensor")
def multiply(b: Builder, c: Call) -> Value:
    if not (_is(c, "self") and _is(c, "other")):
        pair, factor = ("self", "other") if _is(c, "self") else ("other", "self")
        x = c.tensor(pair)
        return b.op("Mul", x, b.unsqueeze(c.tensor(factor, b.dtype(x)), -1))
    (p, q), (r, s) = ([_part(b, c.tensor(n), i) for i in (0, 1)] for n in ("self", "other"))
    first = b.op("Sub", b.op("Mul", p, r), b.op("Mul", q, s))
    return _joined(b, first, b.op("Add", b.op("Mul", p, s), b.op("Mul", q, r)))


@_on("aten.reshape.default")
def reshape(b: Builder, c: Call) -> Value:
    return b.reshape(c.x, [*c.shape, 2], [*c.out.shape, 2])


@_on("aten.permute.default")
def permute(b: Builder, c: Call) -> Value:
    return b.transpose(c.x, [*c.integers("dims"), c.rank])


@_on("aten._to_copy.default", "aten.to.dtype")
def cast(b: Builder, c: Call) -> Value:
    if not c.out.dtype.is_complex:
        raise c.error("a complex value as a real one")
    parts = b.cast(c.x, c.out.dtype.to_real())
    return parts if c.fake().dtype.is_complex else _joined(b, parts, b.op("Mul", parts, b.like(0, parts)))


@_on("aten.transpose.int")
def transpose(b: Builder, c: Call) -> Value:
    order = list(range(c.rank + 1))
    first, second = c.dim("dim0"), c.dim("dim1")
    order[first], order[second] = second, first
    return b.transpose(c.x, order)


@_on("aten.neg.default")
def negative(b: Builder, c: Call) -> Value:
    return b.op("Neg", c.x)


@_on("aten.add.Tensor", "aten.sub.Tensor")
def add(b: Builder, c: Call) -> Value:
    if not (_is(c, "self") and _is(c, "other")) or c["alpha"] != 1:
        raise c.error("only two complex values are added, without alpha")
    return b.op(c.name.capitalize(), c.x, c.tensor("other"))


@_on("aten.constant_pad_nd.default")
def pad(b: Builder, c: Call) -> Value:
    if c["value"] not in (0, None) or any(n < 0 for n in c.integers("pad")):
        raise c.error("a padding by another value than 0")
    pads = c.integers("pad")
    rest = [0] * (c.rank - len(pads) // 2)
    sides = ([*rest, *pads[-2::-2], 0] for pads in (pads, [*pads[1:], 0]))
    return b.op("Pad", c.x, b.ints([n for side in sides for n in side]), b.constant(0, b.dtype(c.x)))


# Fourier transforms, as products with the matrix of roots of one: what all of torch's are made of.

_ORTHO, _BY_SIZE = 1, 2
"""How a transform is normed, as torch's own ops say it; 0 is not at all."""


@_on("aten._fft_c2c.default", "aten._fft_r2c.default")
def transform(b: Builder, c: Call) -> Value:
    axes = c.integers("dim")
    x = c.x
    real, imaginary = (_part(b, x, 0), _part(b, x, 1)) if c.fake().dtype.is_complex else (x, None)
    inverse = c.has("forward") and not c.flag("forward")
    for axis in reversed(axes):
        size = _size(c, axis)
        half = axis == axes[-1] and c.has("onesided") and c.flag("onesided")
        matrices = _roots(
            size, size // 2 + 1 if half else size, inverse=inverse, norm=c.integer("normalization")
        )
        real, imaginary = _along(b, c.rank, axis % c.rank, (real, imaginary), matrices)
    assert imaginary is not None
    return _joined(b, real, imaginary)


def _size(c: Call, axis: int) -> int:
    size: Size = c.shape[axis]
    if not isinstance(size, int):
        raise c.error(f"the size of axis {axis} must be fixed")
    return size


def _roots(size: int, kept: int, *, inverse: bool, norm: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and imaginary part of the matrix, float64[size, kept]."""
    places = torch.arange(size, dtype=torch.int64)
    # Of whole turns only the rest: the angle of a large product has no digits left.
    angle = 2 * math.pi / size * (places[:, None] * places[:kept] % size).double()
    scale = {_ORTHO: 1 / math.sqrt(size), _BY_SIZE: 1 / size}.get(norm, 1.0)
    return angle.cos() * scale, angle.sin() * (scale if inverse else -scale)


def _along(
    b: Builder,
    rank: int,
    axis: int,
    parts: tuple[Value, Value | None],
    matrices: tuple[torch.Tensor, torch.Tensor],
) -> tuple[Value, Value]:
    order = [d for d in range(rank) if d != axis] + [axis]
    back = sorted(range(rank), key=order.__getitem__)
    cosine, sine = (b.constant(m, b.dtype(parts[0])) for m in matrices)
    real, imaginary = (None if v is None else b.transpose(v, order) for v in parts)
    assert real is not None
    first, second = b.op("MatMul", real, cosine), b.op("MatMul", real, sine)
    if imaginary is not None:
        first = b.op("Sub", first, b.op("MatMul", imaginary, sine))
        second = b.op("Add", second, b.op("MatMul", imaginary, cosine))
    return b.transpose(first, back), b.transpose(second, back)
