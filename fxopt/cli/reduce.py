"""`fxopt reduce`: the smallest program that still fails in the same way, in a folder with a script.

>>> reduce.__name__
'reduce'
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fxopt.cli.bisect import (
    NOTHING,
    DynamicOption,
    ModelArgument,
    PipelineOption,
    PluginOption,
    SlowerOption,
    TargetOption,
    TestOption,
    read_check,
    read_pipeline,
    read_program,
)
from fxopt.cli.console import progress
from fxopt.cli.options import QuietFlag, TrustFlag
from fxopt.errors import InputError

__all__ = ["reduce"]


def reduce(
    model: ModelArgument,
    pipeline: PipelineOption = "O1",
    target: TargetOption = None,
    test: TestOption = None,
    slower: SlowerOption = None,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Where the folder of the failure is made.")
    ] = Path("fxopt-failure"),
    seconds: Annotated[float, typer.Option("--seconds", help="When to stop at the latest.")] = 300.0,
    artifact: Annotated[
        Path | None,
        typer.Option(
            "--artifact", metavar="FILE.onnx", help="Any exporter's file of MODEL: cut to what disagrees."
        ),
    ] = None,
    dynamic: DynamicOption = None,
    plugin: PluginOption = None,
    trust: TrustFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """The few nodes that show what a pipeline broke.

    Writes a folder in DIR: the reduced program, a script that repeats the failure, a text that tells it. What is
    a failure, see `fxopt bisect`. Exit code 0: nothing fails. 1: it was found and reduced.
    """
    from fxopt.diagnosis import diagnose, slice_onnx

    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file; expected a folder, or a name for one")
    if artifact is not None:
        with progress(quiet=quiet):
            cut = slice_onnx(read_program(model, dynamic, trust=trust), str(artifact), output, trust=trust)
        sys.stdout.write("no part of the file was found to disagree\n" if cut is None else f"{cut}\n")
        return 0 if cut is None else 1

    manager, check = read_pipeline(pipeline, plugin), read_check(target, test, slower)
    with progress(quiet=quiet):
        program = read_program(model, dynamic, trust=trust)
        found = diagnose(program, manager, check, folder=output, seconds=seconds)
    sys.stdout.write(NOTHING if found is None else f"{found}\n")
    return 0 if found is None else 1
