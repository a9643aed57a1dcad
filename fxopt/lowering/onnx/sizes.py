"""Symbolic sizes as ONNX values: expressions over axes of the inputs, computed by Shape and int64 arithmetic.

A size is a vector of one element, i64[1], so that a shape is their concatenation. Expressions come from the
fake values; equal ones share their nodes.
"""

from collections.abc import Callable, Sequence

import sympy
import torch

from fxopt.lowering.onnx.graph import Graph, Value
from fxopt.ops.sizes import Size, is_one, same_size

__all__ = ["Sizes", "UnknownSizeError", "aligned", "broadcast", "floor_divide"]


class UnknownSizeError(Exception):
    """A size that no input and no computed value tells."""


def floor_divide(graph: Graph, a: Value, b: Value) -> Value:
    """Integer division that rounds down; ONNX's Div rounds to zero."""
    return graph.op("Div", graph.op("Sub", a, graph.op("Mod", a, b)), b)


class Sizes:
    """The sizes of one graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[sympy.Basic, Callable[[], Value]] = {}

    def learn(self, value: Value, shape: Sequence[Size], *, derived: bool) -> None:
        """Notes that axes of a value tell sizes: of an input any, of a `derived` value new symbols."""
        for axis, size in enumerate(shape):
            if not isinstance(size, torch.SymInt):
                continue
            expression = size.node.expr
            if expression in self._known or (derived and not isinstance(expression, sympy.Symbol)):
                continue
            self._known[expression] = self._axis(value, axis)
            if not isinstance(expression, sympy.Symbol):
                self._solve(expression, self._known[expression])

    def learn_number(self, size: torch.SymInt, value: Value) -> None:
        """Notes that a computed number, i64[1], is a size."""
        self._known.setdefault(size.node.expr, lambda: value)

    def _axis(self, value: Value, axis: int) -> Callable[[], Value]:
        return lambda: self._graph.op("Shape", value, start=axis, end=axis + 1)

    def _solve(self, expression: sympy.Basic, source: Callable[[], Value]) -> None:
        """From an axis of size `a*s + b`, the symbol `s`."""
        symbols = expression.free_symbols
        if len(symbols) != 1:
            return
        symbol = next(iter(symbols))
        factor = expression.coeff(symbol)
        rest = sympy.expand(expression - factor * symbol)
        if symbol in self._known or not (factor.is_Integer and rest.is_Integer) or factor == 0:
            return
        graph = self._graph

        def solved() -> Value:
            value = graph.op("Sub", source(), graph.ints([int(rest)])) if rest else source()
            return graph.op("Div", value, graph.ints([int(factor)])) if factor != 1 else value

        self._known[symbol] = solved

    def value(self, size: Size) -> Value:
        """A size as i64[1].

        Raises:
            UnknownSizeError: it depends on a size that nothing tells.
        """
        if isinstance(size, torch.SymInt):
            return self._expression(size.node.expr)
        return self._graph.ints([int(size)])

    def shape(self, sizes: Sequence[Size]) -> Value:
        """A shape, i64[len(sizes)]; a constant where no size is symbolic."""
        if not any(isinstance(s, torch.SymInt) for s in sizes):
            return self._graph.ints([int(s) for s in sizes])
        parts: list[Value] = []
        fixed: list[int] = []
        for size in sizes:
            if not isinstance(size, torch.SymInt):
                fixed.append(int(size))
                continue
            if fixed:
                parts.append(self._graph.ints(fixed))
                fixed = []
            parts.append(self.value(size))
        if fixed:
            parts.append(self._graph.ints(fixed))
        return parts[0] if len(parts) == 1 else self._graph.op("Concat", *parts, axis=0)

    def _expression(self, expression: sympy.Basic) -> Value:
        known = self._known.get(expression)
        if known is not None:
            return known()
        if expression.is_Integer:
            return self._graph.ints([int(expression)])
        if isinstance(expression, sympy.Float):
            return self._graph.constant([float(expression)], torch.float64)
        if isinstance(expression, sympy.Pow):
            return self._power(expression)
        name = type(expression).__name__
        operands = [self._expression(a) for a in expression.args if not (name == "Mul" and a == 1)]
        if name in _CHAINS and operands:
            result, *others = self._of_one_kind(operands)
            for operand in others:
                result = self._graph.op(_CHAINS[name], result, operand)
            return result
        if name in _FROM_FLOAT or name in _TO_FLOAT:
            return self._floating(name, operands)
        return self._division(expression, name, operands)

    def _of_one_kind(self, operands: list[Value]) -> list[Value]:
        """All integers, or all as floats."""
        if all(self._graph.dtypes[v] is torch.int64 for v in operands):
            return operands
        return [self._graph.cast(v, torch.float64) for v in operands]

    def _floating(self, name: str, operands: list[Value]) -> Value:
        """What is computed in float64, as Python computes it, and what an integer is made of by rounding that."""
        a, *others = (self._graph.cast(v, torch.float64) for v in operands)
        if name in _FROM_FLOAT:
            rounding = _FROM_FLOAT[name]
            return self._graph.cast(self._graph.op(rounding, a) if rounding else a, torch.int64)
        return self._graph.op("Div", a, *others) if others else a

    def _power(self, expression: sympy.Pow) -> Value:
        base, exponent = expression.args
        if not (exponent.is_Integer and 0 < int(exponent) <= 8):
            raise UnknownSizeError(str(expression))
        factor = self._expression(base)
        result = factor
        for _ in range(int(exponent) - 1):
            result = self._graph.op("Mul", result, factor)
        return result

    def _division(self, expression: sympy.Basic, name: str, operands: list[Value]) -> Value:
        graph = self._graph
        match name, operands:
            case "FloorDiv" | "CleanDiv", [a, b]:
                return (
                    graph.op("Div", a, b) if expression.args[0].is_nonnegative else floor_divide(graph, a, b)
                )
            case "CeilDiv", [a, b]:
                return graph.op("Neg", floor_divide(graph, graph.op("Neg", a), b))
            case "Mod" | "PythonMod", [a, b]:
                return graph.op("Mod", a, b)
            case "ModularIndexing", [a, b, c]:
                return graph.op("Mod", floor_divide(graph, a, b), c)
            case "Identity", [a]:
                return a
        raise UnknownSizeError(str(expression))


_CHAINS = {"Add": "Add", "Mul": "Mul", "Max": "Max", "Min": "Min"}
_FROM_FLOAT = {"FloorToInt": "Floor", "CeilToInt": "Ceil", "TruncToInt": "", "RoundToInt": "Round"}
"""To integers, and what is done before the cast, which drops the fraction."""
_TO_FLOAT = ("ToFloat", "FloatTrueDiv", "IntTrueDiv")


def broadcast(*shapes: Sequence[Size]) -> list[Size]:
    """The shape that broadcasting gives, as the trace knows it: an axis has the first size that is not 1."""
    rank = max(map(len, shapes), default=0)
    padded: list[list[Size]] = [[*([1] * (rank - len(s))), *s] for s in shapes]
    return [next((s for s in column if not is_one(s)), 1) for column in zip(*padded, strict=True)]


def aligned(old: Sequence[Size], new: Sequence[Size]) -> list[bool]:
    """Which of the new sizes are, at the same axis, those of old."""
    return [i < len(old) and same_size(old[i], size) for i, size in enumerate(new)]
