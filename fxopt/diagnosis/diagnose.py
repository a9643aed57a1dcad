"""`diagnose`: a failure bisected to its pass and rewrite, reduced to a few nodes, and written to a folder.

The folder holds the reduced program (`program.fxopt`), `reproduce.py`, which repeats the failure with torch and
fxopt alone, `report.txt`, which tells it, the inputs that show it (`inputs.safetensors`) and the largest program
tried that does not fail (`passing.fxopt`).

>>> import torch
>>> from fxopt.diagnosis.checks import check_values
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Dropout().eval(), (torch.ones(2),))
>>> diagnose(program, "O1", check_values) is None
True
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from fxopt.diagnosis.bisect import Bisection, bisect
from fxopt.diagnosis.checks import Check, CommandCheck, SlowerCheck, TargetCheck
from fxopt.diagnosis.reduce import Reduction, call_count, reduce_program
from fxopt.diagnosis.symptom import Symptom
from fxopt.diagnosis.trial import Trial, TrialError
from fxopt.errors import FxoptError, InputError, VerificationError
from fxopt.lowering import Target
from fxopt.pipeline import Pass, PassManager, Reproduction
from fxopt.program import Program

__all__ = ["Diagnosis", "diagnose", "explain"]

_SECONDS = 300.0


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a failure.

    Attributes:
        bisection: the bad pass and rewrite.
        reduction: the smallest program that shows it; None if it was not asked for.
        symptom: how the reduced program fails.
        folder: where all of it was written; None if it was not.
    """

    bisection: Bisection
    reduction: Reduction | None
    symptom: Symptom
    folder: Path | None = None

    def __str__(self) -> str:
        lines = [str(self.bisection)]
        if self.reduction is not None:
            before, after = (call_count(p) for p in (self.bisection.program, self.reduction.program))
            calls = "1 call" if after == 1 else f"{after} calls"
            lines.append(f"reduced from {before} to {calls}; {self.reduction.tried} programs tried")
        if self.folder is not None:
            lines.append(f"repeat it with: python {self.folder / 'reproduce.py'}")
        return "\n".join(lines)


def diagnose(
    program: Program,
    pipeline: str | PassManager | Pass | Iterable[Pass],
    check: Check,
    *,
    calibration: object = None,
    folder: str | os.PathLike[str] | None = None,
    seconds: float = _SECONDS,
) -> Diagnosis | None:
    """Bisects and reduces what a pipeline does wrong.

    Args:
        program: left as it is.
        pipeline: text, a manager or passes.
        check: says how a trial fails.
        calibration: example inputs, for passes that need them.
        folder: where the folder of the failure is made; None writes none.
        seconds: when the reduction stops at the latest.

    Returns:
        None if the pipeline does not fail.

    Raises:
        FxoptError: bad pipeline text, or what the check raises.
        OSError: the folder can't be written.
    """
    found = bisect(program, pipeline, check, calibration=calibration)
    return None if found is None else explain(found, check, folder=folder, seconds=seconds)


def explain(
    found: Bisection,
    check: Check,
    *,
    folder: str | os.PathLike[str] | None = None,
    seconds: float = _SECONDS,
) -> Diagnosis:
    """Reduces what a bisection found, and writes the folder if there is to be one."""
    trial, expected = _narrowed(found, check)

    def interesting(smaller: Program) -> bool:
        try:
            symptom = check(smaller, trial)
            return symptom is not None and symptom.is_as(expected)
        except InputError:  # inputs that can't be drawn: it shows nothing
            return False

    near = found.rewrite.root if found.rewrite is not None else None
    reduction = reduce_program(found.program, interesting, near=near, seconds=seconds)
    symptom = check(reduction.program, trial) or expected
    diagnosis = Diagnosis(found, reduction, symptom)
    if folder is None:
        return diagnosis
    return dataclasses.replace(diagnosis, folder=_written(diagnosis, trial, check, folder))


