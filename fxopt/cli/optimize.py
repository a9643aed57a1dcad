"""`fxopt optimize`: trace, rewrite, lower, verify; a file and its report.

>>> optimize.__name__
'optimize'
"""

import difflib
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.console import progress, stdout
from fxopt.cli.options import JsonFlag, QuietFlag, TrustFlag, read_model
from fxopt.cli.values import calls, parse_dynamic, read_npz
from fxopt.errors import ArtifactError, InputError, PipelineError, VerificationError
from fxopt.factories import ModelSource, read_function, split_factory
from fxopt.report import Report

if TYPE_CHECKING:
    from fxopt.pipeline import PassManager

__all__ = ["REPORT_FILE", "optimize"]

REPORT_FILE = "report.json"
FAILURE_FOLDER = "failure"

_Model = Annotated[str, typer.Argument(metavar="MODEL", help="FILE.py:FACTORY, or a .pt2 file.")]
_Pipeline = Annotated[str, typer.Option("--pipeline", metavar="TEXT", help="Passes and named pipelines.")]
_Target = Annotated[str, typer.Option("--target", help="eager, torchscript, onnx, ...")]
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
_Opset = Annotated[int | None, typer.Option("--opset", help="The ONNX opset.")]
_Plugin = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="A file that registers passes, ops or targets."),
]
_Explain = Annotated[
    str | None, typer.Option("--explain", metavar="PASS", help="Where a pass did not fire, and why.")
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
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Do and verify everything, write nothing.")]


@dataclass(frozen=True)
class _Request:
    """The values of the command line, read."""

    source: ModelSource
    manager: "PassManager"
    target: str
    folder: Path | None
    dynamic: dict[str, dict[int, object]]
    calibration: Path | None
    metric: "Callable[[Callable[..., object]], float] | None"
    max_drop: float | None
    opset: int | None
    check_each: bool
    reproduce: Path | None
    trust: bool


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
    opset: _Opset = None,
    plugin: _Plugin = None,
    explain: _Explain = None,
    timing: _Timing = False,
    check_each: _CheckEach = False,
    on_failure: _OnFailure = None,
    trust: TrustFlag = False,
    dry_run: _DryRun = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Optimize a model, lower it, verify the file.

    Writes DIR/model.onnx, .pt or .fxopt and DIR/report.json. Exit code 0: done. 1: the file differs from
    the model, or the metric fell too far; it was not kept. 2: a mistake in what was asked for.
    """
    manager = _manager(pipeline, target, plugin or ())
    _check_explained(explain, manager)
    if output is None and not dry_run:
        raise InputError("give --output DIR for the files, or --dry-run to write none")
    shapes, source = parse_dynamic(dynamic or ()), read_model(model)
    folder = None if dry_run or output is None else _made(output)
    request = _Request(
        source=source,
        manager=manager,
        target=target,
        folder=folder,
        dynamic=shapes,
        calibration=calibration,
        metric=_metric(metric, max_drop),
        max_drop=max_drop,
        opset=opset,
        check_each=check_each,
        reproduce=_failures(on_failure, output),
        trust=trust,
    )
    return _carry_out(request, _View(explain, timing, json, quiet))


def _manager(pipeline: str, target: str, plugins: Iterable[Path]) -> "PassManager":
    """The pipeline and the target's name, checked before the model is built, which may take long."""
    from fxopt.lowering import get_target
    from fxopt.pipeline import PassManager, load_plugin

    for file in plugins:
        load_plugin(str(file))
    get_target(target)
    return PassManager.parse(pipeline)


def _check_explained(name: str | None, manager: "PassManager") -> None:
    known = list(dict.fromkeys(item.pass_name() for item in manager.passes()))
    if name is None or name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"its passes are {', '.join(known) or 'none'}"
    raise PipelineError(f"--explain {name!r}: the pipeline has no such pass; {hint}")


def _metric(text: str | None, max_drop: float | None) -> Callable[[Callable[..., object]], float] | None:
    """The user's score as a function that returns a float.

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
    function = read_function(*place)

    def score(run: Callable[..., object]) -> float:
        value = function(run)
        try:
            return float(value)  # type: ignore[arg-type]  # what has no float is the user's mistake, told below
        except (TypeError, ValueError):
            raise InputError(f"--metric {text} returned {value!r}; expected a number") from None

    return score


def _failures(on_failure: str | None, output: Path | None) -> Path | None:
    """Where the folder of a failure is made, if there is to be one.

    Raises:
        InputError: another word than `reproduce`.
    """
    if on_failure not in (None, "reproduce"):
        raise InputError(f"--on-failure {on_failure}: the one thing that can be done is 'reproduce'")
    return None if on_failure is None else (output or Path()) / FAILURE_FOLDER


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
    from fxopt.lowering import get_target

    source, suffix = request.source, get_target(request.target).suffix
    try:
        with warnings.catch_warnings(action="ignore"):
            result = fxopt.optimize(
                source.model,
                source.args,
                source.kwargs or None,
                pipeline=request.manager,
                target=request.target,
                path=request.folder / f"model{suffix}" if request.folder else None,
                calibration=_records(request),
                dynamic_shapes=request.dynamic or None,
                metric=request.metric,
                max_drop=request.max_drop,
                opset=request.opset,
                check_each=request.check_each,
                reproduce=request.reproduce,
                trust=request.trust,
            )
    except VerificationError as error:
        return (error.report if isinstance(error.report, Report) else None), error
    return result.report, None


def _records(request: _Request) -> list[tuple[object, ...]] | None:
    """Calibration data in batches of the example's size; what the model takes by name, tracing finds."""
    if request.calibration is None:
        return None
    import torch

    import fxopt

    source = request.source
    signature = fxopt.trace(
        source.model, source.args, source.kwargs, dynamic_shapes=request.dynamic or None, trust=request.trust
    ).signature
    first = next((a for a in source.args or () if isinstance(a, torch.Tensor) and a.dim()), None)
    return calls(read_npz(request.calibration), signature, batch=None if first is None else len(first))


def _carry_out(request: _Request, view: _View) -> int:
    with progress(quiet=view.quiet or view.json):
        report, failure = _run(request)
    if report is not None:
        if request.folder is not None:
            report.save(request.folder / REPORT_FILE)
        _show(report, view)
    if failure is not None:
        raise failure
    return 0


def _show(report: Report, view: _View) -> None:
    if view.json:
        sys.stdout.write(report.dumps() + "\n")
        return
    if view.quiet:
        return
    from fxopt.reporting import pass_table, refusal_table, summary

    console = stdout()
    console.print(summary(report))
    if view.timing:
        console.print(pass_table(report.passes))
    for passed in report.passes:
        if passed.name == view.explain:
            console.print(refusal_table(passed))
