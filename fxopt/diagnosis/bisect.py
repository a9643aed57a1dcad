"""`bisect`: the first pass of a pipeline that makes it fail, and within it the first rewrite.

Passes are counted in the order in which they run (a fixpoint's rounds one after another), rewrites within the
pass; each search takes as many runs as the logarithm of the number says.

>>> import torch
>>> from fxopt.diagnosis.checks import check_values
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Dropout().eval(), (torch.ones(2),))
>>> bisect(program, "O1", check_values) is None
True
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fxopt.diagnosis.checks import Check
from fxopt.diagnosis.symptom import Symptom
from fxopt.diagnosis.trial import Trial, TrialError, passes_in_time
from fxopt.pipeline import Pass, PassManager
from fxopt.program import Program
from fxopt.rewriting import Rewrite

__all__ = ["Bisection", "bisect", "bisect_pass"]


@dataclass(frozen=True)
class Bisection:
    """Where a pipeline goes wrong.

    Attributes:
        program: what the trial is run on: the program as it was before the bad pass, or, where the failure
            does not show on that alone, the original.
        trial: the passes to run on it, the bad one last, up to and with the bad rewrite. No passes: it fails
            without any.
        symptom: how it fails.
        index: the number of the bad pass in the order of running, from 1.
        count: of how many passes.
        rewrite: the bad rewrite; None if the pass fails without one.
        number: of the rewrite within the pass, from 1.
        runs: how many trials the search took.
    """

    program: Program
    trial: Trial
    symptom: Symptom
    index: int = 0
    count: int = 0
    rewrite: Rewrite | None = None
    number: int = 0
    runs: int = 0

    @property
    def item(self) -> Pass | None:
        """The bad pass."""
        return self.trial.last if self.trial.passes else None

    def __str__(self) -> str:
        if self.item is None:
            return f"it fails without any pass: {self.symptom.text}"
        where = f"pass {self.item.pass_name()!r} (number {self.index} of {self.count})"
        if self.rewrite is not None:
            where += f", rewrite {self.number}: rule {self.rewrite.rule!r} at %{self.rewrite.root}"
            origins = "; ".join(map(str, self.rewrite.origins))
            where += f" ({origins})" if origins else ""
        return f"{where}: {self.symptom.text}"


class _Search:
    """Runs a check and counts."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.runs = 0

    def __call__(self, program: Program, trial: Trial) -> Symptom | None:
        self.runs += 1
        return self.check(program, trial)


def bisect(
    program: Program,
    pipeline: "str | PassManager | Pass | Iterable[Pass]",
    check: Check,
    *,
    calibration: object = None,
) -> Bisection | None:
    """Finds the first pass, and in it the first rewrite, with which a pipeline fails.

    Args:
        program: left as it is.
        pipeline: text, a manager or passes.
        check: says how a trial fails.
        calibration: example inputs, for passes that need them.

    Returns:
        None if the whole pipeline does not fail.

    Raises:
        PipelineError: bad text, an illegal order.
    """
    manager = PassManager.parse(pipeline if isinstance(pipeline, (str, PassManager, Pass)) else [*pipeline])
    passes = passes_in_time(manager, program, calibration=calibration)
    search = _Search(check)
    symptom = search(program, Trial(passes, calibration=calibration))
    if symptom is None:
        return None
    bare = search(program, Trial((), calibration=calibration))
    if bare is not None:
        return Bisection(program, Trial((), calibration=calibration), bare, runs=search.runs)

    def fails(count: int) -> Symptom | None:
        return search(program, Trial(passes[:count], calibration=calibration))

    bad, symptom = _first(len(passes), symptom, fails)
    trial = Trial(passes[:bad], calibration=calibration)
    found = _within(program, trial, symptom, search)
    return dataclasses.replace(found, index=bad, count=len(passes), runs=search.runs)


def bisect_pass(
    program: Program, item: Pass, check: Check, *, calibration: object = None
) -> Bisection | None:
    """Finds the first rewrite of one pass with which it fails; None if it does not."""
    search, trial = _Search(check), Trial((item,), calibration=calibration)
    symptom = search(program, trial)
    if symptom is None:
        return None
    found = _rewrite(program, trial, symptom, search)
    return dataclasses.replace(found, index=1, count=1, runs=search.runs)


def _within(program: Program, trial: Trial, symptom: Symptom, search: _Search) -> Bisection:
    """The bad pass alone on what went before it, where it fails there in the same way; then its rewrite."""
    if len(trial.passes) > 1:
        before = Trial(trial.passes[:-1], calibration=trial.calibration).run(program).program
        alone = dataclasses.replace(trial, passes=trial.passes[-1:])
        shown = search(before, alone)
        if shown is not None and shown.kind == symptom.kind:
            program, trial, symptom = before, alone, shown
    return _rewrite(program, trial, symptom, search)


def _rewrite(program: Program, trial: Trial, symptom: Symptom, search: _Search) -> Bisection:
    """The first rewrite of the last pass with which the trial fails."""
    made: Sequence[Rewrite]
    try:
        made = trial.run(program).journals[-1].rewrites
    except TrialError as error:
        if error.rewrite is not None:
            return Bisection(program, trial, symptom, rewrite=error.rewrite, number=len(error.made) + 1)
        made = error.made

    def fails(count: int) -> Symptom | None:
        return search(program, dataclasses.replace(trial, limit=count))

    if not made or symptom.kind == "not deterministic" or fails(0) is not None:
        return Bisection(program, trial, symptom)
    number, symptom = _first(len(made), symptom, fails)
    trial = dataclasses.replace(trial, limit=number)
    return Bisection(program, trial, symptom, rewrite=made[number - 1], number=number)


def _first(count: int, symptom: Symptom, fails: Callable[[int], Symptom | None]) -> tuple[int, Symptom]:
    """The least number that fails, where `count` does and 0 does not, by halving."""
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        found = fails(middle)
        if found is None:
            good = middle
        else:
            bad, symptom = middle, found
    return bad, symptom
