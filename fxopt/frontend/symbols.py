"""The user's names for symbolic sizes, and what tracing fixed about them.

torch infers which sizes vary; where it came to another answer than the user asked for, one line says so: a
size that the model fixes, two names for one size, a range that the model narrows.
"""

import re

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.value_ranges import ValueRanges

from fxopt.errors import TraceError
from fxopt.frontend.dimensions import Axis
from fxopt.frontend.frames import Frame, Owner, owner
from fxopt.frontend.naming import unique
from fxopt.program.signature import Symbol

__all__ = ["Leaf", "guard_place", "name_sizes"]

Leaf = tuple[str, torch.Tensor, dict[int, Axis]]
"""Name, fake tensor and dynamic axes of a tensor input."""
_UNROLLED = (
    "a Python loop is unrolled while it is traced: use an op over the whole axis (cumsum, nn.LSTM), trace one step "
    "with its state as an input and output"
)


class _Sizes:
    def __init__(self, env: ShapeEnv | None, leaves: list[Leaf]) -> None:
        self.env, self.leaves = env, leaves
        self.names: dict[sympy.Symbol, str] = {}
        self.symbols: dict[str, Symbol] = {}
        self.related: list[tuple[str, sympy.Basic]] = []
        """Names whose sizes follow from others."""

    def run(self) -> None:
        """Names given by the user first, then input and axis for the others."""
        for name, value, axes in self.leaves:
            for i, axis in axes.items():
                self._check_fixed(name, value, i, axis)
                if axis.name is not None and not axis.is_expression:
                    self._given(_expression(value.shape[i]), axis)
        for name, value, axes in self.leaves:
            for i, size in enumerate(value.shape):
                expression = _expression(size)
                if isinstance(expression, sympy.Symbol) and expression not in self.names:
                    default = re.sub(r"\W", "_", f"{name}_{i}")
                    self._name(expression, unique(default, self.symbols), axes.get(i, Axis(None)))
        for name, expression in self.related:
            by_name = expression.xreplace({s: sympy.Symbol(n) for s, n in self.names.items()})
            raise TraceError(
                f"the dynamic size {name!r} is always {by_name} in this model: "
                f"write {str(by_name)!r} in its place in dynamic_shapes"
            )

    def _check_fixed(self, name: str, value: torch.Tensor, i: int, axis: Axis) -> None:
        if axis.required and _expression(value.shape[i]).is_number:
            size = (
                f"the dynamic size {axis.name!r} (axis {i} of {name!r})"
                if axis.name
                else f"axis {i} of {name!r}"
            )
            place = self._fixed_at(value, i)
            advice = _UNROLLED if "range(" in place else "compute with x.shape instead of Python numbers"
            smallest = "; 2 is the smallest size that can vary, a branch on it fixes it: try a larger example"
            raise TraceError(
                f"{size} is fixed at {int(value.shape[i])} by the model{place}: "
                f"{advice}, or trace with this size static" + smallest * (int(value.shape[i]) == 2)
            )

    def _fixed_at(self, value: torch.Tensor, i: int) -> str:
        """Where a size became a number: the first such line of its axis."""
        if self.env is None:
            return ""
        for symbol, sources in self.env.var_to_sources.items():
            fixed = self.env.replacements.get(symbol) == _expression(value.shape[i])
            if fixed and any(source.name.endswith(f".size()[{i}]") for source in sources):
                place = guard_place(self.env.replacements_slocs.get(symbol))
                if (
                    place
                ):  # else it was replaced where sizes of one name were made equal, another became the number
                    return place
        return ""

    def _given(self, expression: sympy.Basic, axis: Axis) -> None:
        assert axis.name is not None
        if not isinstance(expression, sympy.Symbol):
            if not expression.is_number:
                self.related.append((axis.name, expression))
            return
        known = self.names.setdefault(expression, axis.name)
        if known != axis.name:
            raise TraceError(
                f"the dynamic sizes {known!r} and {axis.name!r} are always equal in this model"
                f"{self._joined_at(expression)}: give them one name"
            )
        self._name(expression, axis.name, axis)

    def _joined_at(self, symbol: sympy.Symbol) -> str:
        if self.env is None:
            return ""
        joined = (s for s, other in self.env.replacements.items() if other == symbol)
        return next((p for s in joined if (p := guard_place(self.env.replacements_slocs.get(s)))), "")

    def _name(self, symbol: sympy.Symbol, name: str, axis: Axis) -> None:
        self.names[symbol] = name
        traced = self.env.var_to_range.get(symbol) if self.env is not None else None
        low, high = _bounds(traced)
        self._check_range(symbol, name, axis, low, high)
        if axis.low is not None:
            low = max(low, axis.low)
        high = min((h for h in (high, axis.high) if h is not None), default=None)
        # export's lower bound of 2 is no guard: the model takes 1 and 0 too.
        low = 0 if low <= 2 else low
        known = self.symbols.get(name)
        if known is not None:
            low = max(low, known.min)
            high = min((h for h in (high, known.max) if h is not None), default=None)
        self.symbols[name] = Symbol(name, low, high)
        if self.env is not None and traced is not None and (axis.low is not None or high is not None):
            asked = ValueRanges(max(low, int(traced.lower)), traced.upper if high is None else high)
            self.env.var_to_range[symbol] = traced & asked

    def _check_range(self, symbol: sympy.Symbol, name: str, axis: Axis, low: int, high: int | None) -> None:
        """A range that the user gave and the model does not take whole."""
        too_low = axis.low is not None and low > max(axis.low, 2)
        too_high = high is not None and (high < (axis.high or 0) or high < (axis.low or 0))
        if not (too_low or too_high):
            return
        taken = f"{low} to {high}" if high is not None else f"{low} upwards"
        asked = f"{axis.low or 0} to {axis.high}" if axis.high is not None else f"{axis.low} upwards"
        raise TraceError(
            f"the model takes the dynamic size {name!r} from {taken} only{self._guarded_at(symbol)}, "
            f"dynamic_shapes says {asked}: give the range that it takes"
        )

    def _guarded_at(self, symbol: sympy.Symbol) -> str:
        guards = self.env.guards if self.env is not None else []
        return next((guard_place(g.sloc) for g in guards if g.expr.free_symbols == {symbol}), "")


def _bounds(bounds: object) -> tuple[int, int | None]:
    lower, upper = getattr(bounds, "lower", 0), getattr(bounds, "upper", None)
    low = int(lower) if isinstance(lower, (int, sympy.Integer)) else 0
    high = int(upper) if isinstance(upper, (int, sympy.Integer)) and int(upper) < 2**31 else None
    return low, high


def _expression(size: int | torch.SymInt) -> sympy.Basic:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


def guard_place(location: object) -> str:
    """` at file:line (source)` for the location that torch noted with a guard; empty if it is in torch."""
    frame = getattr(location, "framework_loc", None)
    file, line = getattr(frame, "filename", None), getattr(frame, "lineno", None)
    if not isinstance(file, str) or not isinstance(line, int) or owner(file) is Owner.MACHINERY:
        return ""
    return f" at {Frame(file, line)}"


def name_sizes(env: ShapeEnv | None, leaves: list[Leaf]) -> tuple[dict[sympy.Symbol, str], dict[str, Symbol]]:
    """Names for the symbols in the inputs' sizes, and their ranges by name.

    Args:
        env: of the fake tensors.
        leaves: the tensor inputs.

    Raises:
        TraceError: the model fixes a size, ties two of different names, or narrows a given range.
    """
    sizes = _Sizes(env, leaves)
    sizes.run()
    return sizes.names, sizes.symbols
