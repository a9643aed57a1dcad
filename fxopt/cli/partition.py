"""`fxopt partition`: where to cut a model that is to run on several devices.

>>> partition.__name__
'partition'
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from fxopt.cli.bisect import DynamicOption, ModelArgument, read_program
from fxopt.cli.completion import ways_to_use
from fxopt.cli.console import progress
from fxopt.cli.options import JsonFlag, PluginOption, QuietFlag, TrustFlag, load_plugins
from fxopt.errors import InputError

if TYPE_CHECKING:
    from fxopt.passes.partition import Objective

__all__ = ["partition"]


def partition(
    model: ModelArgument,
    devices: Annotated[
        Path, typer.Option("--devices", metavar="FILE", help="The devices and links, as JSON.")
    ],
    objective: Annotated[
        str, typer.Option("--objective", help="What is minimised: throughput, latency or memory.")
    ] = "throughput",
    pinned: Annotated[
        list[str] | None,
        typer.Option("--pin", metavar="MODULE=DEVICE", help="Modules that have to run on one device."),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            "--cost",
            metavar="FILE|profile",
            help="Rates of fxopt bench --calibrate or times by call, as JSON; profile: measure this model here.",
        ),
    ] = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", metavar="SECONDS", help="For the search.")
    ] = 10.0,
    tensor_parallel: Annotated[
        str,
        typer.Option(
            "--tensor-parallel",
            metavar="auto|N",
            help="Devices that share the layers of each stage; auto: 1, 2, 4, ..., whichever is best.",
            autocompletion=ways_to_use,
        ),
    ] = "1",
    replicas: Annotated[
        str,
        typer.Option(
            "--replicas",
            metavar="auto|N",
            help="Copies of all stages; auto: as many as there are devices for.",
            autocompletion=ways_to_use,
        ),
    ] = "1",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Write the stages there, a file each.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw the plan, as .svg or .dot.")
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
    from fxopt.measure import profile
    from fxopt.passes.partition import read_cost, read_devices
    from fxopt.program.writing import checked_folder

    load_plugins(plugin or ())
    try:
        places, links = read_devices(devices)
    except InputError as error:
        raise InputError(f"--{error}") from error
    pins = dict(map(_pin, pinned or ()))
    if not time_limit > 0:
        raise InputError(f"--time-limit {time_limit:g}: expected seconds above 0")
    ways = [_count("--tensor-parallel", tensor_parallel), _count("--replicas", replicas)]
    get_target(target)
    if cost not in (None, "profile"):
        read_cost(str(cost))
    if picture is not None and picture.suffix not in (".svg", ".dot"):
        raise InputError(f"--picture {picture}: a picture is an .svg or a .dot file")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        checked_folder(output, STAGES)
    with progress(quiet=quiet or json):
        program = read_program(model, dynamic, trust=trust)
        times = profile(program) if cost == "profile" else cost
        plan = fxopt.partition(
            program,
            places,
            objective=cast("Objective", objective),
            links=links,
            pinned=pins,
            cost=times,
            time_limit=time_limit,
            tensor_parallel=ways[0],
            replicas=ways[1],
        )
        if picture is not None:
            plan.picture(picture)
        if output is not None:
            fxopt.lower(plan, "stages", path=output, stage_target=target)
    if json:
        sys.stdout.write(plan.dumps() + "\n")
    elif not quiet:
        sys.stdout.write(plan.table() + "\n")
    return 0


def _count(option: str, text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{option} {text}: expected auto, or a number from 1 up")
    return int(text)


def _pin(text: str) -> tuple[str, str]:
    module, _, device = text.partition("=")
    if not module or not device:
        raise InputError(f"--pin {text}: expected MODULE=DEVICE, such as encoder=cpu:0")
    return module, device
