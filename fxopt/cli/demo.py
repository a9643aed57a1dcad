"""`fxopt demo`: two trained models through every step, as one table.

>>> demo.__name__
'demo'
"""

import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.console import json_text, progress, stdout
from fxopt.cli.options import QuietFlag

if TYPE_CHECKING:
    from rich.table import Table

    from fxopt.demo import DemoRow

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option("--output", help="The folder for the artifacts.")] = Path(
        "fxopt-demo"
    ),
    json: Annotated[
        bool, typer.Option("--json", help="Print the table as JSON, and nothing else, on standard output.")
    ] = False,
    quiet: QuietFlag = False,
) -> int:
    """Take two trained models through every step.

    A CNN trained here and a real sentence encoder, to every target; each file is verified, timed, measured.
    """
    from fxopt.demo import run_demo

    with progress(quiet=quiet or json):
        rows = list(run_demo(output))
    if json:
        sys.stdout.write(json_text([_row(row) for row in rows]) + "\n")
    elif not quiet:
        stdout().print(_table(rows, output))
    return 1 if any(row.failed for row in rows) else 0


def _row(row: "DemoRow") -> dict[str, object]:
    """A row as JSON data; what was not measured is null."""
    data = dataclasses.asdict(row)
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in data.items()}


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
