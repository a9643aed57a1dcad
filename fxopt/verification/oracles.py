"""The oracles: whether an output differs from the original's by more than rounding does.

No fixed tolerance can tell rounding from a wrong epsilon: differences of correct rewrites span three orders
of magnitude over models. What is compared is the candidate's error with the original's own, both against
float64:

- `compare_rounding`: an artifact in the model's precision. Ratio of the errors at most 5 in the L2 norm and
  8 in the maximum norm (3 and 5 in half precision, where errors are few and large), three times that below
  64 elements. An original in float64 has no truth above it, so that what it is judged by carries its own
  rounding too: there both are 32, as for the algebra.
- `compare_algebra`: a rewritten program in float64, where nothing but an altered function leaves a trace.
  The error at most 32 times what the original's conditioning makes of float64's own rounding, or, where a
  value is at the edge of a step, than that moves the original.
- `compare_noise`: without float64, against how far legitimate variations of the original move.
- `compare_exact`: the same bits, NaN for NaN.

An original that is exact at these inputs by luck (an instance norm of a constant) has no error to compare
with; `perturbed`, runs of the original with every op's rounding varied, shows the true scale. Where that
scale is a tenth of the output itself nothing can be told, and the verdict is undecided. At constant inputs
(`constant`) sums of equal numbers drift one way in some kernels and not in others (a GroupNorm of zero
images in onnxruntime: 12 times torch's error), so that a moderate excess there is undecided too. Integer
outputs must be equal, but for elements at which the original's own value hangs on rounding (an argmax of a
tie): there any value that the float64 reference or a perturbed run of the original gives is accepted, and
the reason says so.

>>> truth = torch.linspace(1, 2, 100, dtype=torch.float64).sqrt()
>>> original = torch.linspace(1, 2, 100).sqrt()
>>> compare_rounding(original + 1e-7, original, truth).verdict.value
'equivalent'
>>> compare_rounding(original + 1e-5, original, truth).verdict.value
'different'
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fxopt.report import OutputComparison, Verdict
from fxopt.verification.measure import (
    Error,
    alike,
    bits,
    error_histogram,
    kinds,
    largest_difference,
    measured_error,
    outer_difference,
    plain_tensor,
    value_at,
)
from fxopt.verification.precision import coarsest

__all__ = ["compare_algebra", "compare_exact", "compare_noise", "compare_rounding"]

_SMALL = 64
"""Outputs of fewer elements have no average to speak of: their bounds are wider by `_SMALL_FACTOR`."""
_SMALL_FACTOR = 3.0
_ALGEBRA = 32.0
_CLEARLY = 2.0**12
"""A relative error of so many eps is no rounding, even if nothing is known of the original's."""
_DRIFT = "the inputs are constant, where sums of equal numbers drift by more than the usual rounding"
_NO_SCALE = "there is no float64 reference, and no variation moved the original: nothing to compare with"


@dataclass(frozen=True)
class _Limits:
    """What is allowed in an output of some dtype and number of elements."""

    eps: float
    """Relative rounding of the dtype: errors below it are not told apart."""
    l2: float
    max: float
    vacuous: float
    """The original's own relative error beyond which a comparison with it says nothing."""
    tiny: float
    """The smallest normal number: what lies below may be flushed to zero."""


def _limits(dtype: torch.dtype, count: int) -> _Limits:
    info = torch.finfo(dtype)
    if dtype is torch.float64:
        return _Limits(eps=info.eps, l2=_ALGEBRA, max=_ALGEBRA, vacuous=0.1, tiny=info.smallest_normal)
    half = info.eps > 1e-4
    factor = _SMALL_FACTOR if count < _SMALL else 1.0
    return _Limits(
        eps=info.eps,
        l2=factor * (3.0 if half else 5.0),
        max=factor * (5.0 if half else 8.0),
        vacuous=0.5 if half else 0.1,
        tiny=info.smallest_normal,
    )


def _working_dtype(dtype: torch.dtype, precision: torch.dtype | None) -> torch.dtype:
    """The dtype whose rounding an output of `dtype` carries."""
    return coarsest((dtype, precision)) or dtype


