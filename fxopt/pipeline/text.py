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
from dataclasses import dataclass
from typing import ClassVar

from fxopt.errors import PipelineError

__all__ = ["Fixpoint", "Named", "Size", "Step", "Value", "parse_steps", "print_steps"]


class Size(int):
    """A number of bytes, written `10MB`."""

    _UNITS: ClassVar[dict[str, int]] = {
        "B": 1,
        "KB": 1000,
        "MB": 1000**2,
        "GB": 1000**3,
        "KiB": 1024,
        "MiB": 1024**2,
        "GiB": 1024**3,
    }

    def __str__(self) -> str:
        for unit in ("GB", "MB", "KB", "GiB", "MiB", "KiB"):
            if self and self % self._UNITS[unit] == 0:
                return f"{int(self) // self._UNITS[unit]}{unit}"
        return f"{int(self)}B"


Value = bool | int | float | str | None | list["Value"]


@dataclass(frozen=True)
class Named:
    """A pass or named pipeline with options."""

    name: str
    options: tuple[tuple[str, Value], ...] = ()
    position: int = 0

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
  | (?P<size>\d+(?:[KMG]i?B|B)(?![\w]))
  | (?P<number>[+-]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?(?![\w.:-])|[+-]?(?:inf|nan)(?![\w-]))
  | (?P<word>[A-Za-z_][\w.:/-]*)
  | (?P<mark>[{}\[\](),=])
    )""",
    re.VERBOSE,
)
_WORD = re.compile(r"[A-Za-z_][\w.:/-]*\Z", re.ASCII)
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def _fail(text: str, position: int, why: str) -> PipelineError:
    return PipelineError(f"{why}\n  {text}\n  {' ' * position}^")


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._tokenize(text)
        self.next = 0

    def _tokenize(self, text: str) -> list[_Token]:
        tokens: list[_Token] = []
        position = 0
        while text[position:].strip():
            found = _TOKEN.match(text, position)
            if found is None:
                start = position + len(text[position:]) - len(text[position:].lstrip())
                quoted = text[start] == '"'
                why = "the quoted string does not end" if quoted else f"unexpected {text[start]!r}"
                raise _fail(text, start, why)
            kind = found.lastgroup or ""
            tokens.append(_Token(kind, found.group(kind), found.start(kind)))
            position = found.end()
        tokens.append(_Token("end", "", len(text.rstrip())))
        return tokens

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def take(self, text: str, expected: str = "") -> _Token:
        token = self.token
        if token.text != text or token.kind == "string":
            found = repr(token.text) if token.text else "the end"
            raise _fail(self.text, token.position, f"expected {expected or repr(text)}, found {found}")
        self.next += 1
        return token

    def word(self, what: str) -> _Token:
        token = self.token
        if token.kind != "word":
            found = repr(token.text) if token.text else "the end"
            raise _fail(self.text, token.position, f"expected {what}, found {found}")
        self.next += 1
        return token

    def steps(self, end: str) -> tuple[Step, ...]:
        steps: list[Step] = []
        if self.token.text == end:
            return ()
        while True:
            steps.append(self.step())
            if self.token.text != ",":
                return tuple(steps)
            self.next += 1

    def step(self) -> Step:
        name = self.word("a pass name")
        if name.text == "fixpoint" and self.token.text == "(":
            self.next += 1
            steps = self.steps(")")
            if not steps:
                raise _fail(self.text, self.token.position, "fixpoint(...) needs at least one pass")
            self.take(")", "',' or ')'")
            return Fixpoint(steps)
        options: list[tuple[str, Value]] = []
        if self.token.text == "{" and self.token.kind == "mark":
            self.next += 1
            options = self.options()
        return Named(name.text, tuple(options), name.position)

    def options(self) -> list[tuple[str, Value]]:
        options: list[tuple[str, Value]] = []
        while self.token.text != "}":
            key = self.word("an option name")
            if key.text in dict(options):
                raise _fail(self.text, key.position, f"the option {key.text!r} is given twice")
            self.take("=")
            options.append((key.text, self.value()))
            if self.token.text == ",":
                self.next += 1
            elif self.token.text != "}":
                self.take("}", "',' or '}'")
        self.take("}")
        return options

    def value(self) -> Value:
        token = self.token
        self.next += 1
        if token.kind == "string":
            try:
                return str(json.loads(token.text, strict=False))
            except ValueError as error:
                raise _fail(self.text, token.position, f"malformed string: {error}") from None
        if token.kind == "size":
            number, unit = re.fullmatch(r"(\d+)(\w+)", token.text).groups()  # type: ignore[union-attr]
            return Size(int(number) * Size._UNITS[unit])
        if token.kind == "number":
            return int(token.text) if re.fullmatch(r"[+-]?\d+", token.text) else float(token.text)
        if token.kind == "word":
            return _CONSTANTS.get(token.text, token.text)
        if token.text == "[" and token.kind == "mark":
            return self.items()
        self.next -= 1
        raise _fail(self.text, token.position, f"expected a value, found {token.text or 'the end'!r}")

    def items(self) -> list[Value]:
        items: list[Value] = []
        while self.token.text != "]" or self.token.kind == "string":
            items.append(self.value())
            if self.token.text == "," and self.token.kind == "mark":
                self.next += 1
            elif self.token.text != "]":
                self.take("]", "',' or ']'")
        self.take("]")
        return items


def parse_steps(text: str) -> tuple[Step, ...]:
    """The steps of a pipeline text; names are not looked up.

    Raises:
        PipelineError: it does not parse; a caret marks the place.
    """
    parser = _Parser(text)
    steps = parser.steps("")
    if parser.token.kind != "end":
        raise _fail(text, parser.token.position, f"expected ',' or the end, found {parser.token.text!r}")
    return steps


def _print_value(value: Value) -> str:
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
        return f"[{','.join(map(_print_value, value))}]"
    if _WORD.match(value) and value not in _CONSTANTS and value not in ("inf", "nan"):
        return value
    return json.dumps(value)


def print_steps(steps: tuple[Step, ...]) -> str:
    """The text of steps; parsing it gives them back."""
    return ",".join(map(_print_step, steps))


def _print_step(step: Step) -> str:
    if isinstance(step, Fixpoint):
        return f"fixpoint({print_steps(step.steps)})"
    options = ",".join(f"{k}={_print_value(v)}" for k, v in step.options)
    return f"{step.name}{{{options}}}" if options else step.name
