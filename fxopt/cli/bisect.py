"""`fxopt bisect`: which pass, and which rewrite of it, makes a pipeline fail.

>>> bisect.__name__
'bisect'
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.console import progress
from fxopt.cli.options import PluginOption, QuietFlag, TrustFlag, load_plugins, read_side
from fxopt.cli.values import parse_dynamic
from fxopt.errors import InputError

if TYPE_CHECKING:
    from fxopt.diagnosis import Check
    from fxopt.pipeline import PassManager
    from fxopt.program import Program

__all__ = [
    "NOTHING",
    "DynamicOption",
    "ModelArgument",
    "PipelineOption",
    "PluginOption",
    "SlowerOption",
    "TargetOption",
    "TestOption",
    "bisect",
    "read_check",
    "read_pipeline",
    "read_program",
]

NOTHING = "the pipeline does not fail on this model\n"

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="FILE.py:FACTORY, a .fxopt program or a .pt2 file.")
]
PipelineOption = Annotated[
    str, typer.Option("--pipeline", metavar="TEXT", help="Passes and named pipelines.")
]
TargetOption = Annotated[
    str | None, typer.Option("--target", help="Lower the result too, and look for a failure of that.")
]
TestOption = Annotated[
    str | None,
    typer.Option(
        "--test", metavar="CMD", help="Run as CMD FILE; exit code 0 says that the file shows the failure."
    ),
]
SlowerOption = Annotated[
    float | None,
    typer.Option(
        "--slower", metavar="FACTOR", help="Look for what makes it FACTOR times as slow, such as 1.3."
    ),
]
DynamicOption = Annotated[
    list[str] | None,
    typer.Option("--dynamic", metavar="INPUT:AXIS[=NAME]", help="A size that varies, such as x:0=batch."),
]


def bisect(
    model: ModelArgument,
    pipeline: PipelineOption = "O1",
    target: TargetOption = None,
    test: TestOption = None,
    slower: SlowerOption = None,
    dynamic: DynamicOption = None,
    plugin: PluginOption = None,
    trust: TrustFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Which pass, and which rewrite in it, broke a model?

    A failure is a crash or another function than before; with --target one of the lowered file, with --slower a
    slower result, with --test what a command of your own says. Exit code 0: nothing fails. 1: it was found.
    """
    from fxopt.diagnosis import bisect as search

    manager, check = read_pipeline(pipeline, plugin), read_check(target, test, slower)
    with progress(quiet=quiet):
        found = search(read_program(model, dynamic, trust=trust), manager, check)
    sys.stdout.write(NOTHING if found is None else f"{found}\n({found.runs} runs)\n")
    return 0 if found is None else 1


def read_pipeline(text: str, plugins: list[Path] | None) -> "PassManager":
    """The pipeline, after the plugins that register its passes."""
    from fxopt.pipeline import PassManager

    load_plugins(plugins or ())
    return PassManager.parse(text)


def read_check(target: str | None, test: str | None, slower: float | None) -> "Check":
    """What counts as a failure.

    Raises:
        InputError: two that exclude each other.
        LoweringError: an unknown target.
    """
    from fxopt.diagnosis import CommandCheck, SlowerCheck, TargetCheck, check_values
    from fxopt.lowering import get_target

    if target is not None:
        get_target(target)
    if test is not None and slower is not None:
        raise InputError("give --test CMD or --slower FACTOR, not both")
    if test is not None:
        return CommandCheck(test, target)
    if slower is not None:
        if not slower > 1:
            raise InputError(f"--slower {slower:g}: expected a factor above 1, such as 1.3")
        return SlowerCheck(slower, target)
    return check_values if target is None else TargetCheck(target)


def read_program(model: str, dynamic: list[str] | None, *, trust: bool) -> "Program":
    """The model as a program: traced, or read from its file.

    Raises:
        InputError: neither a model nor a program.
        TraceError: the model can't be traced.
    """
    import fxopt

    source = read_side(model)
    if source.args is not None:
        shapes = parse_dynamic(dynamic or ()) or None
        return fxopt.trace(source.model, source.args, source.kwargs or None, dynamic_shapes=shapes)
    program = fxopt.load(str(source.model), trust=trust)
    if not isinstance(program, fxopt.Program):
        raise InputError(f"{model} is no program: expected FILE.py:FACTORY, a .fxopt program or a .pt2 file")
    return program
