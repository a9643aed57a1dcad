"""One model through all steps, and the report of what was done to it.

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
>>> result = optimize(model, (torch.zeros(2, 4),), target="eager")
>>> result.report.verdict.value, result.report.after.ops
('equivalent', {'aten.linear': 1, 'aten.relu': 1})
"""

import contextlib
import logging
import operator
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.fx import Node

from fxopt import __version__
from fxopt.analysis.cost import Cost
from fxopt.diagnosis import EachCheck, FailureReproducer, TargetCheck, diagnose
from fxopt.errors import InputError, PipelineError, VerificationError
from fxopt.frontend import trace
from fxopt.frontend.inputs import DynamicShapes
from fxopt.lowering import Artifact, Target, get_target, lower
from fxopt.lowering.lower import check_destination
from fxopt.ops import op_key
from fxopt.pipeline import CheckEach, CrashReproducer, Instrument, Pass, PassManager, PipelineResult
from fxopt.pipeline.silence import why_silent
from fxopt.pipeline.text import Fixpoint, Named, Step, print_steps
from fxopt.program import Program, expect_program
from fxopt.program.file import SUFFIX, load_program
from fxopt.report import (
    ArtifactReport,
    CostReport,
    GraphSummary,
    MetricReport,
    Report,
    Verdict,
    VerifyReport,
)

__all__ = ["Model", "OptimizeResult", "Pipeline", "optimize", "run_pipeline"]

log = logging.getLogger(__name__)

_MOST_CRASH_BYTES = 256 * 1024**2
"""Weights of a program that is written unasked when a pass fails."""

Model = nn.Module | torch.export.ExportedProgram
Pipeline = str | PassManager | Pass | Sequence[Pass]
Metric = Callable[[Callable[..., object]], float]
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
    manager = _manager(pipeline, target)
    unused = _unused_calibration(manager, calibration)
    if unused:
        warnings.warn(unused, stacklevel=2)
    each = EachCheck() if check_each else None
    return _run(manager, program, calibration, each, instruments).program


def _manager(pipeline: Pipeline, target: str | Target | None) -> PassManager:
    """The pipeline, the targets that it names checked."""
    manager = PassManager.parse(pipeline)
    chosen = None if target is None else get_target(target).name
    for step in _plain(manager.steps):
        wanted = dict(step.options).get("target")
        if step.name == "O2" and isinstance(wanted, str):
            get_target(wanted)
            if chosen not in (None, wanted):
                raise PipelineError(
                    f"{print_steps((step,))} is not for the target {chosen!r}: leave its target out, or make them agree"
                )
    return manager


def _plain(steps: Iterable[Step]) -> Iterator[Named]:
    for step in steps:
        if isinstance(step, Fixpoint):
            yield from _plain(step.steps)
        else:
            yield step


def _unused_calibration(manager: PassManager, calibration: object) -> str:
    if calibration is None or any(p.takes_calibration() for p in manager.passes()):
        return ""
    return f"calibration is not used: no pass of {str(manager)!r} needs it"


def _run(
    manager: PassManager,
    program: Program,
    calibration: Iterable[object] | None,
    each: EachCheck | None,
    instruments: Sequence[Instrument],
) -> PipelineResult:
    checks = (CheckEach(each),) if each is not None else ()
    reproduces = any(isinstance(i, CrashReproducer) for i in instruments)
    crash = () if reproduces else (CrashReproducer(most_bytes=_MOST_CRASH_BYTES),)
    return manager.run(program, calibration=calibration, instruments=(*instruments, *crash, *checks))


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
        max_drop: by how much the metric may fall, absolute.
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
    manager = _manager(pipeline, chosen)
    number = chosen.resolve_opset(opset)
    check_destination(chosen, path)
    _check_metric(metric, max_drop)
    report = Report(target=chosen.name, pipeline=str(manager))
    report.versions = {"fxopt": __version__, "torch": torch.__version__}
    clock = _Clock(report)
    if isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(SUFFIX):
        model = load_program(model)
    if isinstance(model, Program):
        _check_bare(args=args, kwargs=kwargs, dynamic_shapes=dynamic_shapes, state=state or None)
        original = model
    else:
        log.info("trace the model")
        with _noting_warnings(report):
            original = trace(model, args, kwargs, dynamic_shapes=dynamic_shapes, state=state, trust=trust)
    _describe_model(report, original)
    clock.lap("trace")
    log.info("run the pipeline %s", report.pipeline)
    watch = () if reproduce is None else (FailureReproducer(reproduce),)
    each = EachCheck() if check_each else None
    result = _run(manager, original, calibration, each, watch)
    clock.lap("pipeline")
    start, rest = original, manager
    if retrain is not None:
        log.info("train the rewritten program")
        start, rest = retrain(original, result.program), PassManager.parse(_AFTER_TRAINING)
        result = _retrained(result, rest, start)
        clock.lap("train")
    _describe_passes(report, result, _unused_calibration(manager, calibration))
    if each is not None:
        report.timings["of it, checks of each pass"] = each.seconds
        report.notes += each.notes
    log.info("lower to %s and verify the file", report.target)
    judge = _Judge(metric, max_drop, original, report)
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
        chosen.name, artifact.path, artifact.size, number, chosen.coverage(result.program)
    )
    report.notes += artifact.notes
    clock.lap("lower")
    return OptimizeResult(result.program, artifact, report)


