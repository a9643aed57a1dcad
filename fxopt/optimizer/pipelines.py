"""`run_pipeline`: a pipeline on a program, for a target.

>>> str(checked_manager("O1,fixpoint(fold-constants)", target="onnx"))
'O1,fixpoint(fold-constants)'
"""

from collections.abc import Iterable, Iterator, Sequence

from fxopt.diagnosis import EachCheck
from fxopt.errors import PipelineError
from fxopt.frontend.frames import warn_caller
from fxopt.lowering import Target, get_target
from fxopt.pipeline import CheckEach, CrashReproducer, Instrument, Pass, PassManager, PipelineResult
from fxopt.pipeline.text import Fixpoint, Named, Step, print_steps
from fxopt.program import Program, expect_program

__all__ = ["Pipeline", "checked_manager", "run_manager", "run_pipeline", "unused_calibration"]

_MOST_CRASH_BYTES = 256 * 1024**2
"""Weights of a program that is written unasked when a pass fails."""

Pipeline = str | PassManager | Pass | Sequence[Pass]


def run_pipeline(
    program: Program,
    pipeline: Pipeline,
    *,
    calibration: Iterable[object] | None = None,
    target: str | Target | None = None,
    check_each: bool = False,
    instruments: Sequence[Instrument] = (),
) -> Program:
    """Runs a pipeline on a program.

    Args:
        program: left as it is.
        pipeline: text such as "O1,eliminate-dead-code", a manager, or passes.
        calibration: example inputs (tensors or tuples of them), for passes that need them.
        target: which target the result is for; an `O2{target=...}` in the pipeline must say the same.
        check_each: check every application that changed something, before against after, by the pass's
            contract.
        instruments: called around each pass.

    Returns:
        A new program; weights that no pass changed are shared.

    Raises:
        PipelineError: bad text, an unknown pass or option, an illegal order, another target.
        LoweringError: an unknown target.
        PassError: a pass failed or broke a rule of the framework.
        VerificationError: with `check_each`, a pass changed the function.
        InputError: it is no program.
    """
    expect_program(program, "run_pipeline")
    manager = checked_manager(pipeline, target)
    unused = unused_calibration(manager, calibration)
    if unused:
        warn_caller(unused)
    each = EachCheck() if check_each else None
    return run_manager(manager, program, calibration, each, instruments).program


def checked_manager(pipeline: Pipeline, target: str | Target | None) -> PassManager:
    """The pipeline, the targets that it names checked.

    Raises:
        PipelineError: as `run_pipeline`.
        LoweringError: an unknown target.
    """
    manager = PassManager.parse(pipeline)
    lowered = None if target is None else get_target(target)
    chosen = None if lowered is None else lowered.name
    for step in _plain(manager.steps):
        wanted = dict(step.options).get("target")
        if step.name == "O2" and isinstance(wanted, str):
            get_target(wanted)
            if chosen not in (None, wanted):
                raise PipelineError(
                    f"{print_steps((step,))} is not for the target {chosen!r}: leave its target out, or make them agree"
                )
    return manager if lowered is None else manager.placed(lowered.placement)


def _plain(steps: Iterable[Step]) -> Iterator[Named]:
    for step in steps:
        if isinstance(step, Fixpoint):
            yield from _plain(step.steps)
        else:
            yield step


def unused_calibration(manager: PassManager, calibration: object) -> str:
    """A line about calibration data that no pass reads; empty if one does, or there are none."""
    reads = (p.takes_calibration() or p.budget() is not None for p in manager.passes())
    if calibration is None or any(reads):
        return ""
    return f"calibration is not used: no pass of {str(manager)!r} needs it"


def run_manager(
    manager: PassManager,
    program: Program,
    calibration: Iterable[object] | None,
    each: EachCheck | None,
    instruments: Sequence[Instrument],
) -> PipelineResult:
    """Runs a manager; a pass that fails is written down, checks come last.

    Raises:
        FxoptError: as `run_pipeline`.
    """
    if isinstance(calibration, Iterator):
        calibration = list(calibration)  # the first that reads it would leave nothing for the second
    if each is not None:
        each.data = calibration
    checks = (CheckEach(each),) if each is not None else ()
    reproduces = any(isinstance(i, CrashReproducer) for i in instruments)
    crash = () if reproduces else (CrashReproducer(most_bytes=_MOST_CRASH_BYTES),)
    return manager.run(program, calibration=calibration, instruments=(*instruments, *crash, *checks))
