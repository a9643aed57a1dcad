"""The user's metric: scored for the model and the verified artifact, before its file gets its name.

>>> _score(lambda run: run(2.0), lambda x: x + 1)
3.0
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fxopt.errors import InputError, VerificationError
from fxopt.lowering import Artifact
from fxopt.optimizer.precision import Goal, sqnr
from fxopt.program import Program, in_floats
from fxopt.report import MetricReport, Report, VerifyReport

__all__ = ["Judge", "Metric", "check_metric", "goal_of", "verification_of"]

Metric = Callable[[Callable[..., object]], float]


def check_metric(metric: object, max_drop: float | None, min_sqnr: float | None) -> None:
    """Whether these can decide anything; told before any work is done.

    Raises:
        InputError: a budget without a metric, a metric that is no function, a budget that is no number from 0, two
            budgets.
    """
    if min_sqnr is not None and not (_is_number(min_sqnr) and math.isfinite(min_sqnr)):
        raise InputError(f"min_sqnr is {min_sqnr!r}; expected a number of dB")
    if min_sqnr is not None and max_drop is not None:
        raise InputError(
            "min_sqnr and max_drop are both given: one of them decides which layers stay in float"
        )
    if metric is None and max_drop is not None:
        raise InputError("max_drop needs a metric: pass metric=, a function that scores a callable")
    if metric is not None and not callable(metric):
        raise InputError(f"metric is {metric!r}; expected a function that scores a callable")
    if max_drop is not None and not (_is_number(max_drop) and max_drop >= 0):
        raise InputError(
            f"max_drop is {max_drop!r}; expected a number from 0: by how much the metric may fall"
        )


def goal_of(
    original: Program,
    data: Iterable[object],
    metric: Metric | None,
    max_drop: float | None,
    min_sqnr: float | None,
) -> Goal | None:
    """What the layers' precisions are chosen for; None if nothing was asked for."""
    if min_sqnr is not None:
        return Goal(f"an SQNR of at least {min_sqnr:g} dB", sqnr(original, data), lambda s: s >= min_sqnr)
    if metric is None or max_drop is None:
        return None
    before = _score(metric, original)
    text = f"a metric of at least {before:.6g} - {max_drop:g}"
    return Goal(text, lambda run: _score(metric, run), lambda s: before - s <= max_drop)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Judge:
    """Looks at the verified artifact before its file gets its name."""

    metric: Metric | None
    max_drop: float | None
    original: Program
    report: Report
    goal: Goal | None = None
    """What precisions were chosen for: a file that misses it is the best that was found, and kept."""

    def __call__(self, artifact: Artifact) -> None:
        """Scores the model and the artifact.

        Raises:
            VerificationError: the metric fell by more than it may.
            InputError: the metric gives no number, or NaN for the model itself.
        """
        self.report.verification = verification_of(artifact.report)
        run = in_floats(artifact)
        if self.metric is not None:
            self._score(run, self.metric)
        if self.goal is not None and not self.goal.enough(score := self.goal.score(run)):
            self.report.missed = (
                f"the best file that was found comes to {score:.6g}: {self.goal.text} was asked for"
            )
            self.report.warnings.append(self.report.missed)

    def _score(self, artifact: Callable[..., object], metric: Metric) -> None:
        before = _score(metric, self.original)
        if math.isnan(before):
            raise InputError(
                "the metric of the model itself is NaN: there is nothing to compare the file with"
            )
        after = _score(metric, artifact)
        self.report.metric = MetricReport(before, after, self.max_drop)
        if self.max_drop is not None and self.goal is None and not self.report.metric.met:
            raise VerificationError(
                f"the metric fell from {before:.6g} to {after:.6g}, by more than {self.max_drop:g}; "
                "no file was written",
                self.report,
            )


def _score(metric: Metric, run: Callable[..., object]) -> float:
    value: object = metric(run)
    try:
        return float(value)  # type: ignore[arg-type]  # what has no float is the user's mistake
    except (TypeError, ValueError) as error:
        raise InputError(f"the metric returned {value!r}; expected a number") from error


def verification_of(report: object) -> VerifyReport | None:
    """The verdict that an artifact or an error carries, if it does."""
    return report if isinstance(report, VerifyReport) else None
