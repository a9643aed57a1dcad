"""Options of a pass from text values: checked against the types of its fields."""

import dataclasses
import difflib
import enum
import inspect
import types
import typing

from fxopt.errors import PipelineError
from fxopt.pipeline.base import Pass
from fxopt.pipeline.text import Named, Value

__all__ = ["make_pass", "option_help"]


def make_pass(cls: type[Pass], step: Named) -> Pass:
    """The pass of a step.

    Raises:
        PipelineError: an unknown option, a value of another type, a missing option, a value that the pass
            refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, object] = {}
    for key, value in step.options:
        name = key.replace("-", "_")
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = (
                f"; did you mean {close[0]!r}?"
                if close
                else f"; its options are {', '.join(fields) or 'none'}"
            )
            raise PipelineError(f"pass {step.name!r} has no option {key!r}{hint}")
        try:
            values[name] = _converted(value, hints[name])
        except (TypeError, ValueError):
            raise PipelineError(
                f"pass {step.name!r}: option {key!r} takes {_type_text(hints[name])}, got {value!r}"
            ) from None
    missing = [
        f.name
        for f in fields.values()
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise PipelineError(
            f"pass {step.name!r} needs the option {missing[0]!r}: {step.name}{{{missing[0]}=...}}"
        )
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise PipelineError(f"pass {step.name!r}: {error}") from error


def _converted(value: Value, hint: object) -> object:
    """A value as its field's type.

    Raises:
        TypeError: it does not fit.
        ValueError: it is none of the field's choices.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or isinstance(hint, types.UnionType):
        for member in arguments:
            try:
                return _converted(value, member)
            except (TypeError, ValueError):
                continue
        raise TypeError
    if hint is type(None) or hint is None:
        if value is None:
            return None
        raise TypeError
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise ValueError
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise TypeError
        items = [_converted(v, arguments[0] if arguments else object) for v in value]
        return items if origin is list else tuple(items)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    return _scalar(value, hint)


def _scalar(value: Value, hint: object) -> object:
    if hint is object:
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is bool or isinstance(value, bool):
        if hint is bool and isinstance(value, bool):
            return value
        raise TypeError
    if hint is str and isinstance(value, (int, float)):
        return str(value)
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise TypeError


def _type_text(hint: object) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(repr(m.value) for m in hint)
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def option_help(cls: type[Pass]) -> list[tuple[str, str, str, str]]:
    """(name, type, default, help) of each option; the help is the string under the field in the class body."""
    hints = typing.get_type_hints(cls)
    docs = _field_docs(cls)
    rows = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = "" if field.default is dataclasses.MISSING else repr(field.default)
        rows.append((field.name, _type_text(hints[field.name]), default, docs.get(field.name, "")))
    return rows


def _field_docs(cls: type[Pass]) -> dict[str, str]:
    import ast
    import textwrap

    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs
