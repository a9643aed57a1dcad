"""`fxopt bench`: models and files against each other.

>>> bench.__name__
'bench'
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.console import progress, stdout
from fxopt.cli.options import JsonFlag, PluginOption, QuietFlag, TrustFlag, check_side, load_plugins
from fxopt.cli.values import parse_sizes
from fxopt.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["bench"]


def bench(
    sides: Annotated[
        list[str] | None,
        typer.Argument(metavar="A B [C ...]", help="FILE.py:FACTORY or a file, each; A is the baseline."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", metavar="X.npz", help="The inputs of one call, an array per input name."),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="NAME=N", help="A dynamic size of the inputs that are drawn."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads that compute an op.")] = 1,
    starts: Annotated[int, typer.Option("--starts", min=1, help="Starts of each side's process.")] = 3,
    seconds: Annotated[float, typer.Option("--seconds", help="How long each side is timed.")] = 3.0,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure the rates of this machine's kernels first.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="Where --calibrate writes them, as JSON.")
    ] = Path("rates.json"),
    plugin: PluginOption = None,
    trust: TrustFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Time models and files in turns, each in a process of its own.

    Medians with their spread, speed against A with its interval, file size and peak memory. The inputs are
    --inputs, else the example of the first factory, else drawn from the first file's signature. With --calibrate
    the rates that `fxopt partition --cost` reads are written; A and B may then be left out.
    """
    from fxopt.measure import bench as measure
    from fxopt.reporting.bench import bench_table

    load_plugins(plugin or ())
    if calibrate:
        _calibrate(output, threads=threads, json=json, quiet=quiet)
        if not sides:
            return 0
    if not sides:
        raise InputError("bench needs what to time: fxopt bench A B, or fxopt bench --calibrate")
    for side in sides:
        check_side(side)
    with progress(quiet=quiet or json):
        report = measure(
            sides,
            inputs=None if inputs is None else _tensors(inputs),
            sizes=parse_sizes(size or ()),
            threads=threads,
            starts=starts,
            seconds=seconds,
            plugins=[str(file.resolve()) for file in plugin or ()],
            trust=trust,
        )
    if json:
        sys.stdout.write(report.dumps() + "\n")
    elif not quiet:
        stdout().print(bench_table(report))
    return 0


def _calibrate(output: Path, *, threads: int, json: bool, quiet: bool) -> None:
    import torch

    from fxopt.measure.calibration import calibrate
    from fxopt.program.writing import replacing, write_file

    with progress(quiet=quiet or json), replacing(output) as temporary:
        torch.set_num_threads(threads)
        rates = calibrate()
        write_file(temporary, [rates.dumps().encode()])
    if json:
        sys.stdout.write(rates.dumps() + "\n")
    elif not quiet:
        sys.stdout.write(rates.table() + "\n")


def _tensors(path: Path) -> "dict[str, torch.Tensor]":
    import torch

    from fxopt.program.records import read_npz

    return {name: torch.from_numpy(array) for name, array in read_npz(path).items()}
