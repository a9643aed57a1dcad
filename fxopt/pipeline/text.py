"""Pipeline text: `O1,prune{ratio=0.5},fixpoint(fold-constants,eliminate-dead-code)`.

    pipeline := step ("," step)*          (may be empty)
    step     := name ["{" option ("," option)* "}"] | "fixpoint" "(" pipeline ")"
    option   := key "=" value
    value    := number | size | word | "quoted" | "[" value ("," value)* "]"

Parsing what was printed gives the same steps, for every value: floats print as Python's shortest form, other
strings than plain words are quoted as JSON.

>>> print_steps(parse_steps('O1, prune{ratio=1e-07,name="a b",sizes=[1,2]}'))
'O1,prune{ratio=1e-07,name="a b",sizes=[1,2]}'
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from fxopt.errors import PipelineError

__all__ = [
    "FIXPOINT",
    "Fixpoint",
    "Named",
    "Size",
    "Step",
    "Value",
    "marked",
    "parse_steps",
    "print_steps",
    "print_value",
]

FIXPOINT = "fixpoint"
_UNITS = {"GB": 1000**3, "MB": 1000**2, "KB": 1000, "GiB": 1024**3, "MiB": 1024**2, "KiB": 1024, "B": 1}


class Size(int):
    """A number of bytes, written `10MB`.

    >>> str(Size(3 * 1024)), str(Size(1500))
    ('3KiB', '1500B')
    """

    def __str__(self) -> str:
        unit = next(u for u, size in _UNITS.items() if (self or u == "B") and self % size == 0)
        return f"{int(self) // _UNITS[unit]}{unit}"


Value = bool | int | float | str | None | list["Value"]


@dataclass(frozen=True)
class Named:
    """A pass or named pipeline with options. Two are equal if they print the same."""

    name: str
    options: tuple[tuple[str, Value], ...] = ()
    position: int = 0
    """Where the name stands in the text."""
    places: tuple[int, ...] = field(default=())
    """Where the options stand."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and print_steps((self,)) == print_steps((other,))

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class Fixpoint:
    """Steps repeated until nothing changes."""

    steps: tuple["Step", ...]


Step = Named | Fixpoint

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<size>\d+(?:[KMG]i?B|B)(?![\w.:/-]))
  | (?P<number>[+-]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?(?![\w.:/-])|[+-]?(?:inf|nan)(?![\w.:/-]))
  | (?P<word>[A-Za-z_][\w.:/-]*)
  | (?P<mark>[{}\[\](),=])
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"[A-Za-z_][\w.:/-]*\Z", re.ASCII)
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int

    def is_mark(self, mark: str) -> bool:
        return self.kind == "mark" and self.text == mark

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


def marked(text: str, position: int, why: str) -> PipelineError:
    """An error with the line of the text and a caret under the place.

    >>> print(marked("O1,prnue", 3, "unknown pass 'prnue'"))
    unknown pass 'prnue'
      O1,prnue
         ^
    """
    start = text.rfind("\n", 0, position) + 1
    line = text[start:].split("\n", 1)[0].replace("\t", " ")
    return PipelineError(f"{why}\n  {line}\n  {' ' * (position - start)}^")


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while text[position:].strip():
        found = _TOKEN.match(text, position)
        if found is None:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            problem = (
                "the quoted string does not end" if text[start] == '"' else f"unexpected {text[start]!r}"
            )
            raise marked(text, start, problem)
        kind = found.lastgroup or ""
        tokens.append(_Token(kind, found.group(kind), found.start(kind)))
        position = found.end()
    return [*tokens, _Token("end", "", len(text.rstrip()))]


