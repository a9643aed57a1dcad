"""Checks: whether what a trial makes of a program fails, and how.

A check is a function `(program, trial) -> Symptom or None`. It judges the result against the program that the
trial began with, so that it can be asked again of any smaller program.

>>> import torch
>>> from fxopt.diagnosis.trial import Trial
>>> from fxopt.frontend import trace
>>> from fxopt.pipeline import registry
>>> import fxopt.passes
>>> program = trace(torch.nn.Dropout().eval(), (torch.ones(2),))
>>> check_values(program, Trial((registry.get("eliminate-identities")(),))) is None
True
"""

import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fxopt.diagnosis.symptom import Symptom, of_crash, of_report
from fxopt.diagnosis.trial import Trial, TrialError
from fxopt.dialect import check_program
from fxopt.errors import FxoptError, InputError, PassError, VerificationError
from fxopt.lowering import Target, lower
from fxopt.ops import is_pure, op_key
from fxopt.pipeline import Contract, Pass, PassManager, PipelineResult
from fxopt.program import Program
from fxopt.report import Verdict, VerifyReport
from fxopt.verification import budget_report, check_programs, largest_change, sample_inputs

__all__ = [
    "Check",
    "CommandCheck",
    "EachCheck",
    "SlowerCheck",
    "TargetCheck",
    "check_values",
    "contract_of",
    "effects_difference",
]

Check = Callable[[Program, Trial], Symptom | None]
"""(program, trial) -> how the trial fails on the program, or None."""


def contract_of(passes: Sequence[Pass]) -> Contract:
    """The weakest contract of several passes."""
    order = (Contract.EXACT, Contract.EQUIVALENT, Contract.APPROXIMATE)
    return max((p.contract for p in passes), key=order.index, default=Contract.EXACT)


def check_values(program: Program, trial: Trial) -> Symptom | None:
    """Whether the passes crash, break a rule of the framework, lose an effect or change the function.

    It is run twice, since a pass must do the same each time. The oracles are those of the passes' weakest
    contract; for algebra the trial is repeated on the float64 twin, held to the rewrites that it made.
    """
    try:
        result, again = trial.run(program), trial.run(program)
        check_program(result.program, values=True)
    except TrialError as error:
        return of_crash(error.error, error.pass_name)
    except PassError as error:
        return of_crash(error, trial.last.pass_name() if trial.passes else "")
    lost = effects_difference(program, result.program)
    if lost:
        return Symptom("effects", lost, text=lost)
    if str(result.program) != str(again.program):
        return Symptom("not deterministic", text="a second run on the same program gives another result")
    if all(not p.changed for p in result.passes):
        return None
    try:
        report = _compared(program, result, trial)
    except TrialError as error:
        return of_crash(error.error, error.pass_name)
    if report.verdict is not Verdict.DIFFERENT:
        report = _over_budget(program, result, trial) or report
    return of_report(report) if report.verdict is Verdict.DIFFERENT else None


def _over_budget(program: Program, result: PipelineResult, trial: Trial) -> VerifyReport | None:
    """What passes that are APPROXIMATE move beyond their budgets together; None if one states none."""
    budgets = [p.budget() for p in trial.passes if p.contract is Contract.APPROXIMATE]
    stated = [b for b in budgets if b is not None]
    if not budgets or len(stated) < len(budgets):
        return None
    return budget_report(largest_change(program, result.reference, _data(trial.calibration)), sum(stated))


def _data(calibration: object) -> Iterable[object] | None:
    return calibration if isinstance(calibration, Iterable) else None


def _compared(program: Program, result: PipelineResult, trial: Trial) -> VerifyReport:
    again = trial.repeated(result)
    needs_data = any(p.takes_calibration() for p in trial.passes)
    return check_programs(
        program,
        result.program,
        contract_of(trial.passes).value,
        transform=None if needs_data else lambda twin: again.run(twin).program,
    )


class EachCheck:
    """The check of each application of a pass: what `fxopt.pipeline.CheckEach` asks.

    Attributes:
        data: what passes that change the function on purpose are held to their budgets on; by default drawn
            inputs.
        seconds: what all checks took.
        notes: what they had to say, such as that there is no float64 reference.
    """

    def __init__(self) -> None:
        self.data: Iterable[object] | None = None
        self.seconds = 0.0
        self.notes: dict[str, None] = {}

    def __call__(self, before: Program, after: Program, item: Pass) -> None:
        """Raises if the application lost an effect or changed the function, by the pass's contract or budget.

        Raises:
            VerificationError: what is different.
            PassError: the pass fails on the float64 twin of the program.
        """
        start, name = time.perf_counter(), item.pass_name()
        lost = effects_difference(before, after)
        if lost:
            raise VerificationError(f"pass {name!r} changed the effects: {lost}")

        def again(program: Program) -> Program:
            """The pass on the float64 twin: the oracle of algebra sees what float32's rounding hides."""
            return PassManager.of([item]).run(program).program

        transform = None if item.takes_calibration() else again
        report = check_programs(before, after, item.contract.value, transform=transform)
        approximate = item.contract is Contract.APPROXIMATE and report.verdict is not Verdict.DIFFERENT
        said = [self._budget(before, after, item)] if approximate else []
        self.seconds += time.perf_counter() - start
        if report.verdict is Verdict.DIFFERENT:
            raise VerificationError(f"pass {name!r} changed the function: {report.reason}", report)
        if report.verdict is Verdict.UNDECIDED and not approximate:
            said = [report.reason]
        self.notes |= dict.fromkeys(f"check of {name}: {n}" for n in (*report.notes, *said))

    def _budget(self, before: Program, after: Program, item: Pass) -> str:
        """How far outputs moved, and of what budget.

        Raises:
            VerificationError: they moved further.
        """
        change, budget = largest_change(before, after, self.data), item.budget()
        moved = f"outputs moved by at most {100 * change.share:.3g}% of their norm"
        if budget is None:
            return f"{moved}; it states no budget"
        report = budget_report(change, budget)
        if report is not None:
            raise VerificationError(f"pass {item.pass_name()!r} is over its budget: {report.reason}", report)
        return f"{moved}; its budget is {100 * budget:.3g}%"


