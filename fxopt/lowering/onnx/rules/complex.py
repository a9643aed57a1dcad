"""Complex numbers between real ones: a complex value is the real one of its parts, along a last axis of 2.

ONNX has no complex tensors. A model that has them inside only (rotary embeddings by `view_as_complex`, the real part of a Fourier
transform) is written without; what has no rule here has none for complex values.
"""

import math
from collections.abc import Callable, Sequence

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
_BY_LEADING_AXES = frozenset({"aten.slice.Tensor", "aten.select.int", "aten.unsqueeze.default"})
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


@_on("aten.view_as_complex.default", "aten.view_as_real.default", "aten.resolve_conj.default")
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


# Fourier transforms, as products with the matrix of roots of one.


@_on("aten.fft_fft.default", "aten.fft_ifft.default", "aten.fft_rfft.default")
def transform(b: Builder, c: Call) -> Value:
    return _transform(b, c, [c.integer("dim")], [c["n"]])


@_on("aten.fft_fftn.default", "aten.fft_ifftn.default", "aten.fft_fft2.default", "aten.fft_ifft2.default")
def transform_axes(b: Builder, c: Call) -> Value:
    sizes = c["s"]
    axes = c.integers("dim") if c.has("dim") else list(range(c.rank))
    return _transform(b, c, axes, sizes if isinstance(sizes, (list, tuple)) else [None] * len(axes))


def _transform(b: Builder, c: Call, axes: Sequence[int], sizes: Sequence[object]) -> Value:
    name = c.name.removeprefix("fft_")
    x, norm = c.x, c["norm"] or "backward"
    real, imaginary = (_part(b, x, 0), _part(b, x, 1)) if c.fake().dtype.is_complex else (x, None)
    for axis, wanted in zip(axes, sizes, strict=True):
        size: Size = c.shape[axis]
        if not isinstance(size, int) or wanted not in (None, size):
            raise c.error(f"the size of axis {axis} must be fixed, and stay as it is")
        kept = size // 2 + 1 if name == "rfft" else size
        matrices = _roots(size, kept, inverse=name.startswith("i"), norm=str(norm))
        real, imaginary = _along(b, c.rank, axis % c.rank, (real, imaginary), matrices)
    assert imaginary is not None
    return _joined(b, real, imaginary)


def _roots(size: int, kept: int, *, inverse: bool, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and imaginary part of the matrix, float64[size, kept]."""
    places = torch.arange(size, dtype=torch.int64)
    # Of whole turns only the rest: the angle of a large product has no digits left.
    angle = 2 * math.pi / size * (places[:, None] * places[:kept] % size).double()
    once = norm == ("forward" if not inverse else "backward")
    scale = 1 / math.sqrt(size) if norm == "ortho" else 1 / size if once else 1.0
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