class _Parser:
    """Recursive descent; each method reads what it is named after."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.next = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def fail(self, expected: str) -> PipelineError:
        return marked(self.text, self.token.position, f"expected {expected}, found {self.token}")

    def accept(self, mark: str) -> bool:
        """Reads a mark if it is the next token."""
        accepted = self.token.is_mark(mark)
        self.next += accepted
        return accepted

    def take(self, kind: str, expected: str) -> _Token:
        token = self.token
        if token.kind != kind:
            raise self.fail(expected)
        self.next += 1
        return token

    def steps(self) -> tuple[Step, ...]:
        steps = [self.step()]
        while self.accept(","):
            steps.append(self.step())
        return tuple(steps)

    def step(self) -> Step:
        name = self.take("word", "a pass name")
        if name.text == FIXPOINT and self.accept("("):
            if self.token.is_mark(")"):
                raise marked(self.text, self.token.position, "fixpoint(...) needs at least one pass")
            steps = self.steps()
            if not self.accept(")"):
                raise self.fail("',' or ')'")
            return Fixpoint(steps)
        if name.text == FIXPOINT:
            raise marked(self.text, name.position, "fixpoint needs its passes in parentheses: fixpoint(a,b)")
        options, places = self.options() if self.accept("{") else ([], [])
        return Named(name.text, tuple(options), name.position, tuple(places))

    def options(self) -> tuple[list[tuple[str, Value]], list[int]]:
        options: dict[str, Value] = {}
        places: list[int] = []
        while not self.accept("}"):
            if options and not self.accept(","):
                raise self.fail("',' or '}'")
            key = self.take("word", "an option name")
            if key.text in options:
                raise marked(self.text, key.position, f"the option {key.text!r} is given twice")
            if not self.accept("="):
                raise self.fail(f"'=' and a value for {key.text!r}")
            options[key.text] = self.value()
            places.append(key.position)
        return list(options.items()), places

    def value(self) -> Value:
        if self.accept("["):
            return self.items()
        token = self.token
        if token.kind not in _READERS:
            raise self.fail("a value")
        self.next += 1
        try:
            return _READERS[token.kind](token.text)
        except ValueError as error:
            raise marked(self.text, token.position, f"malformed {token.kind}: {error}") from None

    def items(self) -> list[Value]:
        items: list[Value] = []
        while not self.accept("]"):
            if items and not self.accept(","):
                raise self.fail("',' or ']'")
            items.append(self.value())
        return items


def _size(text: str) -> Size:
    digits = re.match(r"\d+", text)
    assert digits is not None
    return Size(int(digits.group()) * _UNITS[text[digits.end() :]])


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def _word(text: str) -> bool | str | None:
    return _CONSTANTS.get(text, text)


def _string(text: str) -> str:
    return str(json.loads(text, strict=False))


_READERS: dict[str, Callable[[str], Value]] = {
    "string": _string,
    "size": _size,
    "number": _number,
    "word": _word,
}


def parse_steps(text: str) -> tuple[Step, ...]:
    """The steps of a pipeline text; names are not looked up.

    Raises:
        PipelineError: it does not parse; a caret marks the place.
    """
    parser = _Parser(text)
    if parser.token.kind == "end":
        return ()
    steps = parser.steps()
    if parser.token.kind != "end":
        raise parser.fail("',' or the end")
    return steps


def print_value(value: Value) -> str:
    """The text of an option's value.

    >>> print_value([1e-07, "a b", None, True])
    '[1e-07,"a b",none,true]'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, Size):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, list):
        return f"[{','.join(map(print_value, value))}]"
    plain = _WORD.match(value) and value not in _CONSTANTS and value not in ("inf", "nan")
    return value if plain else json.dumps(value)


def print_steps(steps: tuple[Step, ...]) -> str:
    """The text of steps; parsing it gives them back."""
    return ",".join(map(_print_step, steps))


def _print_step(step: Step) -> str:
    if isinstance(step, Fixpoint):
        return f"{FIXPOINT}({print_steps(step.steps)})"
    options = ",".join(f"{k}={print_value(v)}" for k, v in step.options)
    return f"{step.name}{{{options}}}" if options else step.name
