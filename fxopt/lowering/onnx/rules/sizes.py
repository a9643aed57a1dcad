"""Arithmetic on sizes; a number is a vector of one element: i64[1], f64[1] or bool[1].

Sizes that are expressions over the inputs' axes are read from them directly; these rules serve for the rest.
"""

import torch
from torch.fx import Node

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.graph import Value
from fxopt.lowering.onnx.sizes import floor_divide
from fxopt.lowering.target import lowering_rule
from fxopt.ops.info import op_key

__all__: list[str] = []


def _vector(b: Builder, argument: object, dtype: torch.dtype | None = None) -> Value:
    value = b.value(argument) if isinstance(argument, Node) else b.unsqueeze(b.operand(argument), 0)
    return b.cast(value, dtype or _kind(b.dtype(value)))


def _kind(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else dtype


def _operands(b: Builder, node: Node) -> tuple[Value, Value]:
    first, second = (_vector(b, a) for a in node.args)
    wide = torch.promote_types(b.dtype(first), b.dtype(second))
    return b.cast(first, wide), b.cast(second, wide)


_PLAIN = {
    "_operator.add": "Add", "_operator.sub": "Sub", "_operator.mul": "Mul", "_operator.pow": "Pow",
    "_operator.eq": "Equal", "_operator.lt": "Less", "_operator.le": "LessOrEqual", "_operator.gt": "Greater",
    "_operator.ge": "GreaterOrEqual", "_operator.and_": "And", "_operator.or_": "Or",
    "torch.sym_max": "Max", "torch.sym_min": "Min",
}  # fmt: skip


@lowering_rule("onnx", *_PLAIN)
def plain(b: Builder, node: Node) -> Value:
    """The functions that ONNX has as they are."""
    return b.op(_PLAIN[op_key(node.target)], *_operands(b, node))


@lowering_rule("onnx", "_operator.ne")
def ne(b: Builder, node: Node) -> Value:
    """Not equal."""
    return b.op("Not", b.op("Equal", *_operands(b, node)))


@lowering_rule("onnx", "_operator.floordiv", "_operator.mod")
def division(b: Builder, node: Node) -> Value:
    """Rounded down, and the rest with the divisor's sign."""
    x, y = _operands(b, node)
    whole = not b.dtype(x).is_floating_point
    quotient = floor_divide(b.graph, x, y) if whole else b.op("Floor", b.op("Div", x, y))
    if op_key(node.target) == "_operator.floordiv":
        return quotient
    return b.op("Sub", x, b.op("Mul", quotient, y))


@lowering_rule("onnx", "_operator.truediv")
def truediv(b: Builder, node: Node) -> Value:
    """A float."""
    return b.op("Div", *(_vector(b, a, torch.float64) for a in node.args))


@lowering_rule("onnx", "_operator.neg", "_operator.abs", "builtins.abs")
def negate(b: Builder, node: Node) -> Value:
    """Of a number of either kind."""
    return b.op("Neg" if op_key(node.target) == "_operator.neg" else "Abs", _vector(b, node.args[0]))


@lowering_rule("onnx", "math.floor", "math.ceil", "math.trunc", "builtins.round", "torch.sym_int")
def to_integer(b: Builder, node: Node) -> Value:
    """An integer, by rounding down, up or to zero."""
    x = _vector(b, node.args[0])
    op_type = {"math.floor": "Floor", "math.ceil": "Ceil", "builtins.round": "Round"}.get(
        op_key(node.target), ""
    )
    return b.cast(b.op(op_type, x) if op_type and b.dtype(x).is_floating_point else x, torch.int64)


@lowering_rule("onnx", "torch.sym_float")
def to_float(b: Builder, node: Node) -> Value:
    """A float."""
    return _vector(b, node.args[0], torch.float64)


@lowering_rule("onnx", "math.sqrt", "torch._sym_sqrt")
def square_root(b: Builder, node: Node) -> Value:
    """A float."""
    return b.op("Sqrt", _vector(b, node.args[0], torch.float64))


@lowering_rule("onnx", "torch.sym_not", "_operator.not_")
def negation(b: Builder, node: Node) -> Value:
    """Of a truth value."""
    return b.op("Not", _vector(b, node.args[0], torch.bool))


@lowering_rule("onnx", "torch.sym_ite")
def choice(b: Builder, node: Node) -> Value:
    """One of two numbers."""
    condition, first, second = node.args
    return b.op("Where", _vector(b, condition, torch.bool), _vector(b, first), _vector(b, second))


@lowering_rule("onnx", "aten.sym_size.int", "aten.sym_numel")
def size_of(b: Builder, node: Node) -> Value:
    """Where no expression tells it: the tensor's own axis."""
    tensor = node.args[0]
    assert isinstance(tensor, Node)
    if op_key(node.target).startswith("aten.sym_numel"):
        return b.unsqueeze(b.op("Size", b.value(tensor)), 0)
    axis = node.args[1]
    assert isinstance(axis, int)
    axis %= tensor.meta["val"].dim()
    return b.op("Shape", b.value(tensor), start=axis, end=axis + 1)


@lowering_rule("onnx", "aten._local_scalar_dense", "aten.item")
def number_of(b: Builder, node: Node) -> Value:
    """A tensor's only element as a number."""
    tensor = node.args[0]
    assert isinstance(tensor, Node)
    flat = b.op("Reshape", b.value(tensor), b.ints([1]))
    value = node.meta["val"]
    kind = torch.float64 if isinstance(value, (torch.SymFloat, float)) else torch.int64
    if isinstance(value, (torch.SymBool, bool)):
        kind = torch.bool
    result = b.cast(flat, kind)
    if isinstance(value, torch.SymInt):
        b.sizes.learn_number(value, result)
    return result


@lowering_rule("onnx", "aten._linalg_check_errors")
def nothing(b: Builder, node: Node) -> str:
    """A check without a result: ONNX has nothing that raises."""
    return ""
