"""Options of a pass from text values, checked against the types of its fields, and back.

>>> from fxopt.pipeline.base import Pass
>>> class Prune(Pass):
...     ratio: float = 0.5
>>> make_pass(Prune, Named("prune", (("ratio", 1),)))
Prune(ratio=1.0)
>>> step_of(Prune(ratio=0.25)).options
(('ratio', 0.25),)
"""

import collections.abc
import dataclasses
import enum
import inspect
import types
import typing
from pathlib import Path

from fxopt.errors import PipelineError, nearest
from fxopt.pipeline.base import Pass
from fxopt.pipeline.text import Named, Size, Value, marked, print_value

__all__ = ["make_pass", "option_help", "step_of"]

_SEQUENCES: dict[object, type] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: tuple,
}


def make_pass(cls: type[Pass], step: Named, text: str | None = None) -> Pass:
    """The pass of a step.

    Args:
        cls: the registered class.
        step: its name and options.
        text: the pipeline's, to mark a mistake in.

    Raises:
        PipelineError: an unknown option, a value of another type, a missing option, a value that the pass
        refuses.
    """
    hints = _hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # every Pass is one
    values: dict[str, object] = {}
    for i, (key, value) in enumerate(step.options):
        name = key.replace("-", "_")
        place = step.places[i] if i < len(step.places) else step.position
        if name not in fields:
            close = nearest(name, fields)
            hint = f"did you mean {close!r}?" if close else f"its options are {', '.join(fields) or 'none'}"
            raise _error(text, place, f"pass {step.name!r} has no option {key!r}; {hint}")
        if name in values:
            raise _error(text, place, f"the option {name!r} is given twice")
        try:
            values[name] = _converted(value, hints[name])
        except (TypeError, ValueError):
            got = f"option {key!r} takes {_type_text(hints[name])}, got {_shown(value)}"
            raise _error(text, place, f"pass {step.name!r}: {got}{_advice(value, hints[name])}") from None
    missing = next((f.name for f in fields.values() if f.name not in values and not _has_default(f)), None)
    if missing is not None:
        problem = f"pass {step.name!r} needs the option {missing!r}: {step.name}{{{missing}=...}}"
        raise _error(text, step.position, problem)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise _error(text, step.position, f"pass {step.name!r}: {error}") from error


def _error(text: str | None, place: int, problem: str) -> PipelineError:
    return PipelineError(problem) if text is None else marked(text, place, problem)


def _hints(cls: type[Pass]) -> dict[str, object]:
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError) as error:
        raise PipelineError(f"the option types of pass {cls.pass_name()!r} can't be read: {error}") from error


def _has_default(field: "dataclasses.Field[object]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _shown(value: Value) -> str:
    return repr(value) if isinstance(value, str) else print_value(value)


def _advice(value: Value, hint: object) -> str:
    """What to write instead, where that is plain."""
    if hint is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return f"; write {value.lower()}"
    if hint is str and not isinstance(value, (str, list)):
        return f'; for the text write "{print_value(value)}"'
    return ""


def _converted(value: Value, hint: object) -> object:
    """A value as its field's type.

    Raises:
        TypeError: it does not fit.
        ValueError: it is none of the field's choices.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or isinstance(hint, types.UnionType):
        return _first(value, arguments)
    if origin is typing.Literal:
        return _choice(value, arguments)
    if (origin or hint) in _SEQUENCES:
        return _sequence(value, _SEQUENCES[origin or hint], arguments)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    return _scalar(value, hint)


def _choice(value: Value, choices: tuple[object, ...]) -> object:
    """`True == 1` and `1.0 == 1`: the types must agree too."""
    found = [c for c in choices if type(c) is type(value) and c == value]
    if not found:
        raise ValueError
    return found[0]


def _first(value: Value, hints: tuple[object, ...]) -> object:
    """As the first type that it fits; an exact one before one that converts."""
    for hint in sorted(hints, key=lambda h: h is not type(value)):
        try:
            return _converted(value, hint)
        except (TypeError, ValueError):
            continue
    raise TypeError


def _sequence(value: Value, kind: type, arguments: tuple[object, ...]) -> object:
    if not isinstance(value, list):
        raise TypeError
    if kind is tuple and arguments and arguments[-1] is not Ellipsis and len(arguments) > 1:
        items = [_converted(v, a) for v, a in zip(value, arguments, strict=True)]
    else:
        items = [_converted(v, arguments[0] if arguments else object) for v in value]
    return kind(items)


def _scalar(value: Value, hint: object) -> object:
    if hint is object or hint is typing.Any:
        return value
    if hint is None or hint is type(None):
        if value is not None:
            raise TypeError
        return None
    if hint is bool or isinstance(value, bool):
        if hint is not bool or not isinstance(value, bool):
            raise TypeError
        return value
    if hint is float and isinstance(value, (int, float)):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise TypeError


def _type_text(hint: object) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if origin is typing.Union or isinstance(hint, types.UnionType):
        return " or ".join(map(_type_text, arguments))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(repr(m.value) for m in hint)
    if hint is None or hint is type(None):
        return "none"
    if origin is collections.abc.Callable:
        return "a function (from Python)"
    if origin is not None:
        return str(hint).replace("typing.", "").replace("collections.abc.", "")
    return hint.__name__ if isinstance(hint, type) else str(hint)


def step_of(item: Pass) -> Named:
    """The step that makes a pass: its options that are not at their defaults.

    An object that text can't hold (a function, a tensor) is written as a quoted word; such a pipeline prints,
    but does not parse back.
    """
    fields = dataclasses.fields(item)  # type: ignore[arg-type]  # every Pass is a dataclass
    options = [(f.name, getattr(item, f.name)) for f in fields if not _at_default(item, f)]
    return Named(item.pass_name(), tuple((name, _value(v)) for name, v in options))


def _at_default(item: Pass, field: "dataclasses.Field[object]") -> bool:
    value = getattr(item, field.name)
    if field.default is not dataclasses.MISSING:
        alike = (type(field.default), Size)  # 1MB is 1000000; but True is not 1
        return value is field.default or (type(value) in alike and value == field.default)
    return field.default_factory is not dataclasses.MISSING and bool(value == field.default_factory())


def _value(value: object) -> Value:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, (list, tuple)):
        return [_value(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_value(v) for v in value), key=print_value)
    if isinstance(value, enum.Enum):
        return _value(value.value)
    if isinstance(value, Path):
        return str(value)
    return f"<{getattr(value, '__qualname__', type(value).__qualname__)}>"


def option_help(cls: type[Pass]) -> list[tuple[str, str, str, str]]:
    """(name, type, default, help) of each option; the help is the string under the field."""
    hints, docs = _hints(cls), _field_docs(cls)
    return [
        (f.name, _type_text(hints[f.name]), _default_text(f), docs.get(f.name, ""))
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]  # every Pass is one
    ]


def _default_text(field: "dataclasses.Field[object]") -> str:
    if field.default is not dataclasses.MISSING:
        return print_value(_value(field.default))
    if field.default_factory is not dataclasses.MISSING:
        return print_value(_value(field.default_factory()))
    return ""


def _field_docs(cls: type[Pass]) -> dict[str, str]:
    """The strings under the fields, those of base classes too."""
    import ast
    import textwrap

    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, Pass):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # made in an interactive session: there is no source to read
            continue
        body = ast.parse(source).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs
