"""Arguments of calls as TorchScript text, typed by the op's schema.

TorchScript chooses an overload by the types of its arguments, so an empty list says what it is a list of, a
float argument is a float, and a list with holes is a list of optional tensors.

>>> literal_text([1.0, float("-inf")], None, str)
'[1.0, float("-inf")]'
>>> literal_text([], argument_kinds(torch.ops.aten.permute.default)[1], str)
'torch.jit.annotate(List[int], [])'
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.fx import Node

from fxopt.errors import LoweringError
from fxopt.ops.schema import ArgumentKind, argument_kinds

__all__ = ["NameOf", "arguments_text", "literal_text", "scalar_type", "string_text"]

NameOf = Callable[[Node], str]
_ELEMENTS = {"Tensor": "Tensor", "int": "int", "float": "float", "bool": "bool", "String": "str"}
_SMALLEST = -(1 << 63)


def scalar_type(value: object) -> str:
    """The TorchScript type of a node's value: Tensor, int, float or bool."""
    if isinstance(value, torch.Tensor):
        return "Tensor"
    if isinstance(value, (torch.SymBool, bool)):
        return "bool"
    return "float" if isinstance(value, (torch.SymFloat, float)) else "int"


def _number_text(value: float) -> str:
    """An int (a bool is one) or a float."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        # the sign is an operator, so the smallest integer has no literal
        return f"({_SMALLEST + 1} - 1)" if value == _SMALLEST else str(value)
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def string_text(value: str) -> str:
    """TorchScript reads octal escapes, no others by number."""
    escaped = (f"\\{ord(c):03o}" if c < " " or c == "\x7f" else f"\\{c}" if c in '"\\' else c for c in value)
    return f'"{"".join(escaped)}"'


def _list_text(values: list[object] | tuple[object, ...], kind: ArgumentKind | None, name_of: NameOf) -> str:
    text = f"[{', '.join(_item_text(v, kind, name_of) for v in values)}]"
    if kind is None or (values and not kind.holes):
        return text
    element = _ELEMENTS.get(kind.base, "int")
    return f"torch.jit.annotate(List[{f'Optional[{element}]' if kind.holes else element}], {text})"


def _item_text(value: object, kind: ArgumentKind | None, name_of: NameOf) -> str:
    """One value, or one element of a list."""
    if isinstance(value, Node):
        mixed = kind is not None and kind.base == "float" and scalar_type(value.meta.get("val")) == "int"
        return f"float({name_of(value)})" if mixed else name_of(value)
    if value is None:
        return "None"
    if isinstance(value, bool) and kind is not None and kind.base == "Tensor":
        # as a number it would count as an integer, and change the result's dtype
        return f"torch.ops.aten.scalar_tensor({value}, dtype=torch.bool)"
    if isinstance(value, (bool, int, float)):
        return _number_text(float(value) if kind is not None and kind.base == "float" else value)
    if isinstance(value, str):
        return string_text(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value)
    raise LoweringError(f"TorchScript has no literal for {type(value).__name__}")


def literal_text(value: object, kind: ArgumentKind | None, name_of: NameOf) -> str:
    """An argument as text.

    Args:
        value: a node or literal.
        kind: the schema argument it is for; None for a Python function's.
        name_of: the variable that holds a node's value.

    Raises:
        LoweringError: TorchScript has no literal for it.
    """
    if isinstance(value, (list, tuple)):
        return _list_text(value, kind, name_of)
    return _item_text(value, kind, name_of)


def arguments_text(node: Node, name_of: NameOf) -> str:
    """All arguments of a call of an op, keyword ones that are None by default left out."""
    assert isinstance(node.target, torch._ops.OpOverload)
    kinds = argument_kinds(node.target)
    flags = any(isinstance(a, bool) and k.base == "Number" for a, k in zip(node.args, kinds, strict=False))
    if flags and node.target.overloadpacket is torch.ops.aten.where:
        kinds = tuple(replace(k, base="Tensor") for k in kinds)
    by_name = {k.name: k for k in kinds}
    kwargs = dict(node.kwargs)
    if flags and "dtype" in kwargs and kwargs["dtype"] is None:
        kwargs["dtype"] = node.meta["val"].dtype  # TorchScript would infer an integer's
    parts = [literal_text(a, k, name_of) for a, k in zip(node.args, kinds, strict=False)]
    parts += [
        f"{name}={literal_text(value, by_name[name], name_of)}"
        for name, value in kwargs.items()
        if value is not None or by_name[name].default is not None
    ]
    return ", ".join(parts)