def _retrained(before: PipelineResult, rest: PassManager, trained: Program) -> PipelineResult:
    """What the rest of the way makes of a trained program, which it is held to."""
    expect_program(trained, "optimize, from retrain,")
    result = rest.run(trained)
    return replace(result, passes=(*before.passes, *result.passes), reference=trained, changed_by="training")


def _check_metric(metric: object, max_drop: float | None) -> None:
    if metric is None and max_drop is not None:
        raise InputError("max_drop needs a metric: pass metric=, a function that scores a callable")
    if metric is not None and not callable(metric):
        raise InputError(f"metric is {metric!r}; expected a function that scores a callable")


def _check_bare(**given: object) -> None:
    """A program comes with nothing that tracing would need."""
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise InputError(f"a Program brings its own inputs and sizes: leave {' and '.join(names)} out")


class _Clock:
    def __init__(self, report: Report) -> None:
        self.report, self.start = report, time.perf_counter()

    def lap(self, name: str) -> None:
        """Notes the seconds since the last lap."""
        now = time.perf_counter()
        self.report.timings[name] = now - self.start
        self.start = now


@contextlib.contextmanager
def _noting_warnings(report: Report) -> Iterator[None]:
    """Warnings stand in the report, and go on to whoever listens."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        report.warnings.append(str(warning.message))
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _describe_model(report: Report, program: Program) -> None:
    report.model = program.name
    report.before = _summary(program)
    report.notes += [
        f"the model takes other sizes in another way: in this file {symbol.limits}"
        for symbol in program.signature.symbols.values()
        if symbol.limits
    ]


def _describe_passes(report: Report, result: PipelineResult, unused: str) -> None:
    report.passes = result.passes
    report.held_to = result.held_to
    report.after = _summary(result.program)
    report.notes += [note for note in (why_silent(result.passes), unused, result.on_purpose) if note]


def _summary(program: Program) -> GraphSummary:
    ops = Counter(map(_op_name, program.calls()))
    cost = Cost.compute(program).at()
    return GraphSummary(
        sum(ops.values()),
        dict(sorted(ops.items())),
        len(program.weights),
        cost.weight_bytes,
        CostReport(cost.flops, cost.bytes_read, cost.bytes_written, cost.peak_bytes),
    )


def _op_name(node: Node) -> str:
    """`aten.conv2d` for any of its overloads; a function on sizes by its own name."""
    key = op_key(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        return key.rsplit(".", 1)[0]
    return "getitem" if node.target is operator.getitem else key.removeprefix("_")


@dataclass(frozen=True)
class _Judge:
    """Looks at the verified artifact before its file gets its name."""

    metric: Metric | None
    max_drop: float | None
    original: Program
    report: Report

    def __call__(self, artifact: Artifact) -> None:
        """Scores the model and the artifact.

        Raises:
            VerificationError: the metric fell by more than it may.
        """
        self.report.verification = _verification(artifact.report)
        if self.metric is None:
            return
        before, after = (_score(self.metric, run) for run in (self.original, artifact))
        self.report.metric = MetricReport(before, after, self.max_drop)
        if self.max_drop is not None and not before - after <= self.max_drop:
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


def _verification(report: object) -> VerifyReport | None:
    return report if isinstance(report, VerifyReport) else None


def _lowered(
    program: Program,
    reference: Program,
    target: Target,
    path: str | os.PathLike[str] | None,
    opset: int | None,
    judge: _Judge,
) -> Artifact:
    """The artifact, verified against what the pipeline is held to, so that passes are judged too."""
    try:
        return lower(program, target, path=path, opset=opset, reference=reference, accept=judge)
    except VerificationError as error:
        if isinstance(error.report, Report):
            raise
        judge.report.verification = _verification(error.report)
        raise VerificationError(str(error), judge.report) from error
