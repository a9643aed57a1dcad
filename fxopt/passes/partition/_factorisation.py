"""How many devices share a layer, how many stages there are, how many copies of all: the products that make the devices.

Devices are alike, and so are links. For each number of sharers the program is what `shard-linears` makes of it, with
its all-reduces; its best cuts into each number of stages come from one dynamic program over the order of the calls.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from fxopt.analysis.cost import Cost
from fxopt.errors import InputError
from fxopt.json_data import JsonData
from fxopt.passes.partition._devices import Device, Link, Links
from fxopt.passes.partition._pieces import pieces_of
from fxopt.passes.partition._places import order_places
from fxopt.passes.partition._problem import Objective, Problem
from fxopt.passes.partition._rows import splits_by_count
from fxopt.passes.partition._times import CostOf, seconds_of
from fxopt.program import Program
from fxopt.program.text import aligned, human_bytes

__all__ = ["BATCHES", "Factorisation", "Search", "doublings", "ways_table"]

BATCHES = 32
"""Batches that one replica runs one after the other, by which the bubble is told."""
_MOST_CUTS = 800
_SHOWN = 8


@dataclass(frozen=True)
class Factorisation(JsonData):
    """One way to use the devices, by the same times as the plan.

    Attributes:
        tensor_parallel: devices that share the layers of a stage.
        stages: one after the other.
        replicas: copies of all that.
        bottleneck: seconds of the slowest stage for one batch.
        latency: seconds of one batch through all stages.
        memory: the most bytes that a device holds: weights, and the most results alive at once in the whole.
    """

    tensor_parallel: int
    stages: int
    replicas: int
    bottleneck: float
    latency: float
    memory: int

    @property
    def bubble(self) -> float:
        """The share of time that a stage waits for the first batch or after its last, of 32 batches."""
        return (self.stages - 1) / (BATCHES + self.stages - 1)

    @property
    def seconds(self) -> float:
        """For one batch, by all replicas together, the bubble included."""
        return self.bottleneck / (1 - self.bubble) / self.replicas

    def value(self, objective: Objective) -> tuple[float, float]:
        """What is minimised, and what decides where that is equal."""
        if objective == "memory":
            return self.memory, self.seconds
        return (self.latency, self.seconds) if objective == "latency" else (self.seconds, self.latency)


@dataclass(frozen=True)
class Search:
    """What is to be run on what.

    Attributes:
        shard: the first device's program, by how many share it.
        devices: alike.
        link: between any two.
        cost: as in `partition`.
        objective: as in `partition`.
    """

    shard: Callable[[int], Program]
    devices: tuple[Device, ...]
    link: Link
    cost: CostOf
    objective: Objective

    def over(self, sharers: Iterable[int], replicas: int | None) -> list[Factorisation]:
        """All ways, the best first; `replicas` of them, or as many as there are devices for.

        Raises:
            InputError: none fits.
        """
        found = [f for count in sharers for f in self._ways(count, replicas)]
        if not found:
            raise InputError(
                "no way to use the devices fits: weights or activations are too large, or too few devices"
            )
        return sorted(found, key=lambda f: f.value(self.objective))

    def _ways(self, sharers: int, replicas: int | None) -> list[Factorisation]:
        try:
            program = self.shard(sharers)
        except InputError:  # no layer that so many can share
            return []
        groups = len(self.devices) // sharers
        counts = [n for n in range(1, groups + 1) if groups % n == 0]
        if replicas is not None:
            counts = [n for n in counts if n * replicas <= groups] or [groups // replicas]
        live = _live(program)
        problem = self.problem(program, sharers, live)
        places = order_places(problem, _MOST_CUTS)
        found = []
        for split in splits_by_count(problem, [n for n in counts if n], places):
            count = max(split, default=0) + 1
            own = replace(problem, devices=problem.devices[:count])
            loads = own.loads(split)
            found.append(
                Factorisation(
                    sharers,
                    count,
                    replicas or groups // count,
                    max(map(sum, loads)),
                    sum(computing + sending / 2 for computing, sending in loads),
                    max(own.weight_bytes(split)) + live,
                )
            )
        return found

    def problem(self, program: Program, sharers: int, live: int) -> Problem:
        """The stages of one replica, each a group of devices under the name of its first."""
        firsts = self.devices[::sharers][: len(self.devices) // sharers]
        pieces = pieces_of(program, seconds_of(program, self.cost, self.link))
        reserved = {d.name: live for d in firsts}
        return Problem(pieces, firsts, Links(self.link), {}, reserved, self.objective)


def _live(program: Program) -> int:
    cost = Cost.compute(program).at()
    return cost.peak_bytes + cost.input_bytes


def doublings(most: int) -> Sequence[int]:
    """1, 2, 4, ... up to `most`."""
    return [1 << n for n in range(most.bit_length())]


def ways_table(tried: Sequence[Factorisation]) -> str:
    """The best ways, a line each; a way is sharers x stages x replicas."""
    rows: list[tuple[str, ...]] = [("way", "bottleneck", "latency", "bubble", "memory", "batches a second")]
    for f in tried[:_SHOWN]:
        seconds = [f"{1e3 * t:.3f} ms" for t in (f.bottleneck, f.latency)]
        way = f"{f.tensor_parallel} x {f.stages} x {f.replicas}"
        rows.append((way, *seconds, f"{f.bubble:.1%}", human_bytes(f.memory), f"{1 / f.seconds:.1f}"))
    rest = len(tried) - _SHOWN
    more = [f"and {rest} more"] if rest > 0 else []
    return "\n".join([*aligned(rows, numbers={1, 2, 3, 5}), *more])
