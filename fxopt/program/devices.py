"""A program on another device: its weights, its inputs, and the devices that its calls name.

>>> from fxopt.frontend import trace
>>> class Shift(torch.nn.Module):
...     def forward(self, x):
...         return x + torch.arange(x.shape[0], device=x.device)
>>> program = trace(Shift(), torch.zeros(3), dynamic_shapes=({0: "n"},))
>>> moved(program, "meta")(torch.zeros(5, device="meta"))
tensor(..., device='meta', size=(5,))
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx.node import map_aggregate

from fxopt.errors import InputError
from fxopt.program.program import Program, new_fake_mode
from fxopt.program.revive import infer_values, sizes_of
from fxopt.program.signature import Signature, TensorSpec

__all__ = ["checked_device", "memory_of", "moved"]


def checked_device(device: str | torch.device) -> torch.device:
    """A device that is on this machine.

    Raises:
        InputError: it is not.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"the device {str(device)!r} is not here: {str(error).splitlines()[0]}") from error
    return found


def memory_of(device: torch.device) -> int | None:
    """Bytes of memory that a device of this machine has in all; None where that can't be told."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    names: Mapping[str, int] = getattr(os, "sysconf_names", {})
    if device.type != "cpu" or not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= names.keys():
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def moved(program: Program, device: str | torch.device, *, values: bool = True) -> Program:
    """The same program on a device; weights that are there already are shared.

    Args:
        program: stays as it is.
        device: for weights, inputs and whatever the graph makes.
        values: infer `meta["val"]` anew; what only runs the graph needs none.

    Raises:
        InputError: the device is not on this machine.
    """
    place = checked_device(device)
    sizes = sizes_of(program) if values else []
    twin = program.copy()
    twin.weights = {name: _weight(weight, place) for name, weight in program.weights.items()}
    twin.signature = _signature(program.signature, str(place))
    twin.fake_mode, twin.symbol_names = new_fake_mode(), {}
    for node in twin.graph.nodes:
        node.args, node.kwargs = _there(node.args, place), _there(node.kwargs, place)
        node.meta = {k: v for k, v in node.meta.items() if k != "val"}
    if values:
        infer_values(twin, sizes)
    return twin


def _there(arguments: Any, device: torch.device) -> Any:
    """Arguments of a call, a device among them replaced."""
    return map_aggregate(arguments, lambda a: device if isinstance(a, torch.device) else a)


def _weight(weight: torch.Tensor, device: torch.device) -> torch.Tensor:
    there = weight.detach().to(device)
    return (
        nn.Parameter(there, requires_grad=weight.requires_grad) if isinstance(weight, nn.Parameter) else there
    )


def _signature(signature: Signature, device: str) -> Signature:
    inputs, outputs = (
        tuple(dataclasses.replace(s, device=device) if isinstance(s, TensorSpec) else s for s in specs)
        for specs in (signature.inputs, signature.outputs)
    )
    return dataclasses.replace(signature, inputs=inputs, outputs=outputs)
