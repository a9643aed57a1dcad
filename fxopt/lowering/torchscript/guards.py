"""The sizes that a program takes, as assertions at the head of its TorchScript: a file is run outside fxopt too.

What a trace fixed (a size, a range that the model goes another way beyond) is silent in the ops themselves: another size
would be computed with, to a wrong result.

>>> import torch
>>> from fxopt.program.signature import Symbol
>>> x = TensorSpec("x", torch.float32, ("batch", 4, "2*batch"))
>>> for line in guard_lines({x: "x"}, {"batch": Symbol("batch", 2)}, Names(frozenset())):
...     print(line)
assert x.dim() == 3, "an input has not the dimensions of x: f32[batch, 4, 2*batch]"
batch = x.size(0)
assert x.size(1) == 4 and x.size(2) == (2 * batch), "an input's sizes are not those of x: f32[batch, 4, 2*batch]"
assert batch >= 2, "the dynamic size batch is taken from 2"
"""

import re
from collections.abc import Iterator, Mapping

from fxopt.lowering.shared import Names
from fxopt.lowering.torchscript.literals import string_text
from fxopt.lowering.torchscript.sizes import dim_text
from fxopt.program.signature import Symbol, TensorSpec

__all__ = ["guard_lines"]


def guard_lines(
    variables: Mapping[TensorSpec, str], symbols: Mapping[str, Symbol], names: Names
) -> Iterator[str]:
    """Statements that raise where a call's sizes are not the program's.

    Args:
        variables: the inputs, and the variables that hold them.
        symbols: the dynamic sizes.
        names: for the variables of sizes.
    """
    for spec, variable in variables.items():
        message = string_text(f"an input has not the dimensions of {spec}")
        yield f"assert {variable}.dim() == {len(spec.shape)}, {message}"
    sizes: dict[str, str] = {}
    first: dict[tuple[TensorSpec, int], str] = {}
    for spec in variables:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and dim.isidentifier() and dim not in sizes:
                sizes[dim] = first[spec, axis] = names.new(dim)
    used = {name for name, symbol in symbols.items() if symbol.limits}
    for spec in variables:
        dims = [str(d) for axis, d in enumerate(spec.shape) if (spec, axis) not in first]
        used.update(*(re.findall(r"[^\W\d]\w*", d) for d in dims))
    for (spec, axis), size in first.items():
        if spec.shape[axis] in used:
            yield f"{size} = {variables[spec]}.size({axis})"
    for spec, variable in variables.items():
        expected = {a: dim_text(d, sizes) for a, d in enumerate(spec.shape) if (spec, a) not in first}
        parts = [f"{variable}.size({axis}) == {text}" for axis, text in expected.items() if text]
        if parts:
            message = f"an input's sizes are not those of {spec}"
            yield f"assert {' and '.join(parts)}, {string_text(message)}"
    for name, size in sizes.items():
        yield from _range(symbols.get(name), size)


def _range(symbol: Symbol | None, size: str) -> Iterator[str]:
    if symbol is None:
        return
    parts = [f"{size} >= {symbol.min}"] * (symbol.min > 0)
    parts += [f"{size} <= {symbol.max}"] * (symbol.max is not None)
    if parts:
        message = f"the dynamic size {symbol.name} is taken {symbol.range_text()}"
        yield f"assert {' and '.join(parts)}, {string_text(message)}"
