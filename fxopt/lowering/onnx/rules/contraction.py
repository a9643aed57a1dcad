"""Matrix products and convolutions.

A weight that only `linear` reads is stored transposed (`<path>.T`), so that onnxruntime gets its MatMul as it
likes it; one that others read too stays as it is and stored once.
"""

from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.dtypes import is_float
from fxopt.lowering.onnx.graph import Attribute, Value
from fxopt.lowering.onnx.rules.quantization import block_product, integer_product
from fxopt.ops.info import op_key

__all__: list[str] = []

_END = torch.iinfo(torch.int64).max

Attributes = dict[str, Attribute]


def _plus(b: Builder, x: Value, bias: Value) -> Value:
    return b.op("Add", x, bias) if bias else x


@rule("aten.linear")
def linear(b: Builder, c: Call) -> Value:
    """Gemm for a matrix, else MatMul; with a shared weight, Gemm between reshapes."""
    x, bias, rank = c.x, c.optional("bias"), c.rank
    product = integer_product(b, c["input"], c["weight"], rows=0) or block_product(b, c["input"], c["weight"])
    if product:
        return _plus(b, product, bias)
    weight = c.fake("weight")
    if weight.dim() == 1:
        return _plus(b, b.op("MatMul", x, c.tensor("weight")), bias)
    gemm = is_float(c.out.dtype)
    if gemm and rank == 2:
        return b.op("Gemm", x, c.tensor("weight"), bias, transB=1)
    stored = _transposed_weight(b, c["weight"])
    if stored:
        return _plus(b, b.op("MatMul", x, stored), bias)
    if gemm and rank > 2 and _is_stored(b, c["weight"]):
        rows = b.op("Reshape", x, b.ints([-1, int(weight.shape[1])]))
        inside = bias if bias and c.fake("bias").dim() == 1 else ""  # another is by rows, as they are before
        product = b.op("Gemm", rows, c.tensor("weight"), inside, transB=1)
        shaped = b.reshape(product, (), [*c.shape[:-1], weight.shape[0]])
        return shaped if inside else _plus(b, shaped, bias)
    return _plus(b, b.op("MatMul", x, b.op("Transpose", c.tensor("weight"), perm=[1, 0])), bias)


def _is_stored(b: Builder, weight: object) -> bool:
    """Whether an operand is a weight, as it is or as integers."""
    if isinstance(weight, Node) and op_key(weight.target) == "fxopt.dequantize.default":
        weight = weight.args[0]
    return b.weight_of(weight) is not None


def _transposed_weight(b: Builder, weight: object) -> Value:
    """The initializer with the transposed weight, if all its readers are linears that want it so; else ""."""
    tensor = b.weight_of(weight)
    if tensor is None or not isinstance(weight, Node) or tensor.is_meta:
        return ""
    for user in weight.users:
        if (
            op_key(user.target) != "aten.linear.default"
            or user.args[1] is not weight
            or user.args[0] is weight
        ):
            return ""
        fake = user.args[0].meta["val"] if isinstance(user.args[0], Node) else None
        if not isinstance(fake, torch.Tensor) or fake.dim() == 2:
            return ""
    return b.stored(f"{weight.target}.T", lambda: tensor.t())


@rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot")
def matmul(b: Builder, c: Call) -> Value:
    names = list(c.arguments)[:2]
    product = integer_product(b, *(c[n] for n in names), rows=1)
    if product:
        return product
    return b.op("MatMul", *(c.tensor(n, c.out.dtype) for n in names))


