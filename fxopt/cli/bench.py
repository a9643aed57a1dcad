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

if TYPE_CHECKING:
    import torch

__all__ = ["bench"]


def bench(
    sides: Annotated[
        list[str],
        typer.Argument(metavar="A B [C ...]", help="FILE.py:FACTORY or a file, each; A is the baseline."),
    ],
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
    plugin: PluginOption = None,
    trust: TrustFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Time models and files in turns, each in a process of its own.

    Medians with their spread, speed against A with its interval, file size and peak memory. The inputs are
    --inputs, else the example of the first factory, else drawn from the first file's signature.
    """
    from fxopt.measure import bench as measure
    from fxopt.reporting.bench import bench_table

    load_plugins(plugin or ())
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


def _tensors(path: Path) -> "dict[str, torch.Tensor]":
    import torch

    from fxopt.program.records import read_npz

    return {name: torch.from_numpy(array) for name, array in read_npz(path).items()}
