"""Index maps: which output elements an input element can reach, as einsum-like text.

    x[*,i], w[o,i], b[o] -> y[*,o]

One bracket an input tensor in schema order, then one an output. Inside a bracket stands one item a dimension:

- `i`: an index. In an input and an output it is carried: only equal positions depend on each other. Missing
  from the outputs it is contracted; missing from the inputs it is new (the values repeat along it).
- `~i`: an index of which each output position sees a neighbourhood (convolution and pooling windows).
- `!i`: an index that is mixed as a whole (softmax, norms, gathers): each output position may see all of it.
- `(i j)`: a dimension that is the product of indices, row-major, `(i=4 j)` with a size that the shapes do not
  tell.
- `*`: any number of dimensions, aligned at the right as broadcasting does; once a bracket.
- `.`: a dimension whose position says nothing (of size one, or repeated).

Nothing stands before the arrow of a call that reads no tensor.

The mark on an *input* decides; on an output it only repeats it. A tensor dimension of size one broadcasts. A
bracket of a tensor list holds for each of its elements, unless there are as many brackets as elements. What a
map does not exclude is
allowed: a map is an upper bound of the dependences.

>>> parse_index_map("x[*,i], w[o,i], b[o] -> y[*,o]").contracted
('i',)
>>> str(parse_index_map("x[ * , ~h ]->y[*,~h]"))
'x[*,~h] -> y[*,~h]'
"""

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from fxopt.errors import FxoptError
from fxopt.ops.sizes import Size, is_one, product, same_size

__all__ = ["Dimension", "Index", "IndexMap", "IndexMapError", "Mark", "Operand", "parse_index_map"]


class IndexMapError(FxoptError, ValueError):
    """Text that is no index map; shows the place."""


class Mark(enum.Enum):
    """How an input's index reaches the outputs."""

    CARRIED = ""
    NEAR = "~"
    MIXED = "!"


@dataclass(frozen=True)
class Index:
    """One index of a dimension; `size` where the text states it."""

    name: str
    mark: Mark = Mark.CARRIED
    size: int | None = None

    def __str__(self) -> str:
        return f"{self.mark.value}{self.name}" + ("" if self.size is None else f"={self.size}")


@dataclass(frozen=True)
class Dimension:
    """One item of a bracket: its indices, outermost first.

    None is `.`; the one index `*` is any number of dimensions.
    """

    indices: tuple[Index, ...] = ()

    @property
    def is_leading(self) -> bool:
        """Whether this stands for any number of dimensions."""
        return self.indices == _ANY

    def __str__(self) -> str:
        if not self.indices:
            return "."
        text = " ".join(map(str, self.indices))
        return f"({text})" if len(self.indices) > 1 else text


_ANY = (Index("*"),)


@dataclass(frozen=True)
class Operand:
    """One bracket: a tensor's name and its dimensions."""

    name: str
    dims: tuple[Dimension, ...]

    def __str__(self) -> str:
        return f"{self.name}[{','.join(map(str, self.dims))}]"

    def indices(self) -> Iterator[Index]:
        """All indices but `*`."""
        return (i for d in self.dims if not d.is_leading for i in d.indices)

    def fits(self, rank: int) -> bool:
        """Whether a tensor of this rank fits the bracket."""
        free = rank - sum(not d.is_leading for d in self.dims)
        return free == 0 or (free > 0 and any(d.is_leading for d in self.dims))

    def expanded(self, rank: int) -> tuple[Dimension, ...]:
        """One dimension each of a tensor of this rank.

        `*` becomes the indices `*2`, `*1`, counted from the right.

        Raises:
            ValueError: a tensor of this rank does not fit the bracket.
        """
        free = rank - sum(not d.is_leading for d in self.dims)
        if not self.fits(rank):
            raise ValueError(f"a tensor with {rank} dimensions does not fit {self}")
        dims: list[Dimension] = []
        for dim in self.dims:
            dims += [Dimension((Index(f"*{k}"),)) for k in range(free, 0, -1)] if dim.is_leading else [dim]
        return tuple(dims)


