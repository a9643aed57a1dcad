"""`fxopt partition`: where to cut a model that is to run on several devices.

>>> partition.__name__
'partition'
"""

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fxopt.cli.bisect import DynamicOption, ModelArgument, read_program
from fxopt.cli.console import progress
from fxopt.cli.options import JsonFlag, PluginOption, QuietFlag, TrustFlag, load_plugins
from fxopt.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from fxopt.passes.partition import Device, Link

__all__ = ["partition"]

_EXPECTED = (
    'expected {"devices": [{"name": "cpu:0", "speed": 1.0, "memory": 4000000000}, ...], "links": [...]}'
)


def partition(
    model: ModelArgument,
    devices: Annotated[
        Path, typer.Option("--devices", metavar="FILE", help="The devices and links, as JSON.")
    ],
    pinned: Annotated[
        list[str] | None,
        typer.Option("--pin", metavar="MODULE=DEVICE", help="Modules that have to run on one device."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", metavar="SECONDS", help="For the search.")
    ] = 10.0,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Write the stages there, a file each.")
    ] = None,
    target: Annotated[str, typer.Option("--target", help="What each stage is written for.")] = "eager",
    dynamic: DynamicOption = None,
    plugin: PluginOption = None,
    trust: TrustFlag = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> int:
    """Where to cut a model that runs on several devices.

    Prints the stages with a bound that is proven; with --output the stages are written and verified too.
    """
    import fxopt
    from fxopt.lowering import get_target
    from fxopt.lowering.stages import STAGES
    from fxopt.program.writing import checked_folder

    load_plugins(plugin or ())
    places, links = _read_devices(devices)
    pins = dict(map(_pin, pinned or ()))
    if not time_limit > 0:
        raise InputError(f"--time-limit {time_limit:g}: expected seconds above 0")
    get_target(target)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        checked_folder(output, STAGES)
    with progress(quiet=quiet or json):
        program = read_program(model, dynamic, trust=trust)
        plan = fxopt.partition(program, places, links=links, pinned=pins, time_limit=time_limit)
        if output is not None:
            fxopt.lower(plan, "stages", path=output, stage_target=target)
    if json:
        sys.stdout.write(plan.dumps() + "\n")
    elif not quiet:
        sys.stdout.write(plan.table() + "\n")
    return 0


def _pin(text: str) -> tuple[str, str]:
    module, _, device = text.partition("=")
    if not module or not device:
        raise InputError(f"--pin {text}: expected MODULE=DEVICE, such as encoder=cpu:0")
    return module, device


def _read_devices(file: Path) -> "tuple[list[Device], Link | dict[tuple[str, str], Link] | None]":
    """Devices and links of a JSON file.

    Raises:
        InputError: it can't be read, or says something else.
    """
    from fxopt.passes.partition import Device, Link

    try:
        data = json_text.loads(file.read_text(encoding="utf-8"))
        data = {"devices": data} if isinstance(data, list) else data
        devices = [Device(d) if isinstance(d, str) else Device.from_json(d) for d in data["devices"]]
        links = data.get("links")
        if links is None or isinstance(links, dict):
            return devices, None if links is None else Link.from_json(links)
        return devices, {(str(e["between"][0]), str(e["between"][1])): Link.from_json(e) for e in links}
    except (OSError, ValueError) as error:
        raise InputError(f"--devices {file} can't be read: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError, ArtifactError) as error:
        raise InputError(f"--devices {file}: {_EXPECTED}") from error
