"""At which other sizes to compare: one where all that tracing assumed holds, some where it does not.

torch notes what it assumed of the sizes as guards (`n % 2 == 0`, `trunc(n * 0.5) == 2`). A guard is harmless
where the model itself takes no such size; where the model does, the graph must agree with it there too.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import sympy
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fxopt.frontend.symbols import guard_place
from fxopt.program.signature import Symbol

__all__ = ["Guard", "Sizes", "breaking_sizes", "broken_guards", "narrow_guard", "other_sizes", "size_guards"]

Sizes = dict[str, int]
_CHANGES: tuple[Callable[[int, int], int], ...] = (
    lambda n, i: n + 1 + i,
    lambda n, i: n + 2 + i,
    lambda n, i: n - 1,
    lambda n, i: n + 3 + i,
    lambda n, i: 2 * n,
    lambda n, i: 2 * n + 1 + i,
    lambda n, i: n // 2,
    lambda n, i: 3 * n,
    lambda n, i: 2,
    lambda n, i: 3,
)
"""Other sizes for a size n, the i-th of several; those of one kind together, nearest first."""


_FAR = range(64, 128)


@dataclass(frozen=True)
class Guard:
    """What tracing assumed of the sizes, by the user's names, and ` at` the line that made it so."""

    expression: sympy.Basic
    place: str

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it holds at sizes; what can't be decided does."""
        values = {sympy.Symbol(n, integer=True, positive=True): sympy.Integer(s) for n, s in sizes.items()}
        try:
            return self.expression.xreplace(values) not in (False, sympy.false)
        except (ArithmeticError, ValueError, AssertionError):
            return True

    def __str__(self) -> str:
        return f"{self.expression}{self.place}"


def size_guards(env: ShapeEnv | None, names: Mapping[sympy.Symbol, str]) -> list[Guard]:
    """The assumptions about named sizes, without those that always hold."""
    if env is None:
        return []
    by_name = {s: sympy.Symbol(n, integer=True, positive=True) for s, n in names.items()}
    guards: dict[sympy.Basic, Guard] = {}
    for guard in env.guards:
        expression = env.replace(guard.expr)
        if not expression.free_symbols or not expression.free_symbols <= set(by_name):
            continue
        expression = expression.xreplace(by_name)
        if expression.free_symbols:
            guards.setdefault(expression, Guard(expression, guard_place(guard.sloc)))
    return list(guards.values())


def _candidates(sizes: Sizes, symbols: Mapping[str, Symbol]) -> Iterator[Sizes]:
    for change in _CHANGES:
        found = {n: change(size, i) for i, (n, size) in enumerate(sizes.items())}
        if found != sizes and all(_allowed(size, symbols.get(n)) for n, size in found.items()):
            yield found


def _allowed(size: int, symbol: Symbol | None) -> bool:
    if symbol is None:
        return size >= 2
    return max(symbol.min, 2) <= size and (symbol.max is None or size <= symbol.max)


def other_sizes(sizes: Sizes, symbols: Mapping[str, Symbol], guards: list[Guard]) -> Iterator[Sizes]:
    """Sizes at which every guard holds, nearest to the example's first."""
    return (c for c in _candidates(sizes, symbols) if all(g.holds(c) for g in guards))


def breaking_sizes(sizes: Sizes, symbols: Mapping[str, Symbol], guard: Guard) -> Sizes | None:
    """The sizes nearest to the example's at which a guard does not hold."""
    return next((c for c in _candidates(sizes, symbols) if not guard.holds(c)), None)


def narrow_guard(sizes: Sizes, symbols: Mapping[str, Symbol], guards: list[Guard]) -> Guard | None:
    """A guard that no size far from the example keeps: a number was made of a size.

    What holds now and then (`n % 8 == 0`) is left to the ops, which refuse other sizes themselves.
    """
    far = [{n: size + step for n, size in sizes.items()} for step in _FAR]
    far = [s for s in far if all(_allowed(size, symbols.get(n)) for n, size in s.items())]
    return next((g for g in guards if far and not any(map(g.holds, far))), None)


def broken_guards(
    sizes: Sizes, symbols: Mapping[str, Symbol], guards: list[Guard], *, limit: int = 3
) -> Iterator[tuple[Sizes, Guard]]:
    """Sizes that break guards, each with one that it breaks; at most `limit`, small first, no guard twice."""
    left = list(guards)
    candidates = sorted(_candidates(sizes, symbols), key=lambda c: sum(c.values()))
    for candidate in candidates:
        broken = [g for g in left if not g.holds(candidate)]
        if broken and limit:
            limit -= 1
            left = [g for g in left if g not in broken]
            yield candidate, broken[0]