@dataclass(frozen=True)
class _Case:
    """One output, as a comparison sees it: plain tensors of one shape."""

    name: str
    candidate: torch.Tensor
    original: torch.Tensor
    """Whose kinds of non-finite values the candidate must have."""
    truth: torch.Tensor
    """What errors are measured against."""
    perturbed: tuple[torch.Tensor, ...]
    """Other values that rounding may give."""

    def result(
        self, verdict: Verdict, reason: str, *, error: Error | None = None, ratio: float = math.nan,
        max_norm_ratio: float = math.nan, tolerance: float = math.nan,
    ) -> OutputComparison:  # fmt: skip
        index = error.index if error is not None else ()
        return OutputComparison(
            self.name,
            verdict,
            ratio=ratio,
            max_norm_ratio=max_norm_ratio,
            max_abs_error=largest_difference(self.original, self.candidate),
            reason=reason,
            tolerance=tolerance,
            index=index,
            expected=value_at(self.original, index),
            actual=value_at(self.candidate, index),
            histogram=error_histogram(self.candidate, self.original),
        )


def compare_rounding(
    candidate: object,
    original: object,
    reference64: object,
    *,
    perturbed: Sequence[object] = (),
    constant: bool = False,
    precision: torch.dtype | None = None,
    name: str = "output",
) -> OutputComparison:
    """Judges an output computed in the model's own precision.

    Args:
        candidate: the output to judge, a tensor or a number.
        original: the original model's, in the same precision.
        reference64: the original's in float64.
        perturbed: the original's under legitimate variations of rounding, if they are known.
        constant: the inputs were constant tensors.
        precision: the narrowest float dtype that rounds on the way, where narrower than the output's own.
        name: of the output.

    Returns:
        The verdict, the ratios of candidate's and original's error, the largest difference and where it is.
    """
    case = _prepare(name, candidate, original, reference64, perturbed)
    if isinstance(case, OutputComparison):
        return case
    if not case.original.dtype.is_floating_point:
        return _judge_integers(case)
    limits = _limits(_working_dtype(case.original.dtype, precision), case.original.numel())
    own = [measured_error(value, case.truth) for value in (case.original, *case.perturbed)]
    result = _judge(case, limits, own)
    return _doubted(result, case, limits, _DRIFT) if constant else result


def compare_noise(
    candidate: object,
    original: object,
    perturbed: Sequence[object],
    *,
    constant: bool = False,
    precision: torch.dtype | None = None,
    name: str = "output",
) -> OutputComparison:
    """Judges an output without a float64 reference: against the original, by how far its variations move.

    If none of them moves, a small difference can't be called rounding or error and the verdict is undecided.

    Args:
        candidate: the output to judge.
        original: the original model's.
        perturbed: the original's under legitimate variations of rounding.
        constant: the inputs were constant tensors.
        precision: the narrowest float dtype that rounds on the way, where narrower than the output's own.
        name: of the output.
    """
    case = _prepare(name, candidate, original, original, perturbed)
    if isinstance(case, OutputComparison):
        return case
    if not case.original.dtype.is_floating_point:
        return _judge_integers(case)
    limits = _limits(_working_dtype(case.original.dtype, precision), case.original.numel())
    own = [measured_error(value, case.truth) for value in case.perturbed]
    result = _judge(case, limits, own)
    if constant:
        return _doubted(result, case, limits, _DRIFT)
    if not any(error.max > 0 for error in own):
        return _doubted(result, case, limits, _NO_SCALE)
    return result


def compare_algebra(
    candidate64: object,
    original64: object,
    original32: object,
    *,
    perturbed: Sequence[object] = (),
    perturbed64: Sequence[object] = (),
    precision: torch.dtype | None = None,
    name: str = "output",
) -> OutputComparison:
    """Judges whether a rewritten program is the same function, both run in float64.

    The original's error in its own precision, brought down to float64's, is what its conditioning makes
    of     rounding: `ratio = error64 / (max(error32, eps) * eps64 / eps)` with relative errors; 2 for
    correct     rewrites, thousands for the least wrong ones.

    Args:
        candidate64: the rewritten program's output in float64, the rewrite applied to the float64 program.
        original64: the program's own in float64.
        original32: the program's in its own precision.
        perturbed: that under legitimate variations of rounding, if they are known.
        perturbed64: the program's in float64 under such variations: at the edge of a step errors are jumps.
        precision: in which the original computed, where it is narrower than its output's dtype.
        name: of the output.
    """
    case = _prepare(name, candidate64, original64, original64, ())
    if isinstance(case, OutputComparison):
        return case
    lows, twins = alike((original32, *perturbed), case.truth), alike(perturbed64, case.truth)
    if not case.original.dtype.is_floating_point:
        return _judge_integers(dataclasses.replace(case, perturbed=(*lows, *twins)))
    double = torch.finfo(torch.float64)
    low = torch.finfo(_working_dtype(lows[0].dtype, precision)) if lows else double
    to_double = double.eps / low.eps
    own = [Error(e.l2 * to_double, e.max * to_double) for e in (measured_error(v, case.truth) for v in lows)]
    own += [measured_error(value, case.truth) for value in twins]
    limits = _Limits(
        eps=double.eps, l2=_ALGEBRA, max=math.inf, vacuous=math.inf, tiny=low.smallest_normal * to_double
    )
    return _judge(case, limits, own)


