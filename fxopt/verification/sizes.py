"""Which sizes to try for the dynamic dimensions of a signature: two sets above 1, and sets with a 1 in them.

A dimension may be an expression over symbols ("2*batch"); every set gives all input dimensions a valid size.

>>> import torch
>>> from fxopt.frontend import trace
>>> model, x = torch.nn.Linear(4, 2).eval(), torch.zeros(3, 4)
>>> signature = trace(model, (x,), dynamic_shapes={"input": {0: "batch"}}).signature
>>> size_sets(signature), size_sets(signature, start=8), singles(signature)
([{'batch': 2}, {'batch': 3}], [{'batch': 8}, {'batch': 9}], [{'batch': 1}])
"""

import ast
from collections.abc import Mapping, Sequence

from fxopt.errors import InputError
from fxopt.program import Dim, Signature, Symbol, evaluate_dim

__all__ = ["SizeSet", "dynamic_symbols", "singles", "size_sets"]

SizeSet = Mapping[str, int]

_REACH = 256
"""How far up a start is moved where an expression ("batch - 100") is not positive."""


def dynamic_symbols(signature: Signature) -> list[Symbol]:
    """The symbols that the input dimensions name, in order of appearance.

    Raises:
        InputError: a dimension is no size expression.
    """
    names: dict[str, None] = {}
    for spec in signature.tensor_inputs:
        for dim in spec.shape:
            names.update(dict.fromkeys(_names(dim)))
    return [signature.symbols.get(name, Symbol(name)) for name in names]


def _names(dim: Dim) -> list[str]:
    if isinstance(dim, int):
        return []
    try:
        tree = ast.parse(dim, mode="eval")
    except SyntaxError:
        raise InputError(f"{dim!r} is not a size expression") from None
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n not in called]
    return [n.id for n in sorted(found, key=lambda n: n.col_offset)]


def size_sets(signature: Signature, *, start: int = 2) -> list[dict[str, int]]:
    """Two sets of sizes above 1, from `start` up.

    Each symbol's size differs from the others' and from its own in the other set, as far as the ranges allow;
    ranges of one size give one set.

    Args:
        signature: whose input dimensions are to be filled.
        start: where to begin; a range that ends below is used from its end.

    Raises:
        InputError: no sizes near `start` give every dimension a positive size.
    """
    symbols = dynamic_symbols(signature)
    if not symbols:
        return [{}]
    first = _positive_set(signature, symbols, start, [])
    second = _positive_set(signature, symbols, start, [first])
    return [first] if second == first else [first, second]


def singles(signature: Signature) -> list[dict[str, int]]:
    """Sets with one symbol at 1 and the others above, for each that may be 1, and the set of only ones."""
    symbols = dynamic_symbols(signature)
    base = size_sets(signature)[0]
    sets = [{**base, s.name: 1} for s in symbols if _fits(s, 1)]
    if len(symbols) > 1:
        sets.append({s.name: 1 if _fits(s, 1) else base[s.name] for s in symbols})
    distinct = [s for i, s in enumerate(sets) if s not in sets[:i] and s != base]
    return [s for s in distinct if _valid(signature, s)]


def _fits(symbol: Symbol, size: int) -> bool:
    return size >= symbol.min and (symbol.max is None or size <= symbol.max)


def _positive_set(
    signature: Signature, symbols: Sequence[Symbol], start: int, others: Sequence[SizeSet]
) -> dict[str, int]:
    for low in range(max(start, 2), max(start, 2) + _REACH):
        chosen: dict[str, int] = {}
        for symbol in symbols:
            taken = {*chosen.values(), *(size for other in others for size in other.values())}
            own = {other[symbol.name] for other in others}
            chosen[symbol.name] = _choose(symbol, low, taken, own)
        if _valid(signature, chosen):
            return chosen
    dims = ", ".join(str(d) for spec in signature.tensor_inputs for d in spec.shape if isinstance(d, str))
    raise InputError(f"found no sizes from {start} up that make all of {dims} positive; pass inputs=")


def _choose(symbol: Symbol, low: int, taken: set[int], own: set[int]) -> int:
    """The size nearest to `low` (upwards first) that nobody has, else that the symbol had not, else any."""
    bottom, top = symbol.min, symbol.max
    if top is not None and top < 2:
        return top
    bottom = max(bottom, 2)
    begin = max(low, bottom) if top is None else min(max(low, bottom), top)
    reach = len(taken) + 1
    up = range(begin, begin + reach if top is None else min(top + 1, begin + reach))
    down = range(begin - 1, max(bottom, begin - reach) - 1, -1)
    candidates: list[int] = [*up, *down]
    for avoided in (taken, own):
        for size in candidates:
            if size not in avoided:
                return size
    return begin


def _valid(signature: Signature, sizes: SizeSet) -> bool:
    """Whether every input dimension has a positive size."""
    for spec in signature.tensor_inputs:
        for dim in spec.shape:
            try:
                if isinstance(dim, str) and evaluate_dim(dim, dict(sizes)) < 1:
                    return False
            except ZeroDivisionError:
                return False
            except ValueError as error:
                raise InputError(f"input {spec}: {error}") from None
    return True