def _narrowed(found: Bisection, check: Check) -> tuple[Trial, Symptom]:
    """The trial to reduce with: of the bad rule alone where that fails in the same way."""
    whole = dataclasses.replace(found.trial, limit=None)
    options = [whole]
    if found.rewrite is not None and found.symptom.kind != "crash":
        options.insert(0, dataclasses.replace(whole, rule=found.rewrite.rule))
    for trial in options:
        symptom = check(found.program, trial)
        if symptom is not None and symptom.kind == found.symptom.kind:
            return trial, symptom
    return found.trial, found.symptom


def _written(diagnosis: Diagnosis, trial: Trial, check: Check, folder: str | os.PathLike[str]) -> Path:
    """The folder of a reproduction, and what tells of it."""
    assert diagnosis.reduction is not None
    item, symptom, program = diagnosis.bisection.item, diagnosis.symptom, diagnosis.reduction.program
    manager = PassManager.of(trial.passes)
    error = symptom.error or VerificationError(symptom.text, symptom.report)
    final = Reproduction(
        item.pass_name() if item is not None else "lowering",
        program,
        manager.expand(),
        error,
        trial.passes,
        trial.calibration,
        _call(check, symptom),
    ).write(folder)
    (final / "report.txt").write_text(_told(diagnosis, trial), encoding="utf-8")
    inputs = symptom.report.counterexample.inputs if symptom.report and symptom.report.counterexample else {}
    _write_inputs(final, inputs)
    if diagnosis.reduction.passing is not None:
        diagnosis.reduction.passing.save(str(final / "passing.fxopt"))
    return final


def _write_inputs(folder: Path, inputs: Mapping[str, object]) -> None:
    tensors = {n: t.detach().contiguous() for n, t in inputs.items() if isinstance(t, torch.Tensor)}
    if tensors:
        from safetensors.torch import save_file

        save_file(tensors, folder / "inputs.safetensors")


def _call(check: Check, symptom: Symptom) -> str:
    """The failing step, as Python over what `Reproduction.call` names."""
    run = "fxopt.run_pipeline(program, pipeline, calibration=calibration, instruments=instruments"
    if isinstance(check, SlowerCheck) and symptom.kind == "slower":
        by_name = dataclasses.replace(check, target=_name(check.target))
        return (
            "from fxopt.diagnosis import SlowerCheck, Trial\n"
            "from fxopt.pipeline import PassManager\n"
            "trial = Trial(tuple(PassManager.parse(pipeline).passes()), calibration=calibration)\n"
            f"found = {by_name!r}(program, trial)\n"
            "assert found is None, found.text"
        )
    if isinstance(check, TargetCheck):
        return f"fxopt.lower({run}), {_name(check.target)!r}, opset={check.opset!r}, reference=program)"
    if symptom.kind == "not deterministic":
        return f"first, second = ({run}) for _ in range(2))\nassert str(first) == str(second), first.diff(second)"
    if isinstance(check, CommandCheck) and symptom.kind == "test":
        return (
            f'{run}).save(str(HERE / "after.fxopt"))\n'
            f"raise SystemExit({check.command!r} + f\" finds {{HERE / 'after.fxopt'}}\")"
        )
    return f"{run}, check_each=True)"


def _name(target: str | Target | None) -> str | None:
    return target.name if isinstance(target, Target) else target


def _told(diagnosis: Diagnosis, trial: Trial) -> str:
    """The failure for people: pass, rewrite, before and after, the largest error, inputs."""
    assert diagnosis.reduction is not None
    program, symptom = diagnosis.reduction.program, diagnosis.symptom
    parts = [str(diagnosis), f"In the reduced program: {symptom.text}", str(program)]
    try:
        after = trial.run(program).program if trial.passes else program
        parts.append("What the pass does to it:\n" + (program.diff(after) or "nothing"))
    except (TrialError, FxoptError) as error:
        parts.append(f"The pass fails on it: {error}")
    report = symptom.report
    if report is not None:
        parts.append(f"Largest absolute error: {report.max_abs_error:.6g}; ratio: {report.ratio:.6g}")
        example = report.counterexample
        if example is not None:
            shown = [f"{n} = {t}" for n, t in example.inputs.items()]
            parts.append(f"Inputs that show it ({example.case}):\n" + "\n".join(shown))
    return "\n\n".join(parts) + "\n"
