"""What a model is split over: devices, and the links between neighbours.

>>> links = Links(Link(latency=0.0), {("cpu:0", "cuda:0"): Link(bandwidth=1.0, latency=2.0)})
>>> links.between("cuda:0", "cpu:0").seconds(3), links.between("cpu:0", "cpu:1").seconds(0)
(5.0, 0.0)
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fxopt.errors import ArtifactError, InputError
from fxopt.json_data import JsonData

__all__ = ["Device", "Link", "Links", "checked_devices", "read_devices"]

_EXPECTED = (
    'expected {"devices": [{"name": "cpu:0", "speed": 1.0, "memory": 4000000000}, ...], "links": [...]}'
)


@dataclass(frozen=True)
class Device(JsonData):
    """Where a stage runs.

    Attributes:
        name: torch's name for it, such as `cuda:0`; `cpu:0` and `cpu:1` are two places on one machine.
        speed: relative to the device that times are given for.
        memory: bytes that a stage may hold, weights and activations; None: no limit.
        lacks: ops that it can't run, by pattern, such as `aten.lstm.*`.
    """

    name: str
    speed: float = 1.0
    memory: int | None = None
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link(JsonData):
    """The way between two devices; by default as measured of two processes on one machine over gloo.

    Attributes:
        bandwidth: bytes a second.
        latency: seconds, whatever is sent.
    """

    bandwidth: float = 1.3e9
    latency: float = 1e-4

    def seconds(self, size: float) -> float:
        """How long that many bytes take."""
        return self.latency + size / self.bandwidth


@dataclass(frozen=True)
class Links:
    """Links by the names of their two ends, in either order; `usual` for pairs that are not named."""

    usual: Link = field(default_factory=Link)
    named: Mapping[tuple[str, str], Link] = field(default_factory=dict)

    def between(self, one: str, other: str) -> Link:
        """The link between two devices."""
        return self.named.get((one, other)) or self.named.get((other, one)) or self.usual


def checked_devices(devices: Iterable[Device | str]) -> tuple[Device, ...]:
    """Devices, those given by name with the usual speed.

    Raises:
        InputError: none is given, one is given twice, torch knows no such device, or a speed or memory is not
            above zero.
    """
    found = tuple(Device(d) if isinstance(d, str) else d for d in devices)
    if not found:
        raise InputError("partition needs a device at least, such as fxopt.Device('cpu:0')")
    for device in found:
        if not isinstance(device, Device):
            raise InputError(f"a device is an fxopt.Device or a name such as 'cpu:0', got {device!r}")
        try:
            torch.device(device.name)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"torch knows no device {device.name!r}; names are such as 'cuda:0'") from error
        if not device.speed > 0 or (device.memory is not None and not device.memory > 0):
            raise InputError(f"device {device.name!r}: speed and memory must be above zero")
    names = [d.name for d in found]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise InputError(f"device {twice!r} is given twice; number them: 'cpu:0', 'cpu:1'")
    return found


def read_devices(
    file: str | os.PathLike[str],
) -> tuple[list[Device], Link | dict[tuple[str, str], Link] | None]:
    """Devices and links of a JSON file.

    Raises:
        InputError: it can't be read, or says something else.
    """
    path = os.fspath(file)
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        data = {"devices": data} if isinstance(data, list) else data
        devices = [Device(d) if isinstance(d, str) else Device.from_json(d) for d in data["devices"]]
        links = data.get("links")
        if links is None or isinstance(links, dict):
            return devices, None if links is None else Link.from_json(links)
        return devices, {(str(e["between"][0]), str(e["between"][1])): Link.from_json(e) for e in links}
    except (OSError, ValueError) as error:
        raise InputError(f"devices {path} can't be read: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError, ArtifactError) as error:
        raise InputError(f"devices {path}: {_EXPECTED}") from error
