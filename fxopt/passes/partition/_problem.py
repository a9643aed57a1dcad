"""The problem for one row of devices: what each stage may hold, and what a split costs.

A stage's load is the time of its calls on its device, and that of sending what comes in and goes out. Stages stand
in a row, a tensor that a later one needs is passed on by those between (as `torch.distributed.pipelining` does).
What is minimised is the largest load (throughput), the time of one input through all stages (latency), or the most bytes of
weights that a stage holds (memory).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from fxopt.errors import InputError, nearest
from fxopt.ops import op_key
from fxopt.passes.partition._devices import Device, Link, Links
from fxopt.passes.partition._live import Live
from fxopt.passes.partition._pieces import Pieces

__all__ = ["OBJECTIVES", "Objective", "Problem", "Split", "barred_pieces"]

Array = npt.NDArray[np.float64]
Objective = Literal["throughput", "latency", "memory"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True)
class Split:
    """Which stage each piece runs in, and what is minimised, in seconds or bytes."""

    stage_of: tuple[int, ...]
    value: float


@dataclass(frozen=True)
class Problem:
    """Pieces over a row of devices.

    Attributes:
        pieces: what is split.
        devices: one a stage, in order.
        links: between them.
        barred: names of the devices where a piece can't run, by piece.
        reserved: bytes of each device, by name, that are kept for activations.
        objective: what is minimised.
        live: what activations need at the least; where it is not given, the rooms are for weights alone.
    """

    pieces: Pieces
    devices: tuple[Device, ...]
    links: Links
    barred: Mapping[int, frozenset[str]] = field(default_factory=dict)
    reserved: Mapping[str, int] = field(default_factory=dict)
    objective: Objective = "throughput"
    live: Live | None = None

    def link(self, boundary: int) -> Link:
        """Between stage `boundary` and the next."""
        return self.links.between(self.devices[boundary].name, self.devices[boundary + 1].name)

    def room(self, stage: int) -> int | None:
        """Bytes of weights, and of what is known of activations, that a stage may hold."""
        device = self.devices[stage]
        return None if device.memory is None else device.memory - self.reserved.get(device.name, 0)

    def allowed(self, piece: int, stage: int) -> bool:
        """Whether a piece may run there."""
        return self.devices[stage].name not in self.barred.get(piece, ())

    def simple_bound(self) -> float:
        """No split is better: the heaviest piece is somewhere, and the whole can't be shared out more evenly."""
        times, speeds = self.pieces.seconds, [d.speed for d in self.devices]
        if self.objective == "latency":
            return sum(times) / max(speeds)
        if self.objective == "memory":
            read = [w.bytes for w in self.pieces.weights if w.users]
            return max(max(read, default=0), sum(read) / len(speeds))
        sending = [0.0] * len(speeds)
        for boundary in range(len(speeds) - 1):
            for stage in (boundary, boundary + 1):
                sending[stage] += self.link(boundary).latency
        heaviest = min(max(times, default=0.0) / v + s for v, s in zip(speeds, sending, strict=True))
        return max(
            heaviest, (sum(times) + sum(v * s for v, s in zip(speeds, sending, strict=True))) / sum(speeds)
        )

    def value(self, stage_of: Sequence[int]) -> float:
        """What is minimised: seconds, or bytes."""
        if self.objective == "memory":
            return max(self.weight_bytes(stage_of))
        loads = self.loads(stage_of)
        if self.objective == "latency":
            return sum(computing + sending / 2 for computing, sending in loads)
        return max(map(sum, loads))

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

    def joined(self, before: Array, stage: Array) -> Array:
        """What is minimised up to a stage, of that before it and what the stage adds."""
        return before + stage if self.objective == "latency" else np.maximum(before, stage)

    def weight_bytes(self, stage_of: Sequence[int]) -> list[int]:
        """Bytes of weights by stage; one that several stages read is held by each."""
        held = [0] * len(self.devices)
        for weight in self.pieces.weights:
            for stage in {stage_of[u] for u in weight.users}:
                held[stage] += weight.bytes
        return held

    def held_bytes(self, stage_of: Sequence[int]) -> list[int]:
        """Bytes of weights, and of what is known of activations, by stage."""
        held = self.weight_bytes(stage_of)
        if self.live is None:
            return held
        members: list[list[int]] = [[] for _ in held]
        for piece, stage in enumerate(stage_of):
            members[stage].append(piece)
        taken = [self.live.arguments, *self.crossing_bytes(stage_of)]
        return [h + self.live.of(m, t) for h, m, t in zip(held, members, taken, strict=True)]


def barred_pieces(
    pieces: Pieces, devices: Sequence[Device], pinned: Mapping[str, str]
) -> dict[int, frozenset[str]]:
    """Names of the devices where a piece can't run, by piece: it is pinned elsewhere, or they lack an op of it.

    Args:
        pieces: of the program.
        devices: all there are.
        pinned: device names by patterns of module paths, such as `encoder.*`.

    Raises:
        InputError: a pattern matches nothing, a device is none of those given, or a piece can run nowhere.
    """
    names = {d.name for d in devices}
    found = {i: names - {device} for i, device in _pinned_pieces(pieces, pinned, sorted(names)).items()}
    for index, piece in enumerate(pieces.pieces) if any(d.lacks for d in devices) else ():
        ops = {op_key(call.target) for call in piece.calls}
        lacking = {d.name for d in devices if any(fnmatchcase(op, p) for op in ops for p in d.lacks)}
        if lacking:
            found[index] = found.get(index, set()) | lacking
    nowhere = next((i for i, barred in found.items() if barred == names), None)
    if nowhere is not None:
        call = pieces.pieces[nowhere].calls[0]
        raise InputError(f"no device that may run {call.name} ({op_key(call.target)}) has its op")
    return {index: frozenset(barred) for index, barred in found.items()}


def _pinned_pieces(pieces: Pieces, pinned: Mapping[str, str], names: Sequence[str]) -> dict[int, str]:
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