@rule("aten._grouped_mm")
def grouped_mm(b: Builder, c: Call) -> Value:
    """Products of parts: a group is the rows of the left, the columns of the right, or the terms of a sum, to its offset."""
    if c.has("bias"):
        raise c.error("groups with a bias")
    left, right = (c.tensor(n) for n in ("self", "mat2"))
    if not c.has("offs"):
        return b.cast(b.op("MatMul", left, right), c.out.dtype)
    kinds = c.rank, c.fake("mat2").dim()
    lefts = _groups(b, c, left, 0 if kinds == (2, 3) else 1, cut=kinds[0] == 2)
    rights = _groups(b, c, right, 1 if kinds == (3, 2) else 0, cut=kinds[1] == 2)
    products = [b.op("MatMul", x, y) for x, y in zip(lefts, rights, strict=True)]
    if kinds == (2, 2):
        products = [b.unsqueeze(p, 0) for p in products]
    return b.cast(b.op("Concat", *products, axis=1 if kinds == (3, 2) else 0), c.out.dtype)


@rule("transformers.grouped_mm_fallback")
def grouped_mm_fallback(b: Builder, c: Call) -> Value:
    """Mixtures of experts in transformers: groups of rows; those behind the last are zeros."""
    groups = _groups(b, c, c.tensor("input"), 0, cut=True, to_the_end=False)
    weights = _groups(b, c, c.tensor("weight"), 0, cut=False)
    rest = b.op("Sub", b.size(c.shape[0]), b.cast(b.slice(c.tensor("offs"), 0, -1, _END), torch.int64))
    shape = b.op("Concat", rest, b.size(c.out.shape[1]), axis=0)
    zeros = b.op("Expand", b.constant(0, c.out.dtype), shape)
    return b.op(
        "Concat", *(b.op("MatMul", x, y) for x, y in zip(groups, weights, strict=True)), zeros, axis=0
    )


def _groups(b: Builder, c: Call, x: Value, axis: int, *, cut: bool, to_the_end: bool = True) -> list[Value]:
    """The matrices of a stack, or a matrix cut along an axis at the offsets."""
    count = c.fake("offs").shape[0]
    if not isinstance(count, int):
        raise c.error("the number of groups must be fixed")
    if not cut:
        return [b.op("Gather", x, b.constant(i, torch.int64), axis=0) for i in range(count)]
    offsets = c.tensor("offs", torch.int64)
    ends = [b.slice(offsets, 0, i, i + 1) for i in range(count)]
    if to_the_end:
        ends[-1] = b.ints([_END])
    starts = [b.ints([0]), *(b.slice(offsets, 0, i, i + 1) for i in range(count - 1))]
    return [b.op("Slice", x, s, e, b.ints([axis])) for s, e in zip(starts, ends, strict=True)]


@rule("aten.addmm")
def addmm(b: Builder, c: Call) -> Value:
    x, left, right = (c.tensor(n) for n in ("self", "mat1", "mat2"))
    alpha, beta = float(c.number("alpha")), float(c.number("beta"))
    product = integer_product(b, c["mat1"], c["mat2"], rows=1) if (alpha, beta) == (1, 1) else ""
    if product:
        return _plus(b, product, x)
    exact = c.out.dtype is not torch.float64 or (
        alpha in (0, 1) and beta in (0, 1)
    )  # Gemm's factors are float32
    if is_float(c.out.dtype) and exact:
        return b.op("Gemm", left, right, x if beta else "", alpha=alpha, beta=beta)
    return b.op("Add", _times(b, x, beta), _times(b, b.op("MatMul", left, right), alpha))


@rule("aten.baddbmm", "aten.addmv", "aten.addr", "aten.addbmm")
def baddbmm(b: Builder, c: Call) -> Value:
    """`beta * self + alpha * product`."""
    names = [n for n in c.arguments if n not in ("alpha", "beta")]
    x, left, right = (c.tensor(n) for n in names)
    name = op_key(c.node.target).split(".")[1]
    if name == "addr":
        left, right = b.unsqueeze(left, 1), b.unsqueeze(right, 0)
    product = b.op("MatMul", left, right)
    if name == "addbmm":
        product = b.op("ReduceSum", product, b.ints([0]), keepdims=0)
    alpha, beta = c.number("alpha"), c.number("beta")
    return b.op("Add", _times(b, x, beta), _times(b, product, alpha)) if beta else _times(b, product, alpha)


