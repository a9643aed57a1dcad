"""`fxopt optimize`: trace, rewrite, lower, verify; a file and its report.

>>> optimize.__name__
'optimize'
"""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fxopt.cli.completion import pass_names, pipeline_names, target_names
from fxopt.cli.console import progress, stdout
from fxopt.cli.distill import read_retraining
from fxopt.cli.noise import heard
from fxopt.cli.options import (
    JsonFlag,
    OptimizeOptions,
    PluginOption,
    QuietFlag,
    TrustFlag,
    load_plugins,
    read_model,
)
from fxopt.cli.script import write_script
from fxopt.cli.values import parse_dynamic
from fxopt.errors import ArtifactError, InputError, PipelineError, VerificationError, nearest
from fxopt.factories import ModelSource, read_function, split_factory
from fxopt.report import Report

if TYPE_CHECKING:
    from fxopt.optimizer import Retrain
    from fxopt.pipeline import PassManager
    from fxopt.program.records import Arrays

__all__ = ["REPORT_FILE", "optimize"]

REPORT_FILE = "report.json"
FAILURE_FOLDER = "failure"

_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="FILE.py:FACTORY, a .pt2 file or a saved program.")
]
_Pipeline = Annotated[
    str,
    typer.Option(
        "--pipeline", metavar="TEXT", help="Passes and named pipelines.", autocompletion=pipeline_names
    ),
]
_Target = Annotated[
    str, typer.Option("--target", help="eager, torchscript, onnx, ...", autocompletion=target_names)
]
_Output = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="The folder for model.* and report.json.")
]
_Dynamic = Annotated[
    list[str] | None,
    typer.Option("--dynamic", metavar="INPUT:AXIS[=NAME]", help="A size that varies, such as x:0=batch."),
]
_Calibration = Annotated[
    Path | None, typer.Option("--calibration", metavar="DATA.npz", help="Records by input name, for passes.")
]
_Metric = Annotated[
    str | None,
    typer.Option("--metric", metavar="FILE.py:FUNCTION", help="Scores a callable, higher is better."),
]
_MaxDrop = Annotated[
    float | None, typer.Option("--max-drop", help="By how much the metric may fall, absolute, such as 0.005.")
]
_MinSqnr = Annotated[
    float | None,
    typer.Option(
        "--min-sqnr",
        metavar="DB",
        help="Layers stay in float until the outputs have this signal to noise, in dB.",
    ),
]
_TimeLayers = Annotated[
    bool,
    typer.Option(
        "--time-layers", help="Time each quantized layer of the file; warn if it is slower than in float."
    ),
]
_Opset = Annotated[int | None, typer.Option("--opset", help="The ONNX opset.")]
_Explain = Annotated[
    str | None,
    typer.Option(
        "--explain",
        metavar="PASS",
        help="Where a pass fired; where it did not, and why.",
        autocompletion=pass_names,
    ),
]
_Timing = Annotated[bool, typer.Option("--timing", help="Print time and rewrites of each pass.")]
_CheckEach = Annotated[
    bool, typer.Option("--check-each", help="Check each pass numerically against its input.")
]
_OnFailure = Annotated[
    str | None,
    typer.Option(
        "--on-failure",
        metavar="reproduce",
        help="What fails is bisected, reduced and written to DIR/failure.",
    ),
]
_State = Annotated[
    bool, typer.Option("--state", help="Make buffers that the model writes to inputs and outputs.")
]
_Script = Annotated[
    Path | None,
    typer.Option("--gen-script", metavar="FILE", help="Write the run as a Python file to edit, too."),
]
_Distill = Annotated[
    str | None,
    typer.Option(
        "--distill",
        metavar="FILE.py:LOADERS",
        help="Train what the pipeline made to do as the model does, on this data.",
    ),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Do and verify everything, write nothing.")]


@dataclass(frozen=True)
class _Request:
    """A run, ready to start."""

    asked: OptimizeOptions
    source: ModelSource
    manager: "PassManager"
    metric: "Callable[[Callable[..., object]], float] | None"
    retrain: "Retrain | None"
    folder: Path | None
    arrays: "Arrays | None"
    """Calibration data."""


@dataclass(frozen=True)
class _View:
    """What of the report is shown."""

    explain: str | None
    timing: bool
    json: bool
    quiet: bool


def optimize(
    model: _Model,
    pipeline: _Pipeline = "O1",
    target: _Target = "onnx",
    output: _Output = None,
    dynamic: _Dynamic = None,
    calibration: _Calibration = None,
    metric: _Metric = None,
    max_drop: _MaxDrop = None,
    min_sqnr: _MinSqnr = None,
    time_layers: _TimeLayers = False,
    opset: _Opset = None,
    plugin: PluginOption = None,
    explain: _Explain = None,
    timing: _Timing = False,
    check_each: _CheckEach = False,
    on_failure: _OnFailure = None,
    state: _State = False,
    trust: TrustFlag = False,
    dry_run: _DryRun = False,
    gen_script: _Script = None,
    distill: _Distill = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Optimize a model, lower it, verify the file.

    Writes DIR/model.onnx, .pt or .fxopt and DIR/report.json. Exit code 0: done. 1: the file differs from
    the model, or the metric fell too far; it was not kept, but for the best of several precisions. 2: a mistake
    in what was asked for.
    """
    if output is None and not dry_run:
        raise InputError("give --output DIR for the files, or --dry-run to write none")
    plugins = tuple(plugin or ())
    asked = OptimizeOptions(
        model=model,
        pipeline=pipeline,
        target=target,
        file_name=_file_name(target, plugins),
        output=output,
        dynamic=parse_dynamic(dynamic or ()),
        calibration=calibration,
        distill=distill,
        metric=metric,
        max_drop=max_drop,
        min_sqnr=min_sqnr,
        time_layers=time_layers,
        opset=opset,
        check_each=check_each,
        reproduce=_failures(on_failure, output, dry_run=dry_run),
        state=state,
        trust=trust,
        plugins=plugins,
    )
    shown = None if not (quiet or json) else False
    request = _prepared(asked, explain=explain, script=gen_script, write=not dry_run, shown=shown)
    return _carry_out(request, _View(explain, timing, json, quiet))


def _prepared(
    asked: OptimizeOptions, *, explain: str | None, script: Path | None, write: bool, shown: bool | None
) -> _Request:
    """Checks what can be checked before the model is built, which may take long; then builds it."""
    from fxopt.lowering import get_target
    from fxopt.pipeline import PassManager, check_calibration
    from fxopt.program.records import read_npz

    get_target(asked.target).resolve_opset(asked.opset)
    manager = PassManager.parse(asked.pipeline)
    _check_explained(explain, manager)
    arrays = None if asked.calibration is None else read_npz(asked.calibration)
    check_calibration(manager, arrays)
    metric = _metric(asked.metric, asked.max_drop)
    retrain = None if asked.distill is None else read_retraining(asked.distill, metric, shown=shown)
    if script is not None:
        write_script(script, asked)
    source = read_model(asked.model)
    folder = _made(asked.output) if write and asked.output is not None else None
    return _Request(asked, source, manager, metric, retrain, folder, arrays)


def _file_name(target: str, plugins: Iterable[Path]) -> str:
    """`model.onnx`: plugins, which may register the target, are loaded first."""
    from fxopt.lowering import get_target

    load_plugins(plugins)
    return f"model{get_target(target).suffix}"


def _check_explained(name: str | None, manager: "PassManager") -> None:
    known = list(dict.fromkeys(item.pass_name() for item in manager.passes()))
    if name is None or name in known:
        return
    close = nearest(name, known)
    hint = f"did you mean {close!r}?" if close else f"its passes are {', '.join(known) or 'none'}"
    raise PipelineError(f"--explain {name!r}: the pipeline has no such pass; {hint}")


def _metric(text: str | None, max_drop: float | None) -> Callable[[Callable[..., object]], float] | None:
    """The user's score; what it prints is seen.

    Raises:
        InputError: `--max-drop` without a metric, or a metric that is no FILE.py:FUNCTION.
    """
    if text is None:
        if max_drop is not None:
            raise InputError("--max-drop needs --metric FILE.py:FUNCTION")
        return None
    place = split_factory(text)
    if place is None:
        raise InputError(f"--metric {text}: expected FILE.py:FUNCTION")
    with contextlib.redirect_stdout(sys.stderr):
        function = heard(read_function(*place))
    return cast("Callable[[Callable[..., object]], float]", function)


def _failures(on_failure: str | None, output: Path | None, *, dry_run: bool) -> Path | None:
    """Where the folder of a failure is made, if there is to be one.

    Raises:
        InputError: another word than `reproduce`, or nothing is to be written.
    """
    if on_failure is None:
        return None
    if on_failure != "reproduce":
        raise InputError(f"--on-failure {on_failure}: the one thing that can be done is 'reproduce'")
    if output is None or dry_run:
        raise InputError("--on-failure writes to DIR/failure: give --output DIR, without --dry-run")
    return output / FAILURE_FOLDER


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"can't make the folder {folder}: {error.strerror or error}") from error
    return folder


def _run(request: _Request) -> tuple[Report | None, VerificationError | None]:
    """The report, also that of a failed verification, which is written before the error is told.

    It holds the warnings too, and shows them at the end.
    """
    import fxopt

    source, asked = request.source, request.asked
    try:
        with warnings.catch_warnings(action="ignore"):
            result = fxopt.optimize(
                source.model,
                source.args,
                source.kwargs or None,
                pipeline=request.manager,
                target=asked.target,
                path=request.folder / asked.file_name if request.folder else None,
                calibration=_records(request),
                dynamic_shapes=asked.dynamic or None,
                retrain=request.retrain,
                metric=request.metric,
                max_drop=asked.max_drop,
                min_sqnr=asked.min_sqnr,
                time_layers=asked.time_layers,
                opset=asked.opset,
                check_each=asked.check_each,
                reproduce=asked.reproduce,
                state=asked.state,
                trust=asked.trust,
            )
    except VerificationError as error:
        return (error.report if isinstance(error.report, Report) else None), error
    return result.report, None


def _records(request: _Request) -> list[tuple[object, ...]] | None:
    """Calibration data in batches of the example's size; what the model takes by name, tracing finds."""
    from fxopt.program.records import calls

    source, asked = request.source, request.asked
    if request.arrays is None:
        return None
    import torch

    import fxopt

    signature = fxopt.trace(
        source.model,
        source.args,
        source.kwargs or None,
        dynamic_shapes=asked.dynamic or None,
        state=asked.state,
        trust=asked.trust,
    ).signature
    first = next((a for a in source.args or () if isinstance(a, torch.Tensor) and a.dim()), None)
    return calls(request.arrays, signature, batch=None if first is None else len(first))


def _carry_out(request: _Request, view: _View) -> int:
    with progress(quiet=view.quiet or view.json), _gone_if_empty(request.folder):
        report, failure = _run(request)
    if report is not None:
        if request.folder is not None:
            report.save(request.folder / REPORT_FILE)
        _show(report, view)
    if failure is not None:
        raise failure
    if report is not None and report.missed:
        raise VerificationError(report.missed, report)
    return 0


@contextlib.contextmanager
def _gone_if_empty(folder: Path | None) -> Iterator[None]:
    """A folder that was made for files which then did not come is not left behind."""
    try:
        yield
    except BaseException:
        if folder is not None:
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()
        raise


def _show(report: Report, view: _View) -> None:
    if view.json:
        sys.stdout.write(report.dumps() + "\n")
        return
    if view.quiet:
        return
    from fxopt.reporting import explanation, pass_table, summary

    console = stdout()
    console.print(summary(report))
    if view.timing:
        console.print(pass_table(report.passes))
    if view.explain is not None:
        console.print(explanation(view.explain, [p for p in report.passes if p.name == view.explain]))
