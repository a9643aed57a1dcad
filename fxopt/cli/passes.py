"""`fxopt passes`: the catalogue, or one pass in full.

>>> passes.__name__
'passes'
"""

import inspect
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.completion import pass_names
from fxopt.cli.console import json_text, stdout
from fxopt.cli.options import PluginOption, load_plugins

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fxopt.pipeline import Pass

__all__ = ["passes"]


def passes(
    name: Annotated[
        str | None,
        typer.Argument(help="A pass, or a named pipeline such as O1.", autocompletion=pass_names),
    ] = None,
    plugin: PluginOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print as JSON, and nothing else, on standard output.")
    ] = False,
) -> int:
    """List the passes, or show one in full."""
    from fxopt.pipeline import PassManager, registry
    from fxopt.pipeline.named import NAMED

    load_plugins(plugin or ())
    if json:
        sys.stdout.write(_json(name) + "\n")
    elif name is None:
        stdout().print(_catalogue(registry.all(), {n: PassManager.parse(n).expand() for n in NAMED}))
    elif name in NAMED:
        sys.stdout.write(f"{PassManager.parse(name).expand() or '(no passes)'}\n")
    else:
        stdout().print(_in_full(registry.get(name)))
    return 0


def _json(name: str | None) -> str:
    """A pass, a named pipeline, or all of them as JSON."""
    from fxopt.pipeline import PassManager, registry
    from fxopt.pipeline.named import NAMED

    if name is not None and name in NAMED:
        return json_text({"pipeline": name, "passes": PassManager.parse(name).expand()})
    if name is not None:
        return json_text(_described(registry.get(name)))
    named = {n: PassManager.parse(n).expand() for n in NAMED}
    return json_text({"passes": [_described(c) for c in registry.all().values()], "pipelines": named})


def _described(cls: "type[Pass]") -> dict[str, object]:
    from fxopt.pipeline import option_help

    return {
        "name": cls.pass_name(),
        "contract": cls.contract.value,
        "summary": cls.summary(),
        "requires": sorted(cls.requires),
        "establishes": sorted(cls.establishes),
        "breaks": sorted(cls.breaks),
        "needs_calibration": cls.needs_calibration,
        "options": [dict(zip(("name", "type", "default", "help"), o, strict=True)) for o in option_help(cls)],
    }


def _catalogue(found: "dict[str, type[Pass]]", named: dict[str, str]) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("pass", "contract", "what it does"):
        table.add_column(column, overflow="fold")
    for name, cls in found.items():
        table.add_row(Text(name), cls.contract.value, Text(cls.summary()))
    pipelines = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("pipeline", "its passes"):
        pipelines.add_column(column, overflow="fold")
    for name, text in named.items():
        pipelines.add_row(Text(name), Text(text or "(none)"))
    return Group(table, Text(), pipelines)


def _in_full(cls: "type[Pass]") -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from fxopt.pipeline import option_help

    facts = Table.grid(padding=(0, 2))
    facts.add_row("contract", cls.contract.value)
    for title, properties in (
        ("requires", cls.requires),
        ("establishes", cls.establishes),
        ("breaks", cls.breaks),
    ):
        if properties:
            facts.add_row(title, Text(", ".join(sorted(properties))))
    if cls.needs_calibration:
        facts.add_row("calibration", "needed")
    options = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("option", "type", "default", "what it is"):
        options.add_column(column, overflow="fold")
    for row in option_help(cls):
        options.add_row(*map(Text, row))
    doc = inspect.cleandoc(cls.__doc__ or "")
    parts: list[RenderableType] = [Text(cls.pass_name(), style="bold"), Text(doc), Text(), facts]
    return Group(*parts, *((Text(), options) if options.row_count else ()))
