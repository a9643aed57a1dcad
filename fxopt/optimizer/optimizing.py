"""One model through all steps, and the report of what was done to it.

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
>>> result = optimize(model, (torch.zeros(2, 4),), target="eager")
>>> result.report.verdict.value, result.report.after.ops
('equivalent', {'aten.linear': 1, 'aten.relu': 1})
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from fxopt import __version__
from fxopt.diagnosis import EachCheck, FailureReproducer, TargetCheck, diagnose
from fxopt.errors import InputError, VerificationError
from fxopt.frontend import trace
from fxopt.frontend.inputs import DynamicShapes
from fxopt.lowering import Artifact, Target, get_target, lower
from fxopt.lowering.lower import check_destination
from fxopt.optimizer.description import (
    Clock,
    describe_model,
    describe_passes,
    no_state,
    noting_warnings,
)
from fxopt.optimizer.metric import Judge, Metric, check_metric, goal_of, verification_of
from fxopt.optimizer.pipelines import Pipeline, checked_manager, run_manager, unused_calibration
from fxopt.optimizer.precision import Goal, choose_precisions, describe_layers, quantizes
from fxopt.optimizer.timing import time_file
from fxopt.passes.quantize import LayerError, layer_errors
from fxopt.pipeline import PassManager, PipelineResult, check_calibration
from fxopt.program import Program, expect_program
from fxopt.program.file import SUFFIX, load_program
from fxopt.report import ArtifactReport, Report, Verdict, VerifyReport

__all__ = ["Model", "OptimizeResult", "Retrain", "optimize"]

log = logging.getLogger(__name__)

Model = nn.Module | torch.export.ExportedProgram
Retrain = Callable[[Program, Program], Program]
"""Takes the traced and the rewritten program, gives the rewritten one trained."""
_AFTER_TRAINING = "O1"


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

    def __str__(self) -> str:
        return str(self.report)

    def __repr__(self) -> str:
        file = self.report.artifact.path or "in memory" if self.report.artifact else "no file"
        return f"<OptimizeResult {self.report.model}: {file}, {self.report.verdict}>"


def optimize(
    model: Model | Program | str | os.PathLike[str],
    args: tuple[object, ...] | torch.Tensor | None = None,
    kwargs: Mapping[str, object] | None = None,
    *,
    pipeline: Pipeline = "O1",
    target: str | Target = "onnx",
    path: str | os.PathLike[str] | None = None,
    calibration: Iterable[object] | None = None,
    dynamic_shapes: DynamicShapes = None,
    retrain: Retrain | None = None,
    metric: Metric | None = None,
    max_drop: float | None = None,
    min_sqnr: float | None = None,
    time_layers: bool = False,
    opset: int | None = None,
    check_each: bool = False,
    reproduce: str | os.PathLike[str] | None = None,
    state: bool = False,
    trust: bool = False,
) -> OptimizeResult:
    """Traces, rewrites, lowers and verifies a model: the main job in one call.

    The file gets its name when all is done, the metric included: an error, of the user's metric too, leaves
    the old file or none.

    Args:
        model: a module, ExportedProgram, Program, or the path of a `.pt2` or a saved program.
        args: example positional inputs; not for a Program or ExportedProgram, which bring their own.
        kwargs: example keyword inputs.
        pipeline: passes and named pipelines.
        target: "eager", "torchscript", "onnx", ...
        path: the final file; None keeps the artifact in memory.
        calibration: example inputs, for passes that need them.
        dynamic_shapes: as in `trace`.
        retrain: called after the pipeline with the traced and the rewritten program; what it returns, such as
            what `distill` makes of them, is rewritten by O1, and the file is verified against it.
        metric: scores a callable, higher is better; scored for the traced model and the artifact.
        max_drop: by how much the metric may fall, absolute. Where the pipeline quantizes by calibration data, layers
            stay in float until it is kept, and the best file is written even if it never is (`report.missed`).
        min_sqnr: the same, without a metric: the least signal to quantization noise of the outputs over the
            calibration data, in dB.
        time_layers: time the kernels of each quantized layer on this machine, and warn if the file is slower than one
            in float (`report.layers`, `report.warnings`); of pipelines that quantize with calibration data.
        opset: of an ONNX file.
        check_each: check every pass application.
        reproduce: a folder; what fails is bisected to its pass and rewrite, reduced, and written there.
        state: as in `trace`.
        trust: as in `load`.

    Raises:
        VerificationError: the artifact is not the model's function, or the metric fell by more than
            `max_drop`; its `report` is the whole Report.
        FxoptError: a mistake in what was asked for; told before any work is done where it can be.
    """
    chosen = get_target(target)
    manager = checked_manager(pipeline, chosen)
    check_calibration(manager, calibration)
    number = chosen.resolve_opset(opset)
    check_destination(chosen, path)
    check_metric(metric, max_drop, min_sqnr)
    chooses = _chooses(manager, calibration, retrain, min_sqnr)
    if isinstance(calibration, Iterator):
        calibration = list(calibration)  # it is read more than once
    report = Report(target=chosen.name, pipeline=str(manager))
    report.versions = {"fxopt": __version__, "torch": torch.__version__}
    clock = Clock(report)
    if isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(SUFFIX):
        model = load_program(model)
    if isinstance(model, Program):
        _check_bare(args=args, kwargs=kwargs, dynamic_shapes=dynamic_shapes, state=state or None)
        original = model
    else:
        log.info("trace the model")
        with noting_warnings(report):
            original = trace(model, args, kwargs, dynamic_shapes=dynamic_shapes, state=state, trust=trust)
    describe_model(report, original)
    if state:
        report.notes += no_state(original)
    clock.lap("trace")
    log.info("run the pipeline %s", report.pipeline)
    watch = () if reproduce is None else (FailureReproducer(reproduce),)
    each = EachCheck() if check_each else None
    try:
        result = run_manager(manager, original, calibration, each, watch)
    except VerificationError as error:
        raise _reported(error, report) from error
    clock.lap("pipeline")
    goal, looked_at = None, list[LayerError]()
    if chooses:
        assert calibration is not None
        goal = goal_of(original, calibration, metric, max_drop, min_sqnr)
        if goal is not None:
            log.info("choose precisions for %s", goal.text)
            placement = chosen.placement
            manager, result = _chosen(
                manager,
                result,
                goal,
                calibration,
                report,
                lambda m: run_manager(m.placed(placement), original, calibration, None, ()),
            )
            clock.lap("choose precisions")
        looked_at = layer_errors(result.program, calibration, outputs=goal is not None)
        report.layers = describe_layers(looked_at)
        clock.lap("look at layers")
    start, rest = original, manager
    if retrain is not None:
        log.info("train the rewritten program")
        start, rest = retrain(original, result.program), PassManager.parse(_AFTER_TRAINING)
        result = _retrained(result, rest, start)
        clock.lap("train")
    describe_passes(report, result, unused_calibration(manager, calibration))
    if each is not None:
        report.timings["of it, checks of each pass"] = each.seconds
        report.notes += each.notes
    log.info("lower to %s and verify the file", report.target)
    judge = Judge(metric, max_drop, original, report, goal)
    try:
        artifact = _lowered(result.program, result.reference, chosen, path, opset, judge)
    except VerificationError as error:
        if reproduce is None or report.verdict is not Verdict.DIFFERENT:
            raise  # the metric fell: nothing is wrong that could be reduced
        check = TargetCheck(chosen, opset)
        found = diagnose(start, rest, check, calibration=calibration, folder=reproduce)
        said = "; ".join(str(found).splitlines()) if found else "it does not show when it is run again"
        raise VerificationError(f"{error}; {said}", report) from error
    report.artifact = ArtifactReport(
        chosen.name, artifact.path, artifact.size, artifact.opset or number, chosen.coverage(result.program)
    )
    report.notes += artifact.notes
    clock.lap("lower")
    if time_layers and chooses:
        assert calibration is not None
        log.info("time the layers")
        time_file(report, artifact, result.program, original, looked_at, calibration)
        clock.lap("time layers")
    return OptimizeResult(result.program, artifact, report)


def _chooses(manager: PassManager, data: object, retrain: Retrain | None, min_sqnr: float | None) -> bool:
    """Whether layers can be looked at, and have a choice of precisions.

    Raises:
        InputError: they are to be chosen and can't.
    """
    found = quantizes(manager) and data is not None and retrain is None
    if min_sqnr is not None and not found:
        raise InputError(
            "min_sqnr chooses the precision of each layer: give a pipeline that quantizes, such as int8, and calibration="
        )
    return found


def _chosen(
    manager: PassManager,
    result: PipelineResult,
    goal: Goal,
    data: Iterable[object],
    report: Report,
    run: Callable[[PassManager], PipelineResult],
) -> tuple[PassManager, PipelineResult]:
    """The pipeline whose layers' precisions reach a goal, entered into the report."""
    found = choose_precisions(manager, result, goal, data, run)
    report.precision, report.pipeline = found.report, str(found.manager)
    return found.manager, found.result


def _retrained(before: PipelineResult, rest: PassManager, trained: Program) -> PipelineResult:
    """What the rest of the way makes of a trained program, which it is held to."""
    expect_program(trained, "optimize, from retrain,")
    result = rest.run(trained)
    return replace(result, passes=(*before.passes, *result.passes), reference=trained, changed_by="training")


def _check_bare(**given: object) -> None:
    """A program comes with nothing that tracing would need."""
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise InputError(f"a Program brings its own inputs and sizes: leave {' and '.join(names)} out")


def _lowered(
    program: Program,
    reference: Program,
    target: Target,
    path: str | os.PathLike[str] | None,
    opset: int | None,
    judge: Judge,
) -> Artifact:
    """The artifact, verified against what the pipeline is held to, so that passes are judged too."""
    try:
        return lower(program, target, path=path, opset=opset, reference=reference, accept=judge)
    except VerificationError as error:
        if isinstance(error.report, Report):
            raise
        raise _reported(error, judge.report) from error


def _reported(error: VerificationError, report: Report) -> VerificationError:
    """The same error with the whole report, which has the verdict entered."""
    told = VerifyReport(Verdict.DIFFERENT, reason=str(error))
    report.verification = verification_of(error.report) or told
    return VerificationError(str(error), report)
