"""`Report`: the one data model of what was done to a model and how it turned out; everything fills it.

Plain dataclasses over the standard library: what is written to `report.json`, printed by the command line and
returned by `fxopt.verify` is the same object. Invariant: `from_json(to_json(x)) == x` for every field that is
written; tensors (a counterexample's inputs) stay in memory only.

>>> passed = PassReport("fuse-conv-bn", seconds=0.01, changed=True, rewrites=2, nodes=7, nodes_before=9)
>>> report = Report(model="digits", target="onnx", pipeline="O1", passes=(passed,))
>>> report.passes[0].nodes
7
>>> Report.from_json(report.to_json()) == report
True
"""

import enum
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Self

from fxopt.errors import ArtifactError

__all__ = [
    "SCHEMA_VERSION",
    "ArtifactReport",
    "Counterexample",
    "GraphSummary",
    "JsonData",
    "OutputComparison",
    "PassReport",
    "Refusal",
    "Report",
    "Verdict",
    "VerifyReport",
]

SCHEMA_VERSION = 1
_MEMORY_ONLY = {"json": False}
T = typing.TypeVar("T")
_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}


class Verdict(enum.StrEnum):
    """What a comparison came to; equal to its plain word, so `report.verdict == "equivalent"`."""

    EQUIVALENT = "equivalent"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


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
        try:
            return cls(**{name: _decode(hints[name], value) for name, value in data.items() if name in hints})
        except (TypeError, ValueError, KeyError) as error:
            raise ArtifactError(f"not a {cls.__name__} of fxopt: {error}") from error


@dataclass(frozen=True)
class Refusal(JsonData):
    """A rewrite that did not happen although its pattern nearly matched: which rule, where, and why."""

    rule: str
    node: str
    reason: str
    where: str = ""
    """Where the node comes from: `file.py:61 layer1.conv1`, or empty."""


@dataclass(frozen=True)
class PassReport(JsonData):
    """One run of one pass."""

    name: str
    seconds: float = 0.0
    changed: bool = False
    rewrites: int = 0
    """How often a rewrite was applied."""
    nodes: int = 0
    """Nodes of the graph after the pass."""
    nodes_before: int = 0
    refusals: tuple[Refusal, ...] = ()
    rules: dict[str, int] = field(default_factory=dict)
    """Rewrites by rule."""


@dataclass(frozen=True)
class GraphSummary(JsonData):
    """The size of a program: how many nodes of which op, how many bytes of weights."""

    nodes: int = 0
    ops: dict[str, int] = field(default_factory=dict)
    """Nodes by op, `{"aten.conv2d": 3}`."""
    weights: int = 0
    weight_bytes: int = 0


@dataclass(frozen=True)
class ArtifactReport(JsonData):
    """The file that was written."""

    target: str
    path: str | None = None
    """None for an artifact kept in memory."""
    size: int = 0
    """Bytes, of all its files together."""
    opset: int | None = None


@dataclass(frozen=True)
class OutputComparison(JsonData):
    """One output of the candidate against the reference, the worst over all inputs that were tried."""

    name: str
    verdict: Verdict
    ratio: float = math.nan
    """Error against float64 over the original's own, in the L2 norm; NaN where not measured."""
    max_norm_ratio: float = math.nan
    """The same in the maximum norm."""
    max_abs_error: float = math.nan
    """Largest absolute difference of candidate and original."""
    reason: str = ""
    case: str = ""
    """Which of the inputs showed the worst."""
    tolerance: float = math.nan
    """What `ratio` may come to."""
    index: tuple[int, ...] = ()
    """Where the error is largest."""
    expected: float = math.nan
    """The original's value there."""
    actual: float = math.nan
    """The candidate's value there."""


@dataclass(frozen=True)
class Counterexample(JsonData):
    """Inputs on which the candidate differs, and where."""

    case: str = ""
    """How the inputs came about: `batch=3, normal, seed 1`."""
    output: str = ""
    index: tuple[int, ...] = ()
    expected: float = math.nan
    actual: float = math.nan
    inputs: Mapping[str, object] = field(
        default_factory=dict, compare=False, repr=False, metadata=_MEMORY_ONLY
    )
    """The tensors by input name; not written to JSON."""
    args: tuple[object, ...] = field(default=(), compare=False, repr=False, metadata=_MEMORY_ONLY)
    """Call either side as `side(*args, **kwargs)`; not written to JSON."""
    kwargs: Mapping[str, object] = field(
        default_factory=dict, compare=False, repr=False, metadata=_MEMORY_ONLY
    )


@dataclass(frozen=True)
class VerifyReport(JsonData):
    """The outcome of comparing a candidate with its reference."""

    verdict: Verdict
    reason: str = ""
    """One line: what decided it."""
    ratio: float = math.nan
    """The worst ratio of all outputs; NaN where none could be measured."""
    max_abs_error: float = math.nan
    outputs: tuple[OutputComparison, ...] = ()
    inputs_tried: tuple[str, ...] = ()
    oracle: str = ""
    """What the candidate was judged against: `float64`, `onnx.reference`, `noise`, `bitwise`."""
    counterexample: Counterexample | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the two sides were shown to be equivalent; an undecided comparison is not ok."""
        return self.verdict is Verdict.EQUIVALENT


@dataclass
class Report(JsonData):
    """All that is known of one model's way through fxopt; the command line writes it as `report.json`."""

    model: str = ""
    target: str | None = None
    pipeline: str | None = None
    passes: tuple[PassReport, ...] = ()
    before: GraphSummary | None = None
    after: GraphSummary | None = None
    artifact: ArtifactReport | None = None
    verification: VerifyReport | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of each step: trace, pipeline, lower, verify."""
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema != SCHEMA_VERSION:
            raise ArtifactError(
                f"report has schema version {self.schema}, this fxopt reads version {SCHEMA_VERSION}"
            )

    @property
    def verdict(self) -> Verdict:
        """The verdict; `undecided` where nothing was verified."""
        return self.verification.verdict if self.verification else Verdict.UNDECIDED

    @property
    def ok(self) -> bool:
        """Whether the result was verified and found equivalent."""
        return self.verdict is Verdict.EQUIVALENT

    @property
    def ratio(self) -> float:
        """The worst error ratio of all outputs; NaN where nothing was measured."""
        return self.verification.ratio if self.verification else math.nan

    @property
    def max_abs_error(self) -> float:
        """The largest absolute difference of all outputs; NaN where nothing was measured."""
        return self.verification.max_abs_error if self.verification else math.nan

    @property
    def counterexample(self) -> Counterexample | None:
        """Inputs that show a difference, if one was found."""
        return self.verification.counterexample if self.verification else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report: the whole file or none.

        Raises:
            ArtifactError: The file can't be written.
        """
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            try:
                temporary.write_text(self.dumps() + "\n", encoding="utf-8")
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise ArtifactError(f"can't write {target}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: The file is missing or not a report.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"can't read the report {path}: {error}") from error
        if not isinstance(data, dict):
            raise ArtifactError(
                f"can't read the report {path}: expected a JSON object, found {type(data).__name__}"
            )
        return cls.from_json(data)


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
