"""Dataclasses as JSON data and back, by their type hints.

>>> from dataclasses import dataclass
>>> @dataclass
... class Point(JsonData):
...     x: float
...     names: tuple[str, ...] = ()
>>> Point(float("inf"), ("a",)).to_json()
{'x': 'Infinity', 'names': ['a']}
>>> Point.from_json({"x": "Infinity", "names": ["a"], "later": 1})
Point(x=inf, names=('a',))
"""

import enum
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Self

from fxopt.errors import ArtifactError

__all__ = ["MEMORY_ONLY", "JsonData"]

MEMORY_ONLY = {"json": False}
"""Metadata of a field that is not written."""
T = typing.TypeVar("T")
_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}


class JsonData:
    """`to_json` and `from_json` of a dataclass, by its type hints."""

    def to_json(self) -> dict[str, object]:
        """The written fields as JSON data: NaN is null, an infinity its name as a string."""
        names = (f.name for f in fields(self) if f.metadata.get("json", True))  # type: ignore[arg-type]  # a mixin of dataclasses
        return {name: _encode(getattr(self, name)) for name in names}

    def dumps(self) -> str:
        """`to_json` as JSON text (strict JSON: no NaN, no Infinity literals)."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """The object that `to_json` wrote; keys it does not know are left out.

        Raises:
            ArtifactError: A value has not the type of its field, or a field is missing.
        """
        hints = _hints(cls)
        missing = [f.name for f in fields(cls) if _is_required(f) and f.name not in data]  # type: ignore[arg-type]  # a mixin of dataclasses
        if missing:
            raise ArtifactError(f"not a {cls.__name__} of fxopt: it lacks {', '.join(missing)}")
        try:
            return cls(**{name: _decode(hints[name], value) for name, value in data.items() if name in hints})
        except (TypeError, ValueError, KeyError) as error:
            raise ArtifactError(f"not a {cls.__name__} of fxopt: {error}") from error


def _is_required(field: Field[object]) -> bool:
    return field.init and field.default is MISSING and field.default_factory is MISSING


def _hints(cls: type) -> dict[str, object]:
    written = {f.name for f in fields(cls) if f.metadata.get("json", True)}
    return {name: hint for name, hint in typing.get_type_hints(cls).items() if name in written}


def _encode(value: object) -> object:
    if isinstance(value, JsonData):
        return value.to_json()
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _decode(hint: object, value: object) -> object:
    if hint is float:
        return _decode_float(value)
    origin, parameters = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return (
            None if value is None else _decode(next(p for p in parameters if p is not types.NoneType), value)
        )
    if origin in (tuple, list):
        return origin(_decode(parameters[0], item) for item in _expect(list, value))
    if origin is dict:
        return {key: _decode(parameters[1], item) for key, item in _expect(dict, value).items()}
    if isinstance(hint, type) and is_dataclass(hint) and issubclass(hint, JsonData):
        return hint.from_json(_expect(dict, value))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    return _expect(typing.cast(type, hint), value)


def _decode_float(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        return _INFINITIES[value]
    return float(_expect(float, value) if isinstance(value, float) else _expect(int, value))


def _expect(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value
