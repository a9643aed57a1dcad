"""Stages side by side: chosen for the least time of one input, and run in a thread for each device.

A device runs its stages one after the other, each as soon as all that it takes is made.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from fxopt.passes.partition._makespan import least_makespan
from fxopt.passes.partition._schedule import Schedule, Work, in_order, runs_of, scheduled
from fxopt.passes.partition._search import Task
from fxopt.passes.partition._stages import Wires
from fxopt.passes.partition.shard_linears import Runs

__all__ = ["Fastest", "fastest", "run_wired"]


@dataclass(frozen=True)
class Fastest:
    """Stages side by side.

    Attributes:
        work: pieces that are whole stages, in order.
        groups: the pieces of each.
        schedule: of the stages.
        bound: seconds; no schedule is under it, whatever the stages.
        is_best: whether no schedule is under this one.
    """

    work: Work
    groups: list[list[int]]
    schedule: Schedule
    bound: float
    is_best: bool


def fastest(task: Task, first: Sequence[int], *, seconds: float) -> Fastest:
    """Stages of which one input is through as soon as can be.

    Args:
        task: pieces and devices.
        first: the device of each piece, by number, in some plan that fits.
        seconds: how long is searched.
    """
    rooms = task.over(task.devices)
    devices = tuple(replace(d, memory=rooms.room(k)) for k, d in enumerate(task.devices))
    work = Work(task.pieces, devices, task.links, task.barred)
    bound, ends = least_makespan(work)
    found, is_best = scheduled(work, first, ends.tolist(), bound, deadline=time.monotonic() + seconds)
    groups = runs_of(work, found)
    stages = work.grouped(groups)
    schedule = in_order(stages, range(len(groups)), [found.device_of[g[0]] for g in groups])
    return Fastest(stages, groups, schedule, bound, is_best)


def run_wired(
    stages: Sequence[Runs], devices: Sequence[str], wires: Wires, tensors: list[torch.Tensor]
) -> list[object]:
    """Runs stages, those of different devices side by side, on a program's own tensors; returns its outputs.

    Args:
        stages: in an order in which they can run.
        devices: where each runs.
        wires: what each takes.
        tensors: of the program's arguments.

    Raises:
        Exception: the first that a stage raises; those that need what it makes are not run.
    """
    made: list[Future[list[object]]] = [Future() for _ in stages]
    own: Mapping[str, list[int]] = {d: [k for k, n in enumerate(devices) if n == d] for d in devices}

    def at(place: tuple[int, int]) -> object:
        stage, number = place
        return tensors[number] if stage < 0 else made[stage].result()[number]

    def run(numbers: Sequence[int]) -> None:
        for number in numbers:
            try:
                given = [at(place) for place in wires.taken[number]]
                made[number].set_result(
                    stages[number].run_flat([t for t in given if isinstance(t, torch.Tensor)])
                )
            except BaseException as error:  # told to all that wait for it
                made[number].set_exception(error)

    if len(own) == 1:
        run(range(len(stages)))
    else:
        with ThreadPoolExecutor(len(own)) as pool:
            list(pool.map(run, own.values()))
    for stage in made:
        stage.result()
    return [at(place) for place in wires.returned]
