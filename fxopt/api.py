"""The public functions: each a few lines over the layers below.

>>> import torch, fxopt
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
>>> program = fxopt.trace(model, (torch.zeros(2, 4),), dynamic_shapes={"input": {0: "batch"}})
>>> program(torch.zeros(5, 4)).shape
torch.Size([5, 4])
"""

import logging
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fxopt.errors import FxoptError, InputError, VerificationError
from fxopt.frontend import trace
from fxopt.frontend.capture import inference_mode
from fxopt.frontend.inputs import DynamicShapes
from fxopt.lowering import Artifact, Target, lower, open_artifact
from fxopt.ops import op_key
from fxopt.pipeline import CheckEach, CrashReproducer, Instrument, Pass, PassManager, PipelineResult
from fxopt.program import Program, Signature
from fxopt.report import ArtifactReport, GraphSummary, Report, Verdict, VerifyReport
from fxopt.verification import (
    Subject,
    call_of,
    check_programs,
    inputs_difference,
    module_subject,
    open_signature,
    subject_of,
    verify_runs,
)

__all__ = ["OptimizeResult", "load", "lower", "optimize", "run_pipeline", "trace", "verify"]

log = logging.getLogger(__name__)

_MOST_CRASH_BYTES = 256 * 1024**2
"""Weights of a program that is written unasked when a pass fails."""

Model = nn.Module | torch.export.ExportedProgram
Pipeline = str | PassManager | Pass | Sequence[Pass]


def load(path: str | os.PathLike[str], *, trust: bool = False) -> Program | Artifact:
    """Opens a file that fxopt wrote: a program or an artifact, by what the file says.

    Args:
        path: `.fxopt`, `.onnx`, `.pt`; a `.pt2` is traced.
        trust: open a `.pt2`, or a `.pt` that fxopt did not write: both can run code of their author's
            choosing; and an `.onnx` of fxopt's that was changed since.

    Raises:
        ArtifactError: the file is missing, corrupt, tampered with, or needs `trust=True`.
        TraceError: a `.pt2` whose program fxopt can't take.
    """
    return open_artifact(path, trust=trust)


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
        target: which target the result is for, where a pass depends on it.
        check_each: check every application that changed something, before against after, by the pass's
            contract.
        instruments: called around each pass.

    Returns:
        A new program; weights that no pass changed are shared.

    Raises:
        PipelineError: bad text, an unknown pass or option, an illegal order.
        PassError: a pass failed or broke a rule of the framework; names a folder with what repeats it.
        VerificationError: with `check_each`, a pass changed the function.
    """
    manager = PassManager.parse(pipeline)
    return _run(manager, program, calibration, check_each=check_each, instruments=instruments).program


def _run(
    manager: PassManager,
    program: Program,
    calibration: Iterable[object] | None,
    *,
    check_each: bool,
    instruments: Sequence[Instrument] = (),
) -> PipelineResult:
    checks = (CheckEach(_check_application),) if check_each else ()
    reproduces = any(isinstance(i, CrashReproducer) for i in instruments)
    crash = () if reproduces else (CrashReproducer(most_bytes=_MOST_CRASH_BYTES),)
    return manager.run(program, calibration=calibration, instruments=(*instruments, *crash, *checks))


def _check_application(before: Program, after: Program, item: Pass) -> None:
    """Raises if one pass application changed the function."""

    def again(program: Program) -> Program:
        """The pass on the float64 twin: the oracle of algebra sees what float32's rounding hides."""
        return PassManager.of([item]).run(program).program

    report = check_programs(
        before, after, item.contract.value, transform=None if item.needs_calibration else again
    )
    if report.verdict is Verdict.DIFFERENT:
        raise VerificationError(f"pass {item.pass_name()!r} changed the function: {report.reason}", report)


def verify(
    reference: "Model | Program | Artifact | str | os.PathLike[str]",
    candidate: "Model | Program | Artifact | str | os.PathLike[str]",
    *,
    inputs: Iterable[object] | None = None,
    trust: bool = False,
) -> VerifyReport:
    """Are two models, programs, artifacts or files the same function?

    Args:
        reference: what is right.
        candidate: what is judged.
        inputs: argument tuples to compare on; needed if neither side says what it takes (two modules).
        trust: as in `load`.

    Returns:
        The verdict (equivalent, different, undecided) with its reason; never raises for a difference.

    Raises:
        FxoptError: a side can't be opened or traced, or the two take different inputs.
    """
    given = None if inputs is None else list(inputs)
    sides = [load(s, trust=trust) if isinstance(s, (str, os.PathLike)) else s for s in (reference, candidate)]
    known = next((s.signature for s in sides if isinstance(s, (Program, Artifact)) and says_inputs(s)), None)
    reference_side, candidate_side = (_subject(s, known, given) for s in sides)
    problem = inputs_difference(reference_side, candidate_side)
    if problem:
        raise InputError(f"the two sides can't be compared: {problem}")
    return verify_runs(reference_side, candidate_side, inputs=given)


def says_inputs(side: Program | Artifact) -> bool:
    """Whether a program or file says what it takes; a TorchScript file of another's does not."""
    return bool(side.signature.inputs or side.signature.outputs)


def _subject(side: object, known: Signature | None, given: list[object] | None) -> Subject:
    if isinstance(side, Program):
        return subject_of(side)
    if isinstance(side, torch.export.ExportedProgram):
        return subject_of(trace(side))
    if isinstance(side, Artifact):
        own = side.signature if says_inputs(side) else known or _given_signature(side, side.target, given)
        return Subject(own, side.run_flat, None, side.target)
    if isinstance(side, nn.Module):
        name = type(side).__name__
        if known is None:
            with inference_mode(side):
                known = _given_signature(side, name, given)
        return module_subject(side, known)
    raise FxoptError(f"can't verify a {type(side).__name__}: expected a module, Program, Artifact or path")