def compare_exact(candidate: object, original: object, *, name: str = "output") -> OutputComparison:
    """Judges whether two outputs have the same bits: signs of zeros too, any NaN for NaN."""
    case = _prepare(name, candidate, original, original, ())
    if isinstance(case, OutputComparison):
        return case
    differing = bits(case.candidate) != bits(case.original)
    if case.original.dtype.is_floating_point:
        differing &= ~(torch.isnan(case.candidate) & torch.isnan(case.original))
    count = int(differing.sum())
    if not count:
        return case.result(Verdict.EQUIVALENT, "bit-identical", ratio=0.0, max_norm_ratio=0.0, tolerance=0.0)
    reason = f"{count} of {differing.numel()} values are not bit-identical"
    return case.result(
        Verdict.DIFFERENT, reason, error=Error(index=_first(differing)), ratio=math.inf, tolerance=0.0
    )


def _prepare(
    name: str, candidate: object, original: object, truth: object, perturbed: Sequence[object]
) -> _Case | OutputComparison:
    """The tensors of a comparison, or its result where a look at types and shapes decides."""
    problem = outer_difference(original, candidate)
    if problem:
        return OutputComparison(name, Verdict.DIFFERENT, reason=problem)
    if not isinstance(original, torch.Tensor) or not isinstance(candidate, torch.Tensor):
        return _compare_numbers(name, candidate, original)
    if not isinstance(truth, torch.Tensor) or truth.shape != original.shape:
        return OutputComparison(name, Verdict.UNDECIDED, reason="the float64 reference has another shape")
    like = alike(perturbed, original)
    return _Case(name, plain_tensor(candidate), plain_tensor(original), plain_tensor(truth), like)


def _compare_numbers(name: str, candidate: object, original: object) -> OutputComparison:
    actual = candidate.item() if isinstance(candidate, torch.Tensor) else candidate
    same = actual == original or (actual != actual and original != original)
    return OutputComparison(
        name,
        Verdict.EQUIVALENT if same else Verdict.DIFFERENT,
        ratio=0.0 if same else math.inf,
        reason="equal" if same else "the numbers differ",
        expected=value_at(original, ()),
        actual=value_at(actual, ()),
    )


def _judge_integers(case: _Case) -> OutputComparison:
    """Equal, or of a value that rounding may give in the original too."""
    differing = case.candidate != case.original
    if not bool(differing.any()):
        return case.result(Verdict.EQUIVALENT, "equal", ratio=0.0, max_norm_ratio=0.0, tolerance=0.0)
    wrong = differing.clone()
    for other in (case.truth, *case.perturbed):
        wrong &= case.candidate != other
    count = int(wrong.sum())
    if count:
        reason = f"{count} of {wrong.numel()} integers differ"
        return case.result(
            Verdict.DIFFERENT, reason, error=Error(index=_first(wrong)), ratio=math.inf, tolerance=0.0
        )
    count = int(differing.sum())
    reason = f"{count} of {differing.numel()} integers differ, all where rounding decides the original's too"
    return case.result(
        Verdict.EQUIVALENT, reason, error=Error(index=_first(differing)), ratio=0.0, tolerance=0.0
    )


