"""Arithmetic on sizes as TorchScript text, with Python's results.

>>> import operator
>>> function_text(operator.floordiv, ["a", "2"], ["int", "int"])
'(a // 2)'
>>> function_text(operator.pow, ["a", "2"], ["int", "int"])
'int(a ** 2)'
>>> dim_text("2*batch + 1", {"batch": "b"})
'((2 * b) + 1)'
"""

import ast
import builtins
import math
import operator
from collections.abc import Callable, Mapping, Sequence

import torch

__all__ = ["dim_text", "function_text", "is_size_function"]

_BINARY = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.mod: "%",
    operator.truediv: "/", operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=",
    operator.gt: ">", operator.ge: ">=", operator.and_: "&", operator.or_: "|", operator.xor: "^",
    operator.lshift: "<<", operator.rshift: ">>",
}  # fmt: skip

Texts = Sequence[str]


def _power(a: Texts, kinds: Texts) -> str:
    """TorchScript's power of two ints is a float."""
    text = f"{a[0]} ** {a[1]}"
    return f"int({text})" if kinds[0] == kinds[1] == "int" else f"({text})"


def _log2(a: Texts, kinds: Texts) -> str:
    """TorchScript's `math` has no log2, and a quotient of logarithms rounds otherwise."""
    return f"float(torch.log2(torch.scalar_tensor({a[0]}, dtype=torch.float64)))"


def _choice(name: str) -> Callable[[Texts, Texts], str]:
    def text(a: Texts, kinds: Texts) -> str:
        mixed = len(set(kinds)) > 1
        return f"{name}({', '.join(f'float({x})' if mixed else x for x in a)})"

    return text


def _call(name: str, *, floats: bool = False) -> Callable[[Texts, Texts], str]:
    return lambda a, kinds: f"{name}({', '.join(f'float({x})' if floats else x for x in a)})"


_FUNCTIONS: dict[Callable[..., object], Callable[[Texts, Texts], str]] = {
    operator.neg: lambda a, kinds: f"(-{a[0]})",
    operator.pos: lambda a, kinds: a[0],
    operator.abs: _call("abs"),
    operator.invert: lambda a, kinds: f"(-{a[0]} - 1)",
    operator.not_: lambda a, kinds: f"(not {a[0]})",
    operator.pow: _power,
    torch.sym_max: _choice("max"),
    torch.sym_min: _choice("min"),
    torch.sym_int: _call("int"),
    torch.sym_float: _call("float"),
    torch.sym_not: lambda a, kinds: f"(not {a[0]})",
    torch.sym_ite: lambda a, kinds: f"({a[1]} if {a[0]} else {a[2]})",
    builtins.int: _call("int"),
    builtins.float: _call("float"),
    builtins.bool: _call("bool"),
    builtins.round: lambda a, kinds: f"int(round({a[0]}))",
    math.ceil: _call("math.ceil", floats=True),
    math.floor: _call("math.floor", floats=True),
    math.trunc: _call("int"),
    math.sqrt: _call("math.sqrt", floats=True),
    math.exp: _call("math.exp", floats=True),
    math.log: _call("math.log", floats=True),
    math.log2: _log2,
    math.pow: _call("math.pow", floats=True),
}
_SYMBOLIC = {"_sym_sqrt": _FUNCTIONS[math.sqrt], "_sym_log2": _log2}
_FUNCTIONS |= {function: text for name, text in _SYMBOLIC.items() if (function := getattr(torch, name, None))}


def is_size_function(target: object) -> bool:
    """Whether `function_text` knows the function."""
    return target in _BINARY or target in _FUNCTIONS or target in (operator.getitem, torch.sym_sum)


def function_text(target: Callable[..., object], arguments: Texts, kinds: Texts) -> str:
    """A call of a Python function on sizes.

    Args:
        target: the function.
        arguments: the arguments' texts.
        kinds: their types: "int", "float", "bool" or another.
    """
    if target is operator.getitem:
        return f"{arguments[0]}[{arguments[1]}]"
    if target in _BINARY:
        return f"({arguments[0]} {_BINARY[target]} {arguments[1]})"
    return _FUNCTIONS[target](arguments, kinds)


_OPERATORS: dict[type[ast.operator], Callable[..., object]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip


def dim_text(dim: int | str, names: Mapping[str, str]) -> str:
    """A size of a signature over variables that hold its symbols; empty where one is missing."""
    if isinstance(dim, int):
        return str(dim)
    tree = ast.parse(dim, mode="eval").body
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    free = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called}
    return _expression_text(tree, names) if free <= set(names) else ""


def _expression_text(node: ast.expr, names: Mapping[str, str]) -> str:
    match node:
        case ast.Constant(value=int() as number):
            return str(number)
        case ast.Name(id=name):
            return names[name]
        case ast.BinOp(left=left, op=op, right=right):
            sides = [_expression_text(side, names) for side in (left, right)]
            return function_text(_OPERATORS[type(op)], sides, ["int", "int"])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return f"(-{_expression_text(operand, names)})"
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return f"{name.lower()}({', '.join(_expression_text(a, names) for a in arguments)})"
    raise ValueError(f"{ast.unparse(node)!r} is not a size expression")
