"""`fxopt demo`: two trained models through every step, as one table.

>>> demo.__name__
'demo'
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.console import progress, stdout
from fxopt.cli.options import QuietFlag

if TYPE_CHECKING:
    from rich.table import Table

    from fxopt.demo import DemoRow

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option("--output", help="The folder for the artifacts.")] = Path(
        "fxopt-demo"
    ),
    quiet: QuietFlag = False,
) -> int:
    """Take two trained models through every step.

    A CNN trained here and a real sentence encoder, to every target; each file is verified, timed, measured.
    """
    from fxopt.demo import run_demo

    with progress(quiet=quiet):
        rows = list(run_demo(output))
    if not quiet:
        stdout().print(_table(rows, output))
    return 1 if any(row.failed for row in rows) else 0


def _table(rows: "list[DemoRow]", folder: Path) -> "Table":
    from rich.table import Table

    from fxopt.reporting import size_text

    table = Table(title=f"artifacts in {folder}", title_justify="left")
    for name in ("file", "target", "size", "speed", "quality", "verdict"):
        table.add_column(name, justify="right" if name in {"size", "speed"} else "left")
    for row in rows:
        size, speed = (size_text(row.size), f"{row.speed:.2f}x") if row.size else ("no file", "-")
        quality = "-" if math.isnan(row.value) else f"{row.quality} {row.value:.4f}"
        table.add_row(
            row.file, row.target, size, speed, quality, row.verdict, style="red" if row.failed else ""
        )
    return table
