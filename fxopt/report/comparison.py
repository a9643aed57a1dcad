"""The outcome of a comparison of two sides: a verdict, what decided it, and each output's figures.

>>> VerifyReport(Verdict.DIFFERENT, reason="output y differs").ok
False
"""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fxopt.json_data import MEMORY_ONLY, JsonData

__all__ = ["Counterexample", "OutputComparison", "Parting", "Verdict", "VerifyReport"]


class Verdict(enum.StrEnum):
    """What a comparison came to; equal to its plain word, so `report.verdict == "equivalent"`."""

    EQUIVALENT = "equivalent"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


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
