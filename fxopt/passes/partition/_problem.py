"""The problem for one row of devices: what each stage may hold, and what a split costs.

A stage's load is the time of its calls on its device, and that of sending what comes in and goes out. Stages stand
in a row, a tensor that a later one needs is passed on by those between (as `torch.distributed.pipelining` does).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from fxopt.errors import InputError, nearest
from fxopt.passes.partition._devices import Device, Link, Links
from fxopt.passes.partition._pieces import Pieces

__all__ = ["Problem", "Split", "pinned_pieces"]


@dataclass(frozen=True)
class Split:
    """Which stage each piece runs in, and the slowest stage's seconds."""

    stage_of: tuple[int, ...]
    bottleneck: float


@dataclass(frozen=True)
class Problem:
    """Pieces over a row of devices.

    Attributes:
        pieces: what is split.
        devices: one a stage, in order.
        links: between them.
        pinned: device names by piece.
        reserved: bytes of each device, by name, that are kept for activations.
    """

    pieces: Pieces
    devices: tuple[Device, ...]
    links: Links
    pinned: Mapping[int, str] = field(default_factory=dict)
    reserved: Mapping[str, int] = field(default_factory=dict)

    def link(self, boundary: int) -> Link:
        """Between stage `boundary` and the next."""
        return self.links.between(self.devices[boundary].name, self.devices[boundary + 1].name)

    def room(self, stage: int) -> int | None:
        """Bytes of weights that a stage may hold."""
        device = self.devices[stage]
        return None if device.memory is None else device.memory - self.reserved.get(device.name, 0)

    def allowed(self, piece: int, stage: int) -> bool:
        """Whether a piece may run there."""
        return self.pinned.get(piece, self.devices[stage].name) == self.devices[stage].name

    def simple_bound(self) -> float:
        """No split is faster: neither the heaviest piece nor the whole can be shared out better."""
        times = self.pieces.seconds
        speeds = [d.speed for d in self.devices]
        return max(max(times, default=0.0) / max(speeds), sum(times) / sum(speeds))

    def loads(self, stage_of: Sequence[int]) -> list[tuple[float, float]]:
        """Seconds of computing and of sending, by stage."""
        count = len(self.devices)
        computing, sending = [0.0] * count, [0.0] * count
        for piece, stage in zip(self.pieces.pieces, stage_of, strict=True):
            computing[stage] += piece.seconds / self.devices[stage].speed
        for boundary, size in enumerate(self.crossing_bytes(stage_of)):
            seconds = self.link(boundary).seconds(size)
            sending[boundary] += seconds
            sending[boundary + 1] += seconds
        return list(zip(computing, sending, strict=True))

    def crossing_bytes(self, stage_of: Sequence[int]) -> list[int]:
        """What is sent from each stage to the next."""
        last = len(self.devices) - 1
        sent = [0] * last
        for tensor in self.pieces.tensors:
            start = stage_of[tensor.maker] if tensor.maker >= 0 else 0
            end = max(stage_of[u] if u < len(stage_of) else last for u in tensor.users)
            for boundary in range(start, end):
                sent[boundary] += tensor.bytes
        return sent

    def weight_bytes(self, stage_of: Sequence[int]) -> list[int]:
        """Bytes of weights by stage; one that several stages read is held by each."""
        held = [0] * len(self.devices)
        for weight in self.pieces.weights:
            for stage in {stage_of[u] for u in weight.users}:
                held[stage] += weight.bytes
        return held


def pinned_pieces(pieces: Pieces, pinned: Mapping[str, str], names: Sequence[str]) -> dict[int, str]:
    """Device names by piece.

    Args:
        pieces: of the program.
        pinned: device names by patterns of module paths, such as `encoder.*`.
        names: of the devices.

    Raises:
        InputError: a pattern matches nothing, a device is none of those given, or a piece is to be on two.
    """
    found: dict[int, str] = {}
    for pattern, device in pinned.items():
        if device not in names:
            close = nearest(device, list(names))
            raise InputError(
                f"pinned names the device {device!r}, which is none of {', '.join(names)}"
                + (f"; did you mean {close!r}?" if close else "")
            )
        matching = [
            i
            for i, p in enumerate(pieces.pieces)
            if any(fnmatchcase(m, pattern) or m.startswith(f"{pattern}.") for m in p.modules)
        ]
        if not matching:
            raise InputError(f"pinned: no call comes from a module {pattern!r}")
        for index in matching:
            if found.setdefault(index, device) != device:
                call = pieces.pieces[index].calls[0].name
                raise InputError(f"pinned: {call} is to be on {found[index]} and on {device}")
    return found
