"""`fxopt verify`: is the candidate the same function as the reference?

>>> verify.__name__
'verify'
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.console import progress
from fxopt.cli.options import JsonFlag, QuietFlag, TrustFlag, read_side
from fxopt.cli.user_code import ModelSource
from fxopt.cli.values import calls, read_npz, write_npz
from fxopt.errors import InputError
from fxopt.report import Verdict

if TYPE_CHECKING:
    from fxopt.program import Signature

__all__ = ["COUNTEREXAMPLE", "verify"]

COUNTEREXAMPLE = "fxopt-counterexample.npz"
_EXIT_CODES = {Verdict.EQUIVALENT: 0, Verdict.DIFFERENT: 1, Verdict.UNDECIDED: 2}


def verify(
    reference: Annotated[str, typer.Argument(help="What is right: FILE.py:FACTORY, or a file.")],
    candidate: Annotated[str, typer.Argument(help="What is judged: the same.")],
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", metavar="X.npz", help="Inputs to compare on, an array per input name."),
    ] = None,
    trust: TrustFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Are two models or files the same function?

    Exit code 0: equivalent. 1: different, inputs that show it are written. 2: undecided, or it could not run.
    """
    import fxopt
    from fxopt.reporting import verdict_line

    left, right = read_side(reference), read_side(candidate)
    with progress(quiet=quiet or json):
        records = _inputs(inputs, left, right, trust=trust)
        report = fxopt.verify(left.model, right.model, inputs=records, trust=trust)
    if json:
        sys.stdout.write(report.dumps() + "\n")
    elif not quiet:
        sys.stdout.write(f"{verdict_line(report)}\n")
    example = report.counterexample
    if example is not None and example.inputs:
        write_npz(Path(COUNTEREXAMPLE), example.inputs)
        if not quiet:
            sys.stderr.write(f"inputs that show it: {COUNTEREXAMPLE} (give them back with --inputs)\n")
    return _EXIT_CODES[report.verdict]


def _inputs(
    path: Path | None, left: ModelSource, right: ModelSource, *, trust: bool
) -> list[tuple[object, ...]] | None:
    """The file's inputs; else a factory's own where neither side says what it takes; else None."""
    if path is not None:
        return calls(read_npz(path), _signature(left, right, trust=trust))
    if left.args is not None and right.args is not None:
        return [_positional(left)]
    return None


def _positional(source: ModelSource) -> tuple[object, ...]:
    assert source.args is not None
    if source.kwargs:
        raise InputError(
            f"{source.name} takes keyword arguments, which two models can't be compared on; "
            "give a file on one side, or --inputs"
        )
    return source.args


def _signature(left: ModelSource, right: ModelSource, *, trust: bool) -> "Signature":
    """What the sides take, by name: as a file says, else as tracing the reference finds."""
    import fxopt

    for side in (left, right):
        if side.args is None:
            return fxopt.load(str(side.model), trust=trust).signature
    return fxopt.trace(left.model, left.args, left.kwargs).signature
