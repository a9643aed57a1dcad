"""The second stage of a match: pattern and replacement recorded on the matched values themselves.

A structural match says that calls and literals fit. Whether the pattern means these calls for these dtypes,
ranks and sizes, and what the replacement is for them, is found by recording both on the matched values:
another graph, another dtype or shape, or an exception, is a refusal with its reason. A recording costs
milliseconds, so that it is kept with the fake mode for all matches with the same literals, dtypes and
symbolic shapes, in this pass and later ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch._subclasses import FakeTensorMode
from torch.fx import Node

from fxopt.errors import PassError
from fxopt.ops import is_commutative, is_random, op_key
from fxopt.program import Program, value_key
from fxopt.program.text import value_text
from fxopt.rewriting.matcher import Found
from fxopt.rewriting.recorder import Recording, RecordingError, record
from fxopt.rewriting.rule import Match, Rule
from fxopt.rewriting.sameness import same_type
from fxopt.rewriting.terms import Template

__all__ = ["Confirmation", "Confirmer"]

_NUMBER = "_fxopt_type"


@dataclass
class Confirmation:
    """What is known of one rule on one set of types."""

    values: dict[str, object]
    """Of the pattern's arguments, as both are recorded on."""
    meaning: tuple[object, ...]
    """The pattern's calls on them."""
    problem: str = ""
    """Why the pattern is not the matched calls; empty if it is."""
    replacement: Recording | str | None = None
    """Recorded when it is first wanted; a string says why it can't be."""


class Confirmer:
    """Confirms matches in one program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        kept = getattr(program.fake_mode, "_fxopt_confirmed", None)
        if kept is None:
            kept = program.fake_mode._fxopt_confirmed = ({}, {})  # type: ignore[attr-defined]
        self._numbers: dict[object, int] = kept[0]
        self._known: dict[object, Confirmation] = kept[1]

    def confirm(self, rule: Rule, template: Template, found: Found, match: Match) -> Confirmation:
        """Whether the pattern, on the matched values, makes just the matched calls."""
        types = tuple(map(self._type, match.bindings.values()))
        key = (rule.replacement, template, types, *map(self._type, found.wilds))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._confirmed(rule, match)
        return known

    def replacement(self, rule: Rule, confirmation: Confirmation, match: Match) -> Recording | str:
        """The replacement on the matched values, or why there is none.

        Raises:
            PassError: it returns another number of results than the pattern, or what is no tensor, or draws
            random
                numbers.
        """
        if confirmation.replacement is None:
            confirmation.replacement = self._replacement(rule, confirmation, match)
        return confirmation.replacement

    def _type(self, value: object) -> object:
        """A small number for a tensor's type; a literal as it is, with its Python type."""
        if isinstance(value, Node):
            value = value.meta["val"]
        if isinstance(value, torch.Tensor):
            number: int | None = value.__dict__.get(_NUMBER)
            if number is None:
                number = self._numbers.setdefault(value_key(value), len(self._numbers))
                setattr(value, _NUMBER, number)
            return number
        return None if value is None else value_key(value)

    def _confirmed(self, rule: Rule, match: Match) -> Confirmation:
        values = {n: b.meta["val"] if isinstance(b, Node) else b for n, b in match.bindings.items()}
        values = _distinct(self.program.fake_mode, values)
        try:
            pattern = record(self.program, rule.pattern, values)
        except RecordingError as error:
            return Confirmation(values, (), f"the pattern does not take these values: {error}")
        return Confirmation(values, _meaning(pattern), _same_calls(pattern, match))

    def _replacement(self, rule: Rule, confirmation: Confirmation, match: Match) -> Recording | str:
        try:
            made = record(self.program, rule.replacement, confirmation.values)
        except RecordingError as error:
            return f"the replacement does not take these values: {error}"
        if len(made.outputs) != len(match.outputs):
            raise PassError(
                f"rule {rule.title!r}: the pattern returns {_count(match.outputs)}, the replacement "
                f"{_count(made.outputs)}"
            )
        random = next((c for c in made.calls if is_random(c)), None)
        if random is not None:
            raise PassError(
                f"rule {rule.title!r}: the replacement draws random numbers ({op_key(random.target)})"
            )
        why = self._same_results(rule, made, match)
        if not why and _meaning(made) == confirmation.meaning:
            why = "on these values the replacement is the pattern itself"
        return why or made

    def _same_results(self, rule: Rule, made: Recording, match: Match) -> str:
        for result, node in zip(made.outputs, match.outputs, strict=True):
            if not isinstance(result, Node):
                raise PassError(f"rule {rule.title!r}: the replacement returns {result!r}, not a tensor")
            got, expected = result.meta["val"], node.meta["val"]
            if not same_type(got, expected):
                kinds = [_said(self.program, value) for value in (got, expected)]
                return f"the replacement gives {kinds[0]}, the pattern {kinds[1]}"
        return ""


