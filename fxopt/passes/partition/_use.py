"""`partition`: splits a program over devices, with a proof of how near the split is to the best."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Literal

from torch.fx import Node

from fxopt.analysis.cost import Cost
from fxopt.errors import InputError
from fxopt.passes.partition._devices import Device, Link, Links, checked_devices
from fxopt.passes.partition._factorisation import Factorisation, Search, doublings
from fxopt.passes.partition._pieces import Pieces, pieces_of
from fxopt.passes.partition._plan import PartitionPlan, Stage
from fxopt.passes.partition._problem import OBJECTIVES, Objective, Split, barred_pieces
from fxopt.passes.partition._search import Found, Task, search
from fxopt.passes.partition._stages import stage_programs
from fxopt.passes.partition._times import CostOf, Profile, read_cost, seconds_of
from fxopt.passes.partition.shard_linears import Shares
from fxopt.program import Program, expect_program

__all__ = ["partition"]

_NO_SOLVER = "scipy is not installed, so the integer program was not tried: pip install 'fxopt[plan]'"
_ROUNDS = 8
"""Searches, each with the room that activations took in the one before."""


def partition(
    program: Program,
    devices: Iterable[Device | str],
    *,
    objective: Objective = "throughput",
    links: Link | Mapping[tuple[str, str], Link] | None = None,
    pinned: Mapping[str, str] | None = None,
    cost: CostOf = None,
    time_limit: float = 10.0,
    tensor_parallel: int | Literal["auto"] = 1,
    replicas: int | Literal["auto"] = 1,
) -> PartitionPlan:
    """Splits a program over devices as well as can be: so that the slowest stage is as fast as possible, by default.

    A stage's load is the time of its calls on its device and that of sending what comes in and goes out; in a full
    pipeline a result leaves as often as the slowest stage is done. Devices that would not help are left out. A
    weight that several stages read is held by each.

    Args:
        program: stays as it is.
        devices: to split it over, or their names; their order does not matter.
        objective: what is minimised: the load of the slowest stage (throughput), the time of one input through all stages
            (latency), or the most bytes of weights that a stage holds (memory).
        links: between devices, one for all or by the names of both ends.
        pinned: device names by patterns of module paths (`encoder.*`), for what has to run there.
        cost: how long calls take: rates of the device of speed 1, a profile, a file of either, seconds by call (a
            function), or by the names of calls.
        time_limit: seconds for a search; the plan is the best one found by then. Where activations do not fit beside
            the weights it is searched again with less room, a few times.
        tensor_parallel: devices that share the layers of each stage (`shard-linears`), or "auto": 1, 2, 4, ..., whichever
            is best. Where it or `replicas` is not 1, devices and links are to be alike.
        replicas: copies of all stages, or "auto": as many as there are devices for. Of "auto" the plan is the best
            of `plan.tried`, the pipeline's bubble over 32 batches included; its bound is that of its own kind.

    Returns:
        The plan; its `table()` shows stages and certificate.

    Raises:
        InputError: devices, links, names or an objective that are none, or no split that fits into the memory.
    """
    expect_program(program, "partition")
    if objective not in OBJECTIVES:
        raise InputError(f"no objective {objective!r}; they are {', '.join(OBJECTIVES)}")
    found_devices = checked_devices(devices)
    if (tensor_parallel, replicas) != (1, 1):
        shares = Shares(program)
        chosen = _factorised(shares, found_devices, objective, links, pinned, cost, tensor_parallel, replicas)
        return _shared_plan(shares, found_devices, objective, links, cost, time_limit, chosen)
    return _planned(
        program,
        found_devices,
        objective,
        _links(links, [d.name for d in found_devices]),
        pinned,
        cost,
        time_limit,
    )


def _factorised(
    shares: Shares,
    devices: tuple[Device, ...],
    objective: Objective,
    links: Link | Mapping[tuple[str, str], Link] | None,
    pinned: Mapping[str, str] | None,
    cost: CostOf,
    tensor_parallel: int | str,
    replicas: int | str,
) -> list[Factorisation]:
    """The ways to use devices that are alike, the best first."""
    if (
        pinned
        or isinstance(links, Mapping)
        or any(replace(d, name="") != replace(devices[0], name="") for d in devices)
    ):
        raise InputError(
            "tensor_parallel and replicas are for devices and links that are alike, without pins"
        )
    named = read_cost(cost) if isinstance(cost, (str, os.PathLike)) else cost
    if tensor_parallel != 1 and isinstance(named, (Mapping, Profile)):
        raise InputError(
            "cost has times by the names of calls, which say nothing of shared layers: give rates or a function of a call"
        )
    for name, value in (("tensor_parallel", tensor_parallel), ("replicas", replicas)):
        if value != "auto" and not (isinstance(value, int) and 1 <= value <= len(devices)):
            raise InputError(
                f'{name} is {value!r}; expected "auto", or 1 to {len(devices)}, the number of devices'
            )
    search = Search(lambda ranks: shares.of(ranks, 0), devices, links or Link(), cost, objective)
    if isinstance(tensor_parallel, int):
        shares.of(tensor_parallel, 0)  # what is asked for by number is refused aloud
    sharers = [tensor_parallel] if isinstance(tensor_parallel, int) else doublings(len(devices))
    return search.over(sharers, replicas if isinstance(replicas, int) else None)


def _shared_plan(
    shares: Shares,
    devices: tuple[Device, ...],
    objective: Objective,
    links: Link | Mapping[tuple[str, str], Link] | None,
    cost: CostOf,
    time_limit: float,
    tried: list[Factorisation],
) -> PartitionPlan:
    """The plan of one replica in the best way."""
    best = tried[0]
    width = best.tensor_parallel
    firsts = devices[: best.stages * width : width]
    found = _links(links, [d.name for d in devices])
    plan = _planned(shares.of(width, 0), firsts, objective, found, None, cost, time_limit)
    beside = {
        d.name: tuple(o.name for o in devices[i * width + 1 : (i + 1) * width]) for i, d in enumerate(firsts)
    }
    stages = tuple(replace(s, beside=beside[s.device]) for s in plan.stages)
    return replace(
        plan,
        stages=stages,
        tensor_parallel=width,
        replicas=best.replicas,
        tried=tuple(tried),
        program=shares.program,
    )


def _planned(
    program: Program,
    found_devices: tuple[Device, ...],
    objective: Objective,
    links: Links,
    pinned: Mapping[str, str] | None,
    cost: CostOf,
    time_limit: float,
) -> PartitionPlan:
    pieces = pieces_of(program, seconds_of(program, cost, links.usual))
    barred = barred_pieces(pieces, found_devices, pinned or {})
    task = Task(pieces, found_devices, links, barred, {}, objective)
    if not len(pieces):  # a model that returns what it takes
        nothing = Found(task.over(found_devices[:1]), Split((), 0.0), 0.0, "optimal")
        return _plan(program, nothing, nothing)[0]
    found = search(task, seconds=time_limit)
    first = found
    for _ in range(_ROUNDS):
        plan, over = _plan(program, found, first)
        if not over:
            return plan
        reserved = {n: max(b, task.reserved.get(n, 0)) for n, b in over.items()}
        task = replace(task, reserved={**task.reserved, **reserved})
        found = search(task, seconds=time_limit)
    raise InputError(
        "no split was found whose activations fit beside the weights: " + ", ".join(map(str, plan.memory))
    )


def _links(links: Link | Mapping[tuple[str, str], Link] | None, names: list[str]) -> Links:
    if links is None:
        return Links()
    if isinstance(links, Link):
        return Links(links)
    strange = next((n for pair in links for n in pair if n not in names), None)
    if strange is not None:
        raise InputError(f"links names the device {strange!r}, which is none of {', '.join(names)}")
    return Links(named=links)


def _plan(program: Program, found: Found, first: Found) -> tuple[PartitionPlan, dict[str, int]]:
    """The plan, and what activations need on the devices that are too small for it."""
    problem, stage_of = found.problem, found.split.stage_of
    calls = _by_call(problem.pieces, stage_of)
    programs = stage_programs(program, calls, len(problem.devices))
    weights = problem.weight_bytes(stage_of)
    sends = [*problem.crossing_bytes(stage_of), 0]
    stages, over = [], {}
    for number, (part, (computing, sending)) in enumerate(
        zip(programs, problem.loads(stage_of), strict=True)
    ):
        device, live = problem.devices[number], _live_bytes(part)
        memory = weights[number] + live
        if device.memory is not None and memory > device.memory:
            over[device.name] = live
        names = tuple(n.name for n in program.calls() if calls.get(n) == number)
        stages.append(Stage(device.name, names, computing, sending, memory, sends[number], weights[number]))
    value = problem.value(stage_of)
    bound = min(first.bound, value)
    proof = "optimal" if bound >= value * (1 - 1e-9) else first.proof.replace("optimal", "integer program")
    plan = PartitionPlan(
        tuple(stages),
        max(s.load for s in stages),
        bound,
        proof,
        _notes(problem.pieces, stage_of),
        problem.objective,
        program=program,
    )
    return plan, over


def _by_call(pieces: Pieces, stage_of: tuple[int, ...]) -> dict[Node, int]:
    return {c: s for p, s in zip(pieces.pieces, stage_of, strict=True) for c in p.calls}


def _live_bytes(stage: Program) -> int:
    cost = Cost.compute(stage).at()
    return cost.peak_bytes + cost.input_bytes


def _notes(pieces: Pieces, stage_of: tuple[int, ...]) -> tuple[str, ...]:
    notes = [] if find_spec("scipy") else [_NO_SOLVER]
    for weight in pieces.weights:
        where = sorted({stage_of[u] for u in weight.users})
        if len(where) > 1:
            notes.append(f"{weight.node.target} is copied: stages {', '.join(map(str, where))} read it")
    return tuple(notes)
