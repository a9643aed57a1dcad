"""Arithmetic as a polynomial in a few values, so that one comparison stands for every way to write it.

`0.5 * x * (1 + e)`, `x * 0.5 + x * e / 2` and `(e + 1) * (x * 0.5)` are all `0.5 x + 0.5 x e`.
Powers may be negative: `x / y` is `x y^-1`.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name

__all__ = ["Polynomial", "Reader", "close", "is_arithmetic"]

Polynomial = Mapping[tuple[int, ...], float]
"""Coefficients by the powers of the values."""

_MOST = 24
"""Calls that are read at most: what is looked for has fewer."""

_CLOSE = 1e-14
"""Coefficients computed in another order differ by a few roundings of float64."""


class Reader:
    """Reads arithmetic in the given values, its atoms.

    Only calls of the atoms' own floating point dtype are read, which is one for all of them: a cast between is none
    of the arithmetic.
    """

    def __init__(self, *atoms: Node) -> None:
        self.atoms = atoms
        self.calls: dict[Node, Polynomial | None] = {}
        """What was read, the atoms not among it."""
        self._dtypes = {atom.meta["val"].dtype for atom in atoms}

    def read(self, value: object) -> Polynomial | None:
        """The polynomial that a value is, None if it is none in these atoms."""
        if isinstance(value, (int, float)):
            return {(0,) * len(self.atoms): float(value)}
        if not isinstance(value, Node) or value.op == "output":
            return None
        if value in self.atoms:
            return {tuple(int(a is value) for a in self.atoms): 1.0}
        if value not in self.calls:
            if len(self.calls) == _MOST or not self._is_real(value):
                return None
            self.calls[value] = None
            self.calls[value] = self._read_call(value)
        return self.calls[value]

    def _is_real(self, node: Node) -> bool:
        value = node.meta["val"]
        return isinstance(value, torch.Tensor) and value.is_floating_point() and self._dtypes == {value.dtype}

    def _read_call(self, node: Node) -> Polynomial | None:
        name = aten_name(node)
        if name not in _READ:
            return None
        bound = bind(node)
        if bound.get("rounding_mode") is not None:
            return None
        first = self.read(bound["self"])
        second = self.read(bound.get("other", bound.get("exponent", 1)))
        if first is None or second is None:
            return None
        alpha = bound.get("alpha", 1)
        return _READ[name](first, _scaled(second, alpha)) if isinstance(alpha, (int, float)) else None

    def inner(self, root: Node) -> set[Node]:
        """The calls that a value is computed by from the atoms, itself not among them."""
        fresh = Reader(*self.atoms)
        fresh.read(root)
        return {*fresh.calls} - {root}


def close(a: Polynomial, b: Polynomial) -> bool:
    """Whether two polynomials are the same but for the rounding of float64."""
    return a.keys() == b.keys() and all(math.isclose(a[k], b[k], rel_tol=_CLOSE) for k in a)


def is_arithmetic(node: Node) -> bool:
    """Whether a call is of an op that is read."""
    return aten_name(node) in _READ


def _scaled(a: Polynomial, factor: float) -> Polynomial:
    return {powers: factor * c for powers, c in a.items()}


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    total = {powers: a.get(powers, 0.0) + b.get(powers, 0.0) for powers in {**a, **b}}
    return {powers: c for powers, c in total.items() if c != 0}


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for p, c in a.items():
        total = _sum(total, {tuple(map(sum, zip(p, q, strict=True))): c * d for q, d in b.items()})
    return total


def _quotient(a: Polynomial, b: Polynomial) -> Polynomial | None:
    """Only what has one term divides."""
    if len(b) != 1:
        return None
    [(powers, c)] = b.items()
    return _product(a, {tuple(-p for p in powers): 1 / c}) if c else None


def _power(a: Polynomial, b: Polynomial) -> Polynomial | None:
    """Small whole powers."""
    exponent = _number(b)
    if exponent not in (1.0, 2.0, 3.0, 4.0):
        return None
    result = a
    for _ in range(int(exponent) - 1):
        result = _product(result, a)
    return result


def _number(a: Polynomial) -> float | None:
    """The number that a polynomial is, None if it has an atom."""
    [(powers, c), *more] = a.items() or [((1,), 0.0)]
    return None if more or any(powers) else c


_READ: dict[str, Callable[[Polynomial, Polynomial], Polynomial | None]] = {
    "add": _sum,
    "sub": lambda a, b: _sum(a, _scaled(b, -1.0)),
    "mul": _product,
    "div": _quotient,
    "neg": lambda a, b: _scaled(a, -1.0),
    "reciprocal": lambda a, b: _quotient(b, a),
    "square": lambda a, b: _product(a, a),
    "pow": _power,
}
