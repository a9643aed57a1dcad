"""`Comparison`: runs two subjects on sample after sample, compares what came out, and sums it up as a report.

It stops at the first difference: `failure` is set, and the report carries that sample as the counterexample.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fxopt.report import Counterexample, OutputComparison, Verdict, VerifyReport
from fxopt.verification.measure import outer_difference
from fxopt.verification.oracles import compare_algebra, compare_exact, compare_noise, compare_rounding
from fxopt.verification.outcomes import Outcome, first_line, outcome_of, repeat_difference
from fxopt.verification.sampling import Sample, arguments_of
from fxopt.verification.subjects import Run, Subject

__all__ = ["Comparison", "Failure"]

_ENOUGH = 2
"""On how many inputs (or on all, where there are fewer) an output must have been judged equivalent."""
_ALGEBRA = " in float64"


@dataclass(frozen=True)
class Failure:
    """What shows that the sides differ."""

    sample: Sample
    reason: str
    output: OutputComparison | None = None


@dataclass(frozen=True)
class _Truth:
    """Float64 outputs, and whose."""

    outputs: Sequence[object]
    of: Subject


@dataclass(frozen=True)
class _Ground:
    """What outputs at one sample are judged by."""

    sample: Sample
    truth: _Truth | None
    original: Subject
    """The side whose rounding sets the scale."""

    def exact(self, i: int) -> object:
        """An output in float64, None where there is none."""
        return self.truth.outputs[i] if self.truth is not None and i < len(self.truth.outputs) else None

    def varied(self, i: int) -> list[object]:
        """An output of the original under variations of rounding; they are run once, when first asked for."""
        return [outputs[i] for outputs in self._variations if i < len(outputs)]

    def varied_double(self, i: int) -> list[object]:
        """The same of its float64 form."""
        return [outputs[i] for outputs in self._double_variations if i < len(outputs)]

    def precision(self, i: int) -> torch.dtype | None:
        """The narrowest float dtype on the way to an output of the original."""
        return self.original.precision_of(i)

    @functools.cached_property
    def _variations(self) -> list[Sequence[object]]:
        return self.original.variations([t.clone() for t in self.sample.tensors])

    @functools.cached_property
    def _double_variations(self) -> Sequence[Sequence[object]]:
        varied = self.original.perturbed_double
        return [] if varied is None else varied([t.clone() for t in self.sample.tensors])


class Comparison:
    """The state of one comparison.

    Attributes:
        reference: the original.
        candidate: what is judged.
        failure: the first difference, or None.
        unstable: how a side differs from itself on the same inputs, which leaves nothing to compare; or empty.
        sizes: the sets of sizes above 1 that both sides were run at.
    """

    def __init__(
        self, reference: Subject, candidate: Subject, contract: str, algebra: Run | None = None
    ) -> None:
        self.reference = reference
        self.candidate = candidate
        self.failure: Failure | None = None
        self.unstable = ""
        self.sizes: set[tuple[tuple[str, int], ...]] = set()
        self._contract = contract
        self._algebra = algebra
        self._names = [s.name for s in reference.signature.computed_outputs]
        self._tried: list[str] = []
        self._judged = 0
        self._both_raise: list[str] = []
        self._refused: list[str] = []
        self._notes: dict[str, None] = {}
        self._no_double: set[int] = set()
        self._oracles: set[str] = set()
        self._results: dict[str, list[OutputComparison]] = {}

    def try_sample(self, sample: Sample) -> None:
        """Runs both sides and compares.

        Raises:
            ImportError, MemoryError: a side can't be run here, which says nothing of what it computes.
        """
        expected = outcome_of(self.reference, sample)
        if expected.error and not sample.given:
            self._refused.append(f"{sample.label}: {expected.error}")
            return
        actual = outcome_of(self.candidate, sample)
        self._tried.append(sample.label)
        if expected.error and actual.error:
            self._both_raise.append(f"{sample.label}: {expected.error}")
            return
        problem = self._outcome_difference(expected, actual, sample)
        if problem is not None:
            self.failure = Failure(sample, problem) if problem else None
            return
        if not self._judged:
            unstable = repeat_difference(self.reference, self.candidate, sample, expected)
            unstable = unstable or repeat_difference(self.candidate, self.reference, sample, actual)
            if unstable:
                self.unstable = f"at {sample.label}: {unstable}"
                return
        self._judged += 1
        if sample.above_one():
            self.sizes.add(tuple(sorted(sample.sizes.items())))
        self._compare_outputs(expected.outputs, actual.outputs, sample)

    @property
    def done(self) -> bool:
        """Whether further samples can't change the verdict."""
        return self.failure is not None or bool(self.unstable)

    def _outcome_difference(self, expected: Outcome, actual: Outcome, sample: Sample) -> str | None:
        """Why outputs need no look: a difference, or "" where the sample does not count; None to go on."""
        if expected.error or actual.error:
            side, other = (
                (self.reference, self.candidate) if expected.error else (self.candidate, self.reference)
            )
            reason = f"{side.name} raises where {other.name} runs: {expected.error or actual.error}"
            if any(t.numel() == 0 for t in sample.tensors):
                self._note(f"at {sample.label}, which is empty, {reason}")
                return ""
            return reason
        if set(expected.written) != set(actual.written):
            names = ", ".join(map(repr, sorted(set(expected.written) ^ set(actual.written))))
            writer = self.candidate if actual.written else self.reference
            return f"{writer.name} writes to its input {names}, the other side does not"
        if expected.written:
            names = ", ".join(map(repr, expected.written))
            self._note(f"both sides write to their input {names}; what they write is not compared")
        if len(expected.outputs) != len(actual.outputs):
            count = len(actual.outputs)
            returned = "1 output" if count == 1 else f"{count} outputs"
            return f"it returns {returned}, expected {len(expected.outputs)}"
        return None

    def _compare_outputs(self, expected: list[object], actual: list[object], sample: Sample) -> None:
        truth = self._truth(sample) if self._contract != "exact" else None
        swapped = truth is not None and truth.of is self.candidate
        ground = _Ground(sample, truth, self.candidate if swapped else self.reference)
        for i, (old, new) in enumerate(zip(expected, actual, strict=True)):
            name = self._name(i)
            if self._contract == "exact":
                result = compare_exact(new, old, name=name)
            elif swapped:
                result = self._compare_values(name, i, old, new, ground)
                result = dataclasses.replace(result, expected=result.actual, actual=result.expected)
            else:
                result = self._compare_values(name, i, new, old, ground)
            self._take(result, sample)
        if self._algebra is not None and not swapped and self.failure is None:
            self._compare_algebra(expected, ground)

    def _name(self, i: int) -> str:
        return self._names[i] if i < len(self._names) else f"output {i}"

    def _compare_values(
        self, name: str, i: int, judged: object, original: object, ground: _Ground
    ) -> OutputComparison:
        """One output by the oracle that applies; variations are run only where a first look is not enough."""
        constant = ground.sample.constant()
        exact = ground.exact(i)
        if isinstance(original, torch.Tensor) and not _same_shape(exact, original):
            self._oracles.add("noise")
            result = compare_noise(
                judged,
                original,
                ground.varied(i),
                constant=constant,
                precision=ground.precision(i),
                name=name,
            )
        else:
            self._oracles.add("float64")
            judge = functools.partial(
                compare_rounding,
                judged,
                original,
                exact,
                constant=constant,
                precision=ground.precision(i),
                name=name,
            )
            result = judge()
            if result.verdict is not Verdict.EQUIVALENT and not outer_difference(original, judged):
                result = judge(perturbed=ground.varied(i))
        if self._contract == "approximate" and not outer_difference(original, judged):
            reason = f"the contract lets values change; {result.reason}"
            return dataclasses.replace(result, verdict=Verdict.UNDECIDED, reason=reason)
        return result

    def _compare_algebra(self, original: list[object], ground: _Ground) -> None:
        """The rewritten float64 program against the original one in float64."""
        if ground.truth is None or self._algebra is None:
            return
        rewritten = list(self._algebra([t.clone() for t in ground.sample.tensors]))
        self._oracles.add("algebra")
        for i, (new, exact, old) in enumerate(zip(rewritten, ground.truth.outputs, original, strict=True)):
            judge = functools.partial(
                compare_algebra,
                new,
                exact,
                old,
                precision=ground.precision(i),
                name=self._name(i) + _ALGEBRA,
            )
            result = judge()
            if result.verdict is not Verdict.EQUIVALENT and not outer_difference(exact, new):
                result = judge(perturbed=ground.varied(i), perturbed64=ground.varied_double(i))
            self._take(result, ground.sample)

    def _truth(self, sample: Sample) -> _Truth | None:
        """Float64 outputs of the reference, else of the candidate (equivalence goes both ways), else None."""
        for subject in (self.reference, self.candidate):
            if subject.double is None or id(subject) in self._no_double:
                continue
            try:
                outputs = subject.double([t.clone() for t in sample.tensors])
            except Exception as error:
                self._no_double.add(id(subject))
                self._note(f"{subject.name} does not run in float64: {first_line(error)}")
                continue
            if subject is self.candidate:
                self._note(f"judged against the float64 form of {subject.name}")
            return _Truth(outputs, subject)
        self._note(
            "no float64 reference: judged by how far variations of the original's rounding move its outputs"
        )
        return None

    def _take(self, result: OutputComparison, sample: Sample) -> None:
        result = dataclasses.replace(result, case=sample.label)
        self._results.setdefault(result.name, []).append(result)
        if result.verdict is Verdict.DIFFERENT and self.failure is None:
            where = ""
            if not math.isnan(result.expected) or not math.isnan(result.actual):
                place = f" at {list(result.index)}" if result.index else ""
                where = f";{place} it is {result.actual:.9g}, expected {result.expected:.9g}"
            self.failure = Failure(sample, f"output {result.name!r}: {result.reason}{where}", result)

    def _note(self, text: str) -> None:
        self._notes[text] = None

    def report(self) -> VerifyReport:
        """The verdict over all samples tried so far."""
        verdict, reason = self._verdict()
        outputs = tuple(map(_worst, self._results.values()))
        failed = self.failure.output if self.failure is not None else None
        for side in (self.reference, self.candidate):
            for note in side.notes() if side.notes is not None else ():
                self._note(note)
        errors = [o.max_abs_error for o in outputs if not math.isnan(o.max_abs_error)]
        if self._refused:
            count = len(self._refused)
            self._note(
                f"{self.reference.name} itself refuses {count} of the drawn inputs ({self._refused[0]})"
            )
        return VerifyReport(
            verdict,
            reason,
            ratio=failed.ratio if failed is not None else self._ratio(),
            max_abs_error=max(errors, default=math.nan),
            outputs=outputs,
            inputs_tried=tuple(self._tried),
            oracle="bitwise" if self._contract == "exact" else ", ".join(sorted(self._oracles)),
            counterexample=self._counterexample(),
            notes=tuple(self._notes),
        )

    def _verdict(self) -> tuple[Verdict, str]:
        if self.failure is not None:
            return Verdict.DIFFERENT, f"at {self.failure.sample.label}: {self.failure.reason}"
        if self.unstable:
            return Verdict.UNDECIDED, self.unstable
        if not self._judged:
            return Verdict.UNDECIDED, self._nothing_ran()
        for results in self._results.values():
            decided = [r for r in results if r.verdict is Verdict.EQUIVALENT]
            doubtful = [r for r in results if r.verdict is Verdict.UNDECIDED]
            if len(decided) < min(_ENOUGH, len(results)):
                return (
                    Verdict.UNDECIDED,
                    f"output {doubtful[0].name!r} at {doubtful[0].case}: {doubtful[0].reason}",
                )
            for result in doubtful:
                self._note(f"output {result.name!r} at {result.case} is undecided: {result.reason}")
        count = len([name for name in self._results if not name.endswith(_ALGEBRA)])
        inputs = "1 input" if self._judged == 1 else f"{self._judged} inputs"
        agree = f"1 output agrees on {inputs}" if count == 1 else f"{count} outputs agree on {inputs}"
        if self._contract == "exact":
            return Verdict.EQUIVALENT, f"{agree}, bit for bit"
        return (
            Verdict.EQUIVALENT,
            f"{agree}: the error is at most {self._ratio():.3g} times the original's own",
        )

    def _ratio(self) -> float:
        """The worst ratio of the outputs that were judged equivalent or different; NaN if there is none."""
        worst = [_worst(rs) for name, rs in self._results.items() if not name.endswith(_ALGEBRA)]
        return max((r.ratio for r in worst if not math.isnan(r.ratio)), default=math.nan)

    def _nothing_ran(self) -> str:
        if self._both_raise:
            return f"both sides raise on every input ({self._both_raise[0]})"
        if self._refused:
            return f"{self.reference.name} refuses every drawn input ({self._refused[0]}); pass inputs="
        return "there was no input to compare on"

    def _counterexample(self) -> Counterexample | None:
        if self.failure is None:
            return None
        sample, output = self.failure.sample, self.failure.output
        signature = self.reference.signature
        args, kwargs = arguments_of(signature, sample.tensors)
        return Counterexample(
            case=sample.label,
            output=output.name if output is not None else "",
            index=output.index if output is not None else (),
            expected=output.expected if output is not None else math.nan,
            actual=output.actual if output is not None else math.nan,
            inputs={s.name: t for s, t in zip(signature.tensor_inputs, sample.tensors, strict=True)},
            args=args,
            kwargs=kwargs,
        )


def _same_shape(value: object, other: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == other.shape


def _worst(results: list[OutputComparison]) -> OutputComparison:
    """The result that says most against an output: a difference, else the largest ratio judged, else any."""
    rank = {Verdict.DIFFERENT: 2, Verdict.EQUIVALENT: 1, Verdict.UNDECIDED: 0}
    worst = max(results, key=lambda r: (rank[r.verdict], -math.inf if math.isnan(r.ratio) else r.ratio))
    errors = [r.max_abs_error for r in results if not math.isnan(r.max_abs_error)]
    return dataclasses.replace(worst, max_abs_error=max(errors, default=math.nan))