def _said(program: Program, value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return value_text(program, value)
    return (
        f"{str(value.dtype).removeprefix('torch.')} [{', '.join(str(program.dim(d)) for d in value.shape)}]"
    )


def _meaning(recording: Recording) -> tuple[object, ...]:
    """A recording's calls and results; equal for two recordings of one graph on the same values."""
    numbers: dict[Node, object] = {n: name for name, n in recording.placeholders.items()}
    numbers |= {n: i for i, n in enumerate(recording.calls)}

    def key(value: object) -> object:
        if isinstance(value, Node):
            return ("node", numbers[value])
        return tuple(map(key, value)) if isinstance(value, (list, tuple)) else value_key(value)

    calls = [(n.target, key(n.args), key([*n.kwargs.values()])) for n in recording.calls]
    return (*calls, key(recording.outputs))


def _count(results: Sequence[object]) -> str:
    count = len(results)
    return f"{count} value{'' if count == 1 else 's'}"


def _distinct(mode: FakeTensorMode, values: Mapping[str, object]) -> dict[str, object]:
    """Fake values as distinct objects: one node may be bound to two arguments."""
    seen: set[int] = set()
    result: dict[str, object] = {}
    for name, value in values.items():
        own = value
        if isinstance(value, torch.Tensor):
            if id(value) in seen:
                with mode, torch.no_grad():
                    own = value.detach()
            seen.add(id(value))
        result[name] = own
    return result


def _same_calls(pattern: Recording, match: Match) -> str:
    """Why a recording of the pattern is not the matched calls; empty if it is."""
    if [c.target for c in pattern.calls] != [n.target for n in match.nodes]:
        return "on these values the pattern is another graph"
    env: dict[Node, object] = {p: match.bindings[name] for name, p in pattern.placeholders.items()}
    env |= dict(zip(pattern.calls, match.nodes, strict=True))
    for call, node in zip(pattern.calls, match.nodes, strict=True):
        wanted = [*call.args, *call.kwargs.values()]
        given = [*node.args, *node.kwargs.values()]
        orders = [given, [given[1], given[0], *given[2:]]] if is_commutative(node) else [given]
        if not any(
            len(wanted) == len(o) and all(_same_argument(w, g, env) for w, g in zip(wanted, o, strict=True))
            for o in orders
        ):
            return f"on these values the pattern's {op_key(call.target)} has other arguments than {node.name}"
        if not same_type(call.meta["val"], node.meta["val"]):
            return f"on these values the pattern's {op_key(call.target)} has another type than {node.name}"
    results = [env.get(o) if isinstance(o, Node) else None for o in pattern.outputs]
    return "" if results == list(match.outputs) else "on these values the pattern returns other results"


def _same_argument(wanted: object, given: object, env: Mapping[Node, object]) -> bool:
    if isinstance(wanted, Node):
        return env[wanted] is given
    if isinstance(wanted, (list, tuple)):
        return (
            isinstance(given, (list, tuple))
            and len(wanted) == len(given)
            and all(_same_argument(w, g, env) for w, g in zip(wanted, given, strict=True))
        )
    if isinstance(given, Node):
        return isinstance(wanted, (int, torch.SymInt)) and same_type(wanted, given.meta["val"])
    return value_key(wanted) == value_key(given)
