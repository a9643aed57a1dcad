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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from fxopt.errors import ArtifactError
from fxopt.json_data import MEMORY_ONLY, JsonData

__all__ = [
    "SCHEMA_VERSION",
    "AppliedRewrite",
    "ArtifactReport",
    "CostReport",
    "Counterexample",
    "Coverage",
    "GraphSummary",
    "JsonData",
    "MetricReport",
    "OutputComparison",
    "Parting",
    "PassReport",
    "Refusal",
    "Report",
    "Verdict",
    "VerifyReport",
    "size_text",
]

SCHEMA_VERSION = 1


class Verdict(enum.StrEnum):
    """What a comparison came to; equal to its plain word, so `report.verdict == "equivalent"`."""

    EQUIVALENT = "equivalent"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


def size_text(size: int) -> str:
    """A number of bytes in decimal units.

    >>> size_text(512), size_text(1500), size_text(90_900_000)
    ('512 B', '1.5 kB', '90.9 MB')
    """
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB"):  # the unit at which the loop stops is the answer
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


@dataclass(frozen=True)
class Refusal(JsonData):
    """A rewrite that did not happen although its pattern nearly matched: which rule, where, and why."""

    rule: str
    node: str
    """Empty where the rule's op is nowhere in the graph."""
    reason: str
    where: str = ""
    """Where the node comes from: `file.py:61 layer1.conv1`, or empty."""


@dataclass(frozen=True)
class AppliedRewrite(JsonData):
    """A rewrite that happened: which rule, at which node, and where in the model its nodes come from."""

    rule: str
    node: str
    """The node that the rule was anchored at, as it was called before."""
    where: str = ""
    """`net.py:61 layer1.conv1; net.py:62 layer1.bn1`: all sources of what was replaced."""
    created: int = 0
    removed: int = 0
    """How many nodes were made and taken out."""


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
    ops: int = 0
    """Ops of the graph after the pass: its nodes without inputs, weights and the output."""
    ops_before: int = 0
    applied: tuple[AppliedRewrite, ...] = ()
    """The rewrites, in order."""


@dataclass(frozen=True)
class CostReport(JsonData):
    """What one run costs at the sizes of the example that was traced, by the op table; nothing is timed."""

    flops: int
    """Floating-point operations, a multiply-add as two."""
    bytes_read: int
    bytes_written: int
    peak_bytes: int
    """The most bytes of intermediate results alive at once."""


@dataclass(frozen=True)
class GraphSummary(JsonData):
    """The size of a program: how many ops, how many bytes of weights, what a run costs."""

    nodes: int = 0
    """All ops: the graph's nodes without inputs, weights and the output."""
    ops: dict[str, int] = field(default_factory=dict)
    """Ops by name, `{"aten.conv2d": 3}`."""
    weights: int = 0
    weight_bytes: int = 0
    cost: CostReport | None = None


@dataclass(frozen=True)
class Coverage(JsonData):
    """Whose rules lowered the ops: a target's own, or others'."""

    ops: int
    own: int
    others: dict[str, str] = field(default_factory=dict)
    """Op to whose rule it was, for those that were not the target's own."""

    def __str__(self) -> str:
        """One line.

        >>> str(Coverage(412, 406, {"aten.fft": "onnxscript"}))
        '412 ops, 98.5% by own rules; 6 not: aten.fft (onnxscript)'
        """
        share = 100.0 if not self.ops else math.floor(1000 * self.own / self.ops) / 10
        line = f"{self.ops} ops, {share:g}% by own rules"
        others = ", ".join(f"{op} ({whose})" for op, whose in self.others.items())
        return f"{line}; {self.ops - self.own} not: {others}" if others else line


@dataclass(frozen=True)
class MetricReport(JsonData):
    """The user's metric of the model and of the artifact; higher is better."""

    before: float
    after: float
    max_drop: float | None = None
    """By how much it might fall; None: by anything."""


@dataclass(frozen=True)
class ArtifactReport(JsonData):
    """The file that was written."""

    target: str
    path: str | None = None
    """None for an artifact kept in memory."""
    size: int = 0
    """Bytes, of all its files together."""
    opset: int | None = None
    """Of an ONNX file, None for other targets."""
    coverage: Coverage | None = None


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
    abs_tolerance: float = math.nan
    """The derived tolerance: the largest absolute error against float64 that is accepted."""
    abs_required: float = math.nan
    """The largest absolute error against float64: what the tolerance would have to be."""
    histogram: dict[str, int] = field(default_factory=dict)
    """How many values differ from the original's by how much: `{"0": 90, "1e-7": 10}`, by power of ten."""


@dataclass(frozen=True)
class Parting(JsonData):
    """The first node of the reference from which on the candidate's values are others."""

    node: str
    op: str
    where: str = ""
    """The user's line and the module: `net.py:23 layers.0`."""
    reason: str = ""
    candidate: str = ""
    after: tuple[str, ...] = ()
    """The values that it is computed from and that agree."""


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
        default_factory=dict, compare=False, repr=False, metadata=MEMORY_ONLY
    )
    """The tensors by input name; not written to JSON."""
    args: tuple[object, ...] = field(default=(), compare=False, repr=False, metadata=MEMORY_ONLY)
    """Call either side as `side(*args, **kwargs)`; not written to JSON."""
    kwargs: Mapping[str, object] = field(
        default_factory=dict, compare=False, repr=False, metadata=MEMORY_ONLY
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
    parting: Parting | None = None
    """Where a candidate that differs does so first, where both sides can be looked into."""

    @property
    def ok(self) -> bool:
        """Whether the two sides were shown to be equivalent; an undecided comparison is not ok."""
        return self.verdict is Verdict.EQUIVALENT

    def __str__(self) -> str:
        """The verdict, and what decided it.

        >>> str(VerifyReport(Verdict.UNDECIDED, reason="no reference"))
        'undecided: no reference'
        """
        return f"{self.verdict}: {self.reason}" if self.reason else str(self.verdict)


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
    """Seconds of each step: trace, pipeline, lower (verification included)."""
    schema: int = SCHEMA_VERSION
    metric: MetricReport | None = None
    versions: dict[str, str] = field(default_factory=dict)
    """Of fxopt and torch."""

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

    def __str__(self) -> str:
        """What went in, what came out, how it was judged: a few lines.

        >>> graph, artifact = GraphSummary(9), ArtifactReport("onnx", "m.onnx", 1500)
        >>> print(Report("Net", pipeline="O1", before=graph, after=GraphSummary(7), artifact=artifact))
        Net by O1: 9 -> 7 ops, 0 B of weights
        m.onnx: onnx, 1.5 kB
        """
        whole = self.pipeline or ""
        by = f" by {whole[:60]}{'...' * (len(whole) > 60)}" if whole else ""
        lines = [f"{self.model}{by}"]
        if self.before and self.after:
            ops = _change(str(self.before.nodes), str(self.after.nodes))
            sizes = _change(size_text(self.before.weight_bytes), size_text(self.after.weight_bytes))
            lines = [f"{self.model}{by}: {ops} ops, {sizes} of weights"]
        if self.artifact:
            opset = f" opset {self.artifact.opset}" if self.artifact.opset else ""
            what = f"{self.artifact.target}{opset}, {size_text(self.artifact.size)}"
            lines.append(f"{self.artifact.path or 'in memory'}: {what}")
        lines += [str(self.verification)] if self.verification else []
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])

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