def effects_difference(before: Program, after: Program) -> str:
    """Which impure calls a rewrite lost, added, or made the outputs independent of; empty if none."""
    for what, effects in (("called", _effects), ("read", _live_effects)):
        old, new = effects(before), effects(after)
        for op in sorted({*old, *new}):
            if old[op] != new[op]:
                return f"{op}, which has effects, is {what} {new[op]} times, before {old[op]}"
    return ""


def _effects(program: Program) -> Counter[str]:
    return Counter(op_key(n.target) for n in program.calls() if not is_pure(n))


def _live_effects(program: Program) -> Counter[str]:
    """The impure calls that outputs depend on."""
    live = set(program.graph.output_node().all_input_nodes)
    for node in reversed(program.graph.nodes):
        if node in live:
            live.update(node.all_input_nodes)
    return Counter(op_key(n.target) for n in program.calls() if n in live and not is_pure(n))


@dataclass(frozen=True)
class TargetCheck:
    """Whether the lowered result fails to be made, or differs from the program that the trial began with."""

    target: str | Target
    opset: int | None = None

    def __call__(self, program: Program, trial: Trial) -> Symptom | None:
        """Runs the trial, lowers the result in memory, verifies it."""
        try:
            result = trial.run(program)
            lower(result.program, self.target, opset=self.opset, reference=result.reference)
        except TrialError as error:
            return of_crash(error.error, error.pass_name)
        except VerificationError as error:
            report = error.report
            return of_report(report, "target") if isinstance(report, VerifyReport) else of_crash(error)
        except Exception as error:  # whatever a lowering does with a program, a reduced one too
            return of_crash(error)
        return None


@dataclass(frozen=True)
class SlowerCheck:
    """Whether the result takes `factor` times as long as the program did, in medians of interleaved runs.

    With a target the lowered artifacts are timed. A measurement that says so is repeated before it counts.
    """

    factor: float = 1.2
    target: str | Target | None = None
    runs: int = 15
    size: int = 8
    """Of the dynamic dimensions."""

    def __call__(self, program: Program, trial: Trial) -> Symptom | None:
        """Times both."""
        try:
            result = trial.run(program).program if trial.passes else program
            before, after = (self._runnable(p) for p in (program, result))
        except TrialError as error:
            return of_crash(error.error, error.pass_name)
        ratio = min(self._ratio(program, before, after) for _ in range(2))
        if ratio <= self.factor:
            return None
        return Symptom("slower", text=f"it takes {ratio:.2f} times as long as before")

    def _runnable(self, program: Program) -> Callable[[list[object]], object]:
        if self.target is None:
            return program.run_flat  # type: ignore[return-value]
        return lower(program, self.target, verify=False).run_flat  # type: ignore[return-value]

    def _ratio(self, program: Program, *sides: Callable[[list[object]], object]) -> float:
        sizes = dict.fromkeys(program.signature.symbols, self.size)
        tensors: list[object] = list(sample_inputs(program.signature, sizes=[sizes])[0].tensors)
        times: list[list[float]] = [[], []]
        for turn in range(self.runs + 2):
            for side, taken in zip(sides, times, strict=True):
                start = time.perf_counter()
                side(list(tensors))
                if turn >= 2:  # the first ones warm up
                    taken.append(time.perf_counter() - start)
        old, new = (sorted(t)[len(t) // 2] for t in times)
        return new / old


@dataclass(frozen=True)
class CommandCheck:
    """Whether a user's command calls the result interesting: it exits with 0, as for llvm-reduce and C-Reduce.

    The command is run as `COMMAND FILE`: the `.fxopt` program that the passes made, or the lowered file.
    """

    command: str
    target: str | Target | None = None
    timeout: float = 600.0

    def __call__(self, program: Program, trial: Trial) -> Symptom | None:
        """Writes the file and runs the command in a folder of its own."""
        try:
            result = trial.run(program).program if trial.passes else program
        except TrialError as error:
            return of_crash(error.error, error.pass_name)
        with tempfile.TemporaryDirectory(prefix="fxopt-test-") as folder:
            try:
                path = self._written(result, Path(folder))
            except FxoptError:
                return None  # no file, nothing to be interested in
            return self._asked(path, folder)

    def _written(self, program: Program, folder: Path) -> Path:
        from fxopt.lowering import get_target

        path = folder / "model.fxopt"
        if self.target is None:
            program.save(str(path))
            return path
        path = path.with_suffix(get_target(self.target).suffix)
        lower(program, self.target, path=path, verify=False)
        return path

    def _asked(self, path: Path, folder: str) -> Symptom | None:
        executable = Path(self.command).resolve()
        command = [str(executable)] if executable.is_file() else ["/bin/sh", "-c", f'{self.command} "$0"']
        try:
            done = subprocess.run(
                [*command, str(path)],
                cwd=folder,
                env={**os.environ, "FXOPT_FILE": str(path)},
                capture_output=True,
                timeout=self.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"--test {self.command} did not end within {self.timeout:g} s") from None
        except OSError as error:
            raise InputError(f"--test {self.command} can't be run: {error.strerror or error}") from error
        if done.returncode in (126, 127):
            raise InputError(f"--test {self.command} can't be run (exit code {done.returncode})")
        return Symptom("test", text=f"{self.command} is interested") if done.returncode == 0 else None
