"""Rounding to integers and back: QuantizeLinear, DequantizeLinear, weights stored as integers.

What reads such values may be shorter on the integers themselves: a product of a value that is rounded by the range
that it has at each call, rows of a table.
"""

import operator
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.graph import Value
from fxopt.ops.info import op_key
from fxopt.ops.quantized import choose_qparams as chosen
from fxopt.ops.quantized import dequantize as stored
from fxopt.ops.quantized import fake_quantize as rounded
from fxopt.ops.quantized import round_blocks as rounded_blocks

__all__ = ["block_product", "block_rows", "clips_integers", "integer_product", "integer_rows"]

_BLOCKS = (16, 32, 64, 128, 256)
_TYPES = {(0, 255): torch.uint8, (-128, 127): torch.int8}


def _numbers(c: Call, *names: str) -> list[torch.Tensor]:
    """Scale and zero point, which ONNX's runtimes want as constants."""
    found = [c.builder.weight_of(c[n]) for n in names]
    if any(t is None for t in found):
        raise c.error("its scale and zero point must be weights")
    return [t.detach() for t in found if t is not None]


def _axis(c: Call, scale: torch.Tensor) -> int | None:
    """The dimension along which scales differ; None where there is one scale.

    Raises:
        LoweringError: they differ along several.
    """
    axes = [d for d, size in enumerate(scale.shape) if size != 1]
    if len(axes) > 1 or (axes and scale.dim() != c.rank):
        raise c.error(f"scales of the shape {list(scale.shape)} are neither one nor one a channel")
    return axes[0] if axes else None


@rule("fxopt.fake_quantize")
def fake_quantize(b: Builder, c: Call) -> Value:
    if _range_of(c.node) is not None:
        numbers = c.tensor("scale"), c.tensor("zero_point")
        return b.op("DequantizeLinear", b.op("QuantizeLinear", c.x, *numbers), *numbers)
    steps, axis = _steps(b, c)
    q = b.op("QuantizeLinear", c.x, *steps, axis=axis)
    return b.op("DequantizeLinear", q, *steps, axis=axis)


@rule("fxopt.to_integers")
def to_integers(b: Builder, c: Call) -> Value:
    steps, axis = _steps(b, c)
    return b.op("QuantizeLinear", c.x, *steps, axis=axis)


def _steps(b: Builder, c: Call) -> tuple[list[Value], int | None]:
    """Scale and zero point of a rounding that is fixed beforehand, and their axis."""
    scale, zero_point = _numbers(c, "scale", "zero_point")
    kind = _TYPES.get((c.integer("quant_min"), c.integer("quant_max")))
    if kind is None:
        raise c.error(f"no integer type is {c.integer('quant_min')} to {c.integer('quant_max')}")
    axis = _axis(c, scale)
    return _constants(b, scale, zero_point, kind, axis), axis


@rule("fxopt.dequantize")
def dequantize(b: Builder, c: Call) -> Value:
    scale, zero_point = _numbers(c, "scale", "zero_point")
    if sum(size != 1 for size in scale.shape) > 1:  # by block
        moved = b.op("Sub", b.cast(c.x, scale.dtype), b.constant(zero_point, scale.dtype))
        return b.op("Mul", moved, b.constant(scale, scale.dtype))
    axis = _axis(c, scale)
    steps = _constants(b, scale, zero_point, c.fake().dtype, axis)
    four_bits = "" if bool((zero_point != 0).any()) else b.four_bits(c["q"])
    if four_bits:
        return b.op("DequantizeLinear", four_bits, steps[0], axis=axis)
    return b.op("DequantizeLinear", c.x, *steps, axis=axis)