def _judge(case: _Case, limits: _Limits, own: Sequence[Error]) -> OutputComparison:
    """Non-finite values first, then the candidate's error by the original's own (the largest of `own`)."""
    wrong = kinds(case.candidate) != kinds(case.original)
    for other in case.perturbed:
        wrong &= kinds(other) == kinds(case.original)
    if bool(wrong.any()):
        reason = f"{int(wrong.sum())} of {wrong.numel()} values are NaN or infinite on one side only"
        place = Error(index=_first(wrong))
        return case.result(Verdict.DIFFERENT, reason, error=place, ratio=math.inf, tolerance=limits.l2)
    finite = torch.isfinite(case.original)
    unjudged = int((finite & ~torch.isfinite(case.truth)).sum())
    if unjudged and unjudged == int(finite.sum()):
        return case.result(Verdict.UNDECIDED, "the float64 reference is finite nowhere", tolerance=limits.l2)
    base = Error(max((e.l2 for e in own), default=0.0), max((e.max for e in own), default=0.0))
    result = _judge_error(case, limits, base)
    notes = _non_finite_notes(finite, case.truth, unjudged)
    return dataclasses.replace(result, reason="; ".join([result.reason, *notes]))


def _judge_error(case: _Case, limits: _Limits, base: Error) -> OutputComparison:
    error, scale, floor = measured_error(case.candidate, case.truth), _scale(case), _floor(case, limits)
    ratio, max_ratio = error.l2 / max(base.l2, floor.l2), error.max / max(base.max, floor.max)
    vacuous = base.l2 > limits.vacuous * scale.l2
    within_floor = error.l2 <= limits.l2 * floor.l2 and error.max <= limits.max * floor.max
    verdict, reason = Verdict.EQUIVALENT, _reason(ratio, max_ratio, limits)
    if ratio > limits.l2 or max_ratio > limits.max:
        verdict = Verdict.DIFFERENT
    elif vacuous and not within_floor and not torch.equal(case.candidate, case.original):
        verdict, reason = (
            Verdict.UNDECIDED,
            f"rounding alone moves the original by {_share(base.l2, scale.l2)}",
        )
    result = case.result(
        verdict, reason, error=error, ratio=ratio, max_norm_ratio=max_ratio, tolerance=limits.l2
    )
    allowed = limits.max * max(base.max, floor.max)
    return dataclasses.replace(result, abs_tolerance=allowed, abs_required=error.max)


def _doubted(result: OutputComparison, case: _Case, limits: _Limits, why: str) -> OutputComparison:
    """A difference as undecided where the error is so small that it may be rounding after all."""
    if result.verdict is not Verdict.DIFFERENT or _relative_error(case, limits) >= _CLEARLY * limits.eps:
        return result
    return dataclasses.replace(result, verdict=Verdict.UNDECIDED, reason=f"{result.reason}, but {why}")


def _relative_error(case: _Case, limits: _Limits) -> float:
    """The candidate's error by the norm of the truth; infinite if they are not finite at the same places."""
    if bool((kinds(case.candidate) != kinds(case.original)).any()):
        return math.inf
    return measured_error(case.candidate, case.truth).l2 / max(_scale(case).l2, limits.tiny)


def _scale(case: _Case) -> Error:
    """The norms of the truth itself, where the original is finite."""
    return measured_error(case.truth, torch.zeros_like(case.truth), torch.isfinite(case.original))


def _floor(case: _Case, limits: _Limits) -> Error:
    """Errors that are not told apart: eps of the norm, or the smallest normal number an element."""
    scale = _scale(case)
    quantum = limits.tiny * math.sqrt(max(case.truth.numel(), 1))
    return Error(max(limits.eps * scale.l2, quantum), max(limits.eps * scale.max, limits.tiny))


def _reason(ratio: float, max_ratio: float, limits: _Limits) -> str:
    if max_ratio > limits.max and ratio <= limits.l2:
        return f"the largest error is {max_ratio:.3g} times the original's own (at most {limits.max:g})"
    return f"the error is {ratio:.3g} times the original's own (at most {limits.l2:g})"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2g}% of its norm" if whole else f"{part:.2g} around zero"


def _non_finite_notes(finite: torch.Tensor, truth: torch.Tensor, unjudged: int) -> list[str]:
    notes = [f"{unjudged} values without a finite float64 reference are not judged"] if unjudged else []
    overflowed = int((~finite & torch.isfinite(truth)).sum())
    if overflowed:
        notes.append(
            f"{overflowed} values are finite in float64 only and judged by the original's infinities"
        )
    return notes


def _first(mask: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in mask.nonzero()[0])
