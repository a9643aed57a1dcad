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

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from fxopt.errors import ArtifactError
from fxopt.json_data import JsonData
from fxopt.report.comparison import Counterexample, Verdict, VerifyReport
from fxopt.report.layers import LayerReport, PrecisionReport

__all__ = [
    "SCHEMA_VERSION",
    "AppliedRewrite",
    "ArtifactReport",
    "CostReport",
    "Coverage",
    "GraphSummary",
    "MetricReport",
    "PassReport",
    "Refusal",
    "Report",
    "size_text",
]

SCHEMA_VERSION = 1


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

    @property
    def met(self) -> bool:
        """Whether it fell by no more than it might; a score that is NaN did."""
        return self.max_drop is None or self.before - self.after <= self.max_drop


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
    held_to: str = ""
    """What the file was compared with where that is not the model: `the program after prune`."""
    layers: tuple[LayerReport, ...] = ()
    """What rounding does to each layer of a quantized program, in graph order."""
    precision: PrecisionReport | None = None
    """How the layers' precisions were chosen, where an accuracy was asked for."""
    missed: str = ""
    """What the file falls short of although it was kept: it is the best that was found."""

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
    def judgement(self) -> str:
        """The verdict, what it was held to if that is not the model, and what decided it.

        >>> judged = VerifyReport(Verdict.EQUIVALENT, reason="1 output agrees")
        >>> Report(verification=judged, held_to="the program after prune").judgement
        'equivalent to the program after prune: 1 output agrees'
        """
        if self.verification is None:
            return ""
        text = str(self.verification)
        if not self.held_to:
            return text
        joint = {Verdict.EQUIVALENT: "to", Verdict.DIFFERENT: "from"}.get(self.verdict, "against")
        return f"{self.verdict} {joint} {self.held_to}{text.removeprefix(self.verdict)}"

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
        lines += [self.judgement] if self.verification else []
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
        try:
            return cls.from_json(data)
        except ArtifactError as error:
            raise ArtifactError(f"can't read the report {path}: {error}") from error