@dataclass(frozen=True)
class IndexMap:
    """A parsed index map; `str` gives its text back."""

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}"

    @property
    def contracted(self) -> tuple[str, ...]:
        """Names of the input indices that no output has, in order of appearance."""
        kept = {i.name for o in self.outputs for i in o.indices()}
        return tuple(dict.fromkeys(i.name for o in self.inputs for i in o.indices() if i.name not in kept))

    def extents(self, inputs: Sequence[Sequence[Size]], outputs: Sequence[Sequence[Size]]) -> dict[str, Size]:
        """The size of each index.

        Args:
            inputs: one shape a bracket of `inputs`, sizes int or SymInt.
            outputs: one shape a bracket of `outputs`.

        Returns:
            Sizes by index name, those of `*` as `*1`, `*2` from the right. An index that only products hold
            and that can't be solved for is left out.

        Raises:
            ValueError: a shape does not fit its bracket.
        """
        pairs = [
            (dim, size)
            for operands, shapes in ((self.outputs, outputs), (self.inputs, inputs))
            for operand, shape in zip(operands, shapes, strict=True)
            for dim, size in zip(operand.expanded(len(shape)), shape, strict=True)
        ]
        found: dict[str, Size] = {i.name: i.size for d, _ in pairs for i in d.indices if i.size is not None}
        for dim, size in pairs:
            if len(dim.indices) == 1:
                name = dim.indices[0].name
                if name not in found or is_one(found[name]):
                    found[name] = size
        for dim, size in pairs:
            unknown = [i.name for i in dim.indices if i.name not in found]
            if len(dim.indices) > 1 and len(unknown) == 1:
                inner = product(found[i.name] for i in dim.indices if i.name in found)
                if not same_size(inner, 0):
                    found[unknown[0]] = size // inner
        return found


_NAME = re.compile(r"[A-Za-z_]\w*")
_INDEX = re.compile(r"([~!]?)(\*\d+|[A-Za-z_]\w*)(?:=(\d+))?")


class _Reader:
    """A position in the text and what is expected there."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def fail(self, expected: str, at: int | None = None) -> IndexMapError:
        at = self.at if at is None else at
        return IndexMapError(
            f"index map: expected {expected} at column {at + 1}\n  {self.text}\n  {' ' * at}^"
        )

    def space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def accept(self, token: str) -> bool:
        self.space()
        found = self.text.startswith(token, self.at)
        self.at += len(token) * found
        return found

    def match(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        self.space()
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self.fail(expected)
        self.at = found.end()
        return found


def _index(reader: _Reader) -> Index:
    mark, name, size = reader.match(_INDEX, "an index such as i, ~h, !d or *").groups()
    return Index(name, Mark(mark), int(size) if size else None)


def _dimension(reader: _Reader) -> Dimension:
    if reader.accept("."):
        return Dimension()
    reader.space()
    starred = reader.at + 1 < len(reader.text) and reader.text[reader.at + 1].isdigit()
    if not starred and reader.accept("*"):
        return Dimension(_ANY)
    if not reader.accept("("):
        return Dimension((_index(reader),))
    indices = [_index(reader)]
    while not reader.accept(")"):
        indices.append(_index(reader))
    return Dimension(tuple(indices))


def _operand(reader: _Reader) -> Operand:
    name = reader.match(_NAME, "a tensor's name").group()
    if not reader.accept("["):
        raise reader.fail("'['")
    dims: list[Dimension] = []
    while not reader.accept("]"):
        if dims and not reader.accept(","):
            raise reader.fail("',' or ']'")
        reader.space()
        start = reader.at
        dims.append(_dimension(reader))
        if dims[-1].is_leading and any(d.is_leading for d in dims[:-1]):
            raise reader.fail("one '*' a bracket", start)
    return Operand(name, tuple(dims))


def _operands(reader: _Reader) -> tuple[Operand, ...]:
    operands = [_operand(reader)]
    while reader.accept(","):
        operands.append(_operand(reader))
    return tuple(operands)


@cache
def parse_index_map(text: str) -> IndexMap:
    """The map that a text such as `"x[*,i], w[o,i] -> y[*,o]"` says.

    Raises:
        IndexMapError: the text is malformed; the message has a caret under the place.
    """
    reader = _Reader(text)
    reader.space()
    inputs = () if reader.text.startswith("->", reader.at) else _operands(reader)
    if not reader.accept("->"):
        raise reader.fail("',' or '->'")
    outputs = _operands(reader)
    reader.space()
    if reader.at < len(text):
        raise reader.fail("',' or the end")
    return IndexMap(inputs, outputs)