def _given_signature(run: Callable[..., object], name: str, inputs: list[object] | None) -> Signature:
    """What a side that does not say so takes and returns, from the first of the inputs compared on."""
    if not inputs:
        raise FxoptError("neither side says what it takes: pass inputs=[(x, ...), ...]")
    args, kwargs = call_of(inputs[0])
    try:
        result = run(*args, **kwargs)
    except FxoptError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"{name} does not run on inputs[0]: {type(error).__name__}: {first}") from error
    return open_signature(args, kwargs, result)


@dataclass(frozen=True)
class OptimizeResult:
    """What `optimize` made.

    Attributes:
        program: the rewritten program.
        artifact: the verified artifact.
        report: all that was done, as data.
    """

    program: Program
    artifact: Artifact
    report: Report


def optimize(
    model: Model | Program | str,
    args: tuple[object, ...] | torch.Tensor | None = None,
    kwargs: Mapping[str, object] | None = None,
    *,
    pipeline: Pipeline = "O1",
    target: str | Target = "onnx",
    path: str | os.PathLike[str] | None = None,
    calibration: Iterable[object] | None = None,
    dynamic_shapes: DynamicShapes = None,
    metric: Callable[[Callable[..., object]], float] | None = None,
    max_drop: float | None = None,
    opset: int | None = None,
    check_each: bool = False,
    state: bool = False,
    trust: bool = False,
) -> OptimizeResult:
    """Traces, rewrites, lowers and verifies a model: the main job in one call.

    Args:
        model: a module, ExportedProgram, `.pt2` path or Program.
        args: example positional inputs.
        kwargs: example keyword inputs.
        pipeline: passes and named pipelines.
        target: "eager", "torchscript", "onnx", ...
        path: the final file; None keeps the artifact in memory.
        calibration: example inputs, for passes that need them.
        dynamic_shapes: as in `trace`.
        metric: scores a callable, higher is better; scored for the traced model and the artifact.
        max_drop: by how much the metric may fall, absolute.
        opset: of an ONNX file.
        check_each: check every pass application.
        state: as in `trace`.
        trust: as in `load`.

    Raises:
        VerificationError: the artifact is not the model's function, or the metric fell by more than
            `max_drop`; its
            `report` is the whole Report. No file is left.
    """
    report = Report(model=type(model).__name__, target=str(getattr(target, "name", target)))
    manager = PassManager.parse(pipeline)
    report.pipeline = str(manager)
    clock = _Clock(report)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if isinstance(model, Program):
            original = model
        else:
            log.info("trace the model")
            original = trace(model, args, kwargs, dynamic_shapes=dynamic_shapes, state=state, trust=trust)
    for warning in caught:
        report.warnings.append(str(warning.message))
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    report.model = original.name
    report.before = _summary(original)
    report.notes += [
        f"the model takes other sizes in another way: in this file {symbol.limits}"
        for symbol in original.signature.symbols.values()
        if symbol.limits
    ]
    clock.lap("trace")
    log.info("run the pipeline %s", report.pipeline)
    result = _run(manager, original, calibration, check_each=check_each)
    report.passes = result.passes
    report.after = _summary(result.program)
    clock.lap("pipeline")
    log.info("lower to %s and verify the file", report.target)
    artifact = _lowered(result.program, original, target, path, opset, report)
    clock.lap("lower")
    if metric is not None:
        _check_metric(metric, max_drop, original, artifact, report)
    return OptimizeResult(result.program, artifact, report)


class _Clock:
    def __init__(self, report: Report) -> None:
        self.report, self.start = report, time.perf_counter()

    def lap(self, name: str) -> None:
        """Notes the seconds since the last lap."""
        now = time.perf_counter()
        self.report.timings[name] = now - self.start
        self.start = now


def _lowered(
    program: Program,
    original: Program,
    target: str | Target,
    path: str | os.PathLike[str] | None,
    opset: int | None,
    report: Report,
) -> Artifact:
    """The artifact, verified against the model as it was traced, so that passes are judged too."""
    try:
        artifact = lower(program, target, path=path, opset=opset, reference=original)
    except VerificationError as error:
        report.verification = error.report if isinstance(error.report, VerifyReport) else None
        raise VerificationError(str(error), report) from error
    report.artifact = ArtifactReport(artifact.target, artifact.path, artifact.size, opset)
    report.verification = artifact.report if isinstance(artifact.report, VerifyReport) else None
    report.notes += artifact.notes
    return artifact


def _summary(program: Program) -> GraphSummary:
    ops = Counter(op_key(n.target).rsplit(".", 1)[0] for n in program.calls())
    size = sum(t.numel() * t.element_size() for t in program.weights.values())
    return GraphSummary(sum(ops.values()), dict(sorted(ops.items())), len(program.weights), size)


def _check_metric(
    metric: Callable[[Callable[..., object]], float],
    max_drop: float | None,
    original: Program,
    artifact: Artifact,
    report: Report,
) -> None:
    before, after = float(metric(original)), float(metric(artifact))
    report.notes.append(f"metric {before:.6g} -> {after:.6g}")
    if max_drop is not None and not before - after <= max_drop:
        if artifact.path is not None:
            os.unlink(artifact.path)
        raise VerificationError(
            f"the metric fell from {before:.6g} to {after:.6g}, by more than {max_drop:g}", report
        )