@rule("fxopt.round_blocks")
def round_blocks(b: Builder, c: Call) -> Value:
    """As the op, where no product reads the value that rounds it itself."""
    count = c.fake("largest").shape[-1]
    shape = [*c.shape[:-1], count, c.shape[-1] // count]
    high, blocks = b.like(c.integer("high"), c.x), b.reshape(c.x, c.shape, shape)
    largest = b.unsqueeze(c.tensor("largest"), -1)
    zero = b.like(0, c.x)
    inverse = b.op("Where", b.op("Equal", largest, zero), zero, b.op("Div", high, largest))
    steps = b.op("Round", b.op("Mul", blocks, inverse))
    rounded = b.op("Mul", steps, b.op("Div", largest, high))
    return b.reshape(rounded, shape, c.shape)


def _constants(
    b: Builder, scale: torch.Tensor, zero_point: torch.Tensor, kind: torch.dtype, axis: int | None
) -> list[Value]:
    """Scale and zero point as ONNX has them: scalars, or vectors along the axis; no zero point for i32."""
    shape = () if axis is None else (scale.shape[axis],)
    numbers = [b.constant(scale.reshape(shape), scale.dtype)]
    if kind is not torch.int32:
        numbers.append(b.constant(zero_point.expand(scale.shape).reshape(shape), kind))
    elif bool((zero_point != 0).any()):
        raise b.error("32-bit integers have no zero point")
    return numbers


@rule("fxopt.choose_qparams")
def choose_qparams(b: Builder, c: Call) -> tuple[Value, ...]:
    if c.fake().dtype is not torch.float32 or (c.integer("quant_min"), c.integer("quant_max")) != (0, 255):
        raise c.error("ONNX chooses numbers for float32 values and integers of 0 to 255 only")
    return b.ops("DynamicQuantizeLinear", c.x, outputs=3)[1:]


def clips_integers(c: Call, most: object) -> bool:
    """Whether a call clips a rounded value from zero, and what reads it rounds again, to at most `most`.

    onnxruntime has no integer kernel for Relu and Clip, where the integers do not begin at zero, but one for LeakyRelu:
    with a slope of 0 that is the same function.
    """
    value = c.node.args[0]
    rounds = isinstance(value, Node) and value.target in (rounded, stored)
    return rounds and bool(c.node.users) and all(_rounds_up_to(c, u, most) for u in c.node.users)


def _rounds_up_to(c: Call, reader: Node, most: object) -> bool:
    """Whether a call rounds to integers none of which is above a number; None for no such number."""
    if reader.target is not rounded:
        return False
    scale, zero_point = (c.builder.weight_of(a) for a in reader.args[1:3])
    if scale is None or zero_point is None or scale.numel() != 1 or most is None:
        return most is None
    assert isinstance(most, (int, float)) and isinstance(reader.args[4], int)
    return bool(torch.round(most / scale) + zero_point >= reader.args[4])


def _range_of(node: object) -> Node | None:
    """What a call rounds by the range that it has at each call; None if it is no such call."""
    if not isinstance(node, Node) or node.target is not rounded:
        return None
    for i, number in enumerate(node.args[1:3]):
        if not isinstance(number, Node) or number.target is not operator.getitem or number.args[1] != i:
            return None
        numbers = number.args[0]
        if (
            not isinstance(numbers, Node)
            or numbers.target is not chosen
            or numbers.args[0] is not node.args[0]
        ):
            return None
    x = node.args[0]
    return x if isinstance(x, Node) else None


def integer_product(b: Builder, x: object, weight: object, *, rows: int) -> Value:
    """`x @ weight` on integers, which onnxruntime runs as one kernel.

    Args:
        b: the builder.
        x: an argument of the call.
        weight: another.
        rows: the weight's axis of output channels, 0 or 1.

    Returns:
        "" unless `x` is rounded by the range that it has at each call, and the weight a matrix that is stored as
        integers without zero points, by one scale or one an output channel.
    """
    source, matrix = _range_of(x), _stored_integers(b, weight)
    if source is None or matrix is None or matrix[0].dim() != 2:
        return ""
    integers, scale, zero_point = matrix
    by_channel = scale.numel() == 1 or (scale.dim() == 2 and scale.shape[rows] == scale.numel())
    if integers.dtype is not torch.int8 or bool((zero_point != 0).any()) or not by_channel:
        return ""
    q, step, zero = b.ops("DynamicQuantizeLinear", b.operand(source), outputs=3)
    assert isinstance(weight, Node) and isinstance(weight.args[0], Node)
    name = str(weight.args[0].target)
    right = b.value(weight.args[0]) if rows == 1 else b.stored(f"{name}.T", lambda: integers.t())
    product = b.cast(b.op("MatMulInteger", q, right, zero), torch.float32)
    return b.op("Mul", product, b.op("Mul", step, b.constant(scale.flatten(), torch.float32)))


def integer_rows(b: Builder, table: object, indices: Value) -> Value:
    """Rows of a table that is stored as integers: those alone become floats; "" if it is no such table."""
    found = _stored_integers(b, table)
    if found is None:
        return ""
    integers, scale, zero_point = found
    if bool((zero_point != 0).any()) or (scale.numel() != 1 and scale.shape[0] != scale.numel()):
        return ""
    assert isinstance(table, Node) and isinstance(table.args[0], Node)
    rows = b.cast(b.op("Gather", b.value(table.args[0]), indices, axis=0), scale.dtype)
    if scale.numel() == 1:
        return b.op("Mul", rows, b.constant(scale.reshape(()), scale.dtype))
    flat = b.stored(f"{table.args[0].target}.scale", lambda: scale.reshape(-1, *[1] * (integers.dim() - 1)))
    return b.op("Mul", rows, b.op("Gather", flat, indices, axis=0))


def block_product(b: Builder, x: object, weight: object) -> Value:
    """`x @ weight.T` for a matrix that is stored as integers of 4 bits, by block; "" if it is no such matrix.

    At accuracy level 4 the kernel rounds what it reads by `round_blocks`; where that is not wanted, level 1
    computes in float32.
    """
    blocks = _stored_blocks(b, weight)
    if blocks is None:
        return ""
    size = blocks.size
    read = _read_by_block(x, size)
    given = [b.operand(x if read is None else read), *blocks.values(b)]
    rows, columns = blocks.shape
    return b.op(
        "MatMulNBits",
        *given,
        K=columns,
        N=rows,
        bits=4,
        block_size=size,
        accuracy_level=1 if read is None else 4,
    )


def _read_by_block(x: object, size: int) -> Node | None:
    """What a call rounds to 8 bits by the largest magnitude of each block; None if it is no such call."""
    if not isinstance(x, Node) or x.target is not rounded_blocks or x.args[2] != 127:
        return None
    source, chain = x.args[0], [x.args[1]]
    for name in ("aten.amax.default", "aten.abs.default", "aten.reshape.default"):
        node = chain[-1]
        if not isinstance(node, Node) or op_key(node.target) != name:
            return None
        chain.append(node.args[0])
    largest, _, blocks, _ = chain
    assert isinstance(largest, Node) and isinstance(blocks, Node)
    by_block = list(largest.args[1]) == [x.meta["val"].dim()]  # type: ignore[arg-type]
    same = chain[-1] is source and by_block and blocks.meta["val"].shape[-1] == size
    return source if same and isinstance(source, Node) else None


def block_rows(b: Builder, table: object, indices: Value) -> Value:
    """Rows of a table that is stored as integers of 4 bits, by block; "" if it is no such table."""
    blocks = _stored_blocks(b, table)
    if blocks is None:
        return ""
    integers, *numbers = blocks.values(b, flat=True)
    return b.op(
        "GatherBlockQuantized", integers, indices, *numbers,
        bits=4, block_size=blocks.size, gather_axis=0, quantize_axis=1,
    )  # fmt: skip


@dataclass(frozen=True)
class _Blocks:
    """A matrix [rows, columns] as integers of 0 to 15 by block: `(q - zero_point) * scale`.

    Attributes:
        name: of the weight.
        integers: [rows, blocks, size].
        scale: [rows, blocks].
        zero_point: [rows, blocks]; None where all are 8, which kernels take for granted.
    """

    name: str
    integers: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None

    @property
    def size(self) -> int:
        """Of a block."""
        return self.integers.shape[2]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return self.integers.shape[0], self.integers.shape[1] * self.integers.shape[2]

    def values(self, b: Builder, *, flat: bool = False) -> list[Value]:
        """Integers, scales and zero points, two integers a byte; `flat` makes rows of the blocks."""
        kept = [
            b.stored(
                f"{self.name}.int4", lambda: _packed(self.integers.flatten(1) if flat else self.integers)
            )
        ]
        kept.append(b.stored(f"{self.name}.scale", lambda: self.scale))
        if self.zero_point is not None:
            zeros = self.zero_point
            kept.append(b.stored(f"{self.name}.zero_point", lambda: _packed(zeros)))
        return kept


def _packed(integers: torch.Tensor) -> torch.Tensor:
    """Two integers of 0 to 15 a byte, the first in the low half; an odd last one alone."""
    even = torch.nn.functional.pad(integers.to(torch.uint8), (0, integers.shape[-1] % 2))
    return even[..., 0::2] | (even[..., 1::2] << 4)


def _stored_blocks(b: Builder, argument: object) -> _Blocks | None:
    """A matrix that is stored by block as integers of at most 4 bits; None if it is none."""
    if not isinstance(argument, Node) or op_key(argument.target) != "aten.reshape.default":
        return None
    inner = argument.args[0]
    found = _stored_integers(b, inner)
    if found is None or not isinstance(inner, Node) or found[0].dim() != 3:
        return None
    integers, scale, zero_point = found
    rows, count, size = integers.shape
    if (
        tuple(scale.shape) != (rows, count, 1)
        or size not in _BLOCKS
        or argument.meta["val"].shape != (rows, count * size)
    ):
        return None
    shift = 8 if not bool((zero_point != 0).any()) else 0
    integers, zeros = integers + shift, (zero_point + shift).expand(scale.shape)
    if not all(int(t.min()) >= 0 and int(t.max()) <= 15 for t in (integers, zeros)):
        return None
    assert isinstance(inner.args[0], Node)
    return _Blocks(str(inner.args[0].target), integers, scale[:, :, 0], None if shift else zeros[:, :, 0])


def _stored_integers(b: Builder, argument: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """The integers, scale and zero point of a weight that is stored so; None if it is none."""
    if not isinstance(argument, Node) or argument.target is not stored:
        return None
    found = [b.weight_of(a) for a in argument.args]
    if len(found) != 3 or any(t is None or t.is_meta for t in found):
        return None
    integers, scale, zero_point = (t.detach() for t in found if t is not None)
    return integers, scale, zero_point