def _times(b: Builder, x: Value, factor: float) -> Value:
    return x if factor == 1 else b.op("Mul", x, b.like(factor, x))


@rule("aten.outer", "aten.ger")
def outer(b: Builder, c: Call) -> Value:
    x, y = (c.tensor(n, c.out.dtype) for n in list(c.arguments)[:2])
    return b.op("Mul", b.unsqueeze(x, 1), b.unsqueeze(y, 0))


@rule("aten.einsum")
def einsum(b: Builder, c: Call) -> Value:
    operands = [b.operand(n, c.out.dtype) for n in c.nodes("tensors")]
    return b.op("Einsum", *operands, equation=c.text("equation").replace(" ", ""))


@rule("aten.bilinear")
def bilinear(b: Builder, c: Call) -> Value:
    """y[*, o] = x1[*, i] w[o, i, j] x2[*, j] + bias."""
    product = b.op(
        "Einsum", *(c.tensor(n) for n in ("input1", "weight", "input2")), equation="...i,oij,...j->...o"
    )
    return _plus(b, product, c.optional("bias"))


def _spread(values: Sequence[int], rank: int) -> list[int]:
    return list(values) * (rank if len(values) == 1 else 1)


@rule("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def conv(b: Builder, c: Call) -> Value:
    spatial = c.fake("weight").dim() - 2
    attributes = _window(c, spatial)
    return _batched(b, c, spatial, lambda x: _convolve(b, c, "Conv", x, attributes))


@rule("aten.convolution", "aten._convolution")
def convolution(b: Builder, c: Call) -> Value:
    spatial = c.fake("weight").dim() - 2
    attributes = _window(c, spatial)
    if not c.flag("transposed"):
        return _convolve(b, c, "Conv", c.x, attributes)
    attributes["output_padding"] = _spread(c.integers("output_padding"), spatial)
    return _convolve(b, c, "ConvTranspose", c.x, attributes)


@rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def conv_transpose(b: Builder, c: Call) -> Value:
    if 0 in [size for size in c.out.shape if isinstance(size, int)]:
        # Padding may crop all of it: onnxruntime refuses that, torch gives an empty tensor.
        return b.expand(b.operand(0.0, c.out.dtype), (), tuple(c.out.shape))
    spatial = c.fake("weight").dim() - 2
    attributes = _window(c, spatial)
    attributes["output_padding"] = _spread(c.integers("output_padding"), spatial)
    return _batched(b, c, spatial, lambda x: _convolve(b, c, "ConvTranspose", x, attributes))


def _window(c: Call, spatial: int) -> Attributes:
    padding = _spread(c.integers("padding"), spatial)
    return {
        "kernel_shape": [int(k) for k in c.fake("weight").shape[2:]],
        "strides": _spread(c.integers("stride"), spatial),
        "pads": padding + padding,
        "dilations": _spread(c.integers("dilation"), spatial),
    }


def _convolve(b: Builder, c: Call, op_type: str, x: Value, attributes: Attributes) -> Value:
    if not b.dtype(x).is_floating_point:
        raise c.error(
            f"onnxruntime has no convolution of {b.dtype(x)}: lower the float32 model (model.float())"
        )
    given = {**attributes, "group": c.integer("groups")}
    if op_type == "Conv":  # its padding may differ before and after, unlike torch's
        spatial = c.fake("weight").dim() - 2
        x, more = b.unpadded(x, spatial)
        own = _spread(c.integers("padding"), spatial)
        given["pads"] = [p + q for p, q in zip((*own, *own), more, strict=True)]
    return b.ops(op_type, x, c.tensor("weight"), c.optional("bias"), outputs=1, **given)[0]


def _batched(b: Builder, c: Call, spatial: int, lower: Callable[[Value], Value]) -> Value:
    """Torch takes a single example without batch; ONNX does not."""
    if c.rank == spatial + 2:
        return lower(c.x)
    return b.squeeze(lower(b.unsqueeze(c.x, 0)), 0)
