"""`fxopt run`: a data set through an artifact, in one process or in those that torchrun started.

>>> run.__name__
'run'
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.console import json_text, progress
from fxopt.cli.options import JsonFlag, QuietFlag, TrustFlag
from fxopt.errors import InputError
from fxopt.factories import read_function, split_factory

if TYPE_CHECKING:
    from fxopt.distributed.inference import Results

__all__ = ["run"]


def run(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="A file or folder that fxopt wrote.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="FILE",
            help="An .npz with an array per input name, axis 0 the records; or FILE.py:FUNCTION, which returns a list of calls.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="An .npz to write, an array per output name.")
    ],
    batch: Annotated[int | None, typer.Option("--batch", metavar="N", help="Records at a time.")] = None,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", metavar="NAME", help="A replica on each; may stand several times."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="How long another process may be silent.")
    ] = 60.0,
    trust: TrustFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Run a data set through an artifact.

    Each record once, results in order. Started again it goes on from what is done. Under torchrun the processes share the data:
    torchrun --nproc-per-node 2 -m fxopt run MODEL.onnx --data X.npz --output Y.npz. Exit code 1: some records were set
    aside.
    """
    from fxopt.distributed import run as run_data

    leads = os.environ.get("RANK", "0") == "0"
    with progress(quiet=quiet or json or not leads):
        results = run_data(
            artifact, _read(data), devices=device, output=output, batch=batch, timeout=timeout, trust=trust
        )
    if leads and json:
        sys.stdout.write(json_text(_summary(results, output)) + "\n")
    elif leads and not quiet:
        sys.stdout.write(_sentence(results, output) + "\n")
    return 1 if results.rejected else 0


def _read(data: str) -> object:
    place = split_factory(data)
    if place is not None:
        with contextlib.redirect_stdout(sys.stderr):
            return read_function(*place)()
    if not data.endswith(".npz"):
        raise InputError(
            f"--data {data}: expected an .npz, or FILE.py:FUNCTION, which returns a list of calls"
        )
    from fxopt.program.records import read_npz

    return read_npz(Path(data))


def _summary(results: "Results", output: Path) -> dict[str, object]:
    return {
        "output": str(output),
        "records": results.count,
        "rejected": {str(i): reason for i, reason in results.rejected.items()},
        "seconds": round(results.seconds, 3),
    }


def _sentence(results: "Results", output: Path) -> str:
    from fxopt.distributed.job import rejected_file

    said = f"{output}: {results.count} records in {results.seconds:.1f} s"
    if results.rejected:
        first = min(results.rejected)
        said += (
            f"; {len(results.rejected)} were set aside, see {rejected_file(output)}; "
            f"record {first}: {results.rejected[first]}"
        )
    return said
