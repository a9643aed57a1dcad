"""`partition`: splits a program over devices, with a proof of how near the split is to the best."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Literal

from torch.fx import Node

from fxopt.analysis.cost import Cost
from fxopt.errors import InputError
from fxopt.passes.partition._devices import Device, Link, Links, checked_devices
from fxopt.passes.partition._exact import GAP
from fxopt.passes.partition._factorisation import Factorisation, Search, doublings
from fxopt.passes.partition._live import live_of
from fxopt.passes.partition._pieces import Pieces, pieces_of
from fxopt.passes.partition._plan import PartitionPlan, Stage
from fxopt.passes.partition._problem import OBJECTIVES, Objective, Split, barred_pieces
from fxopt.passes.partition._schedule import Work
from fxopt.passes.partition._search import MOST_EXACT, Found, Task, search
from fxopt.passes.partition._side_by_side import Fastest, fastest
from fxopt.passes.partition._stages import stage_programs, wired_programs
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
        objective: what is minimised: the load of the slowest stage (throughput), the time of one input through all stages,
            those that do not need one another side by side (latency; with `tensor_parallel` or `replicas` one after the
            other), or the most bytes of weights that a stage holds (memory).
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
    found_links = _links(links, [d.name for d in found_devices])
    plan = _planned(program, found_devices, objective, found_links, pinned, cost, time_limit)
    if objective == "latency" and len(found_devices) > 1 and any(s.calls for s in plan.stages):
        pieces = pieces_of(program, seconds_of(program, cost, found_links.usual))
        barred = barred_pieces(pieces, found_devices, pinned or {})
        plan = _side_by_side(
            plan, Task(pieces, found_devices, found_links, barred, {}, objective), time_limit
        )
    return plan


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
    short = any(d.memory is not None for d in found_devices) and len(pieces) <= MOST_EXACT
    live = live_of(program, pieces) if short else None
    task = Task(pieces, found_devices, links, barred, {}, objective, live)
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
        try:
            found = search(task, seconds=time_limit)
        except InputError:  # of less room than there is
            break
    raise InputError(
        "no split was found whose activations fit beside the weights: " + ", ".join(map(str, plan.memory))
    )


def _side_by_side(plan: PartitionPlan, task: Task, seconds: float) -> PartitionPlan:
    """A plan whose stages run one after the other, or one whose stages run side by side where that is faster and fits.

    The bound is one for both.
    """
    assert plan.program is not None
    number = {d.name: k for k, d in enumerate(task.devices)}
    device_of = {name: number[s.device] for s in plan.stages for name in s.calls}
    first = [device_of[p.calls[0].name] for p in task.pieces.pieces]
    found = proved = fastest(task, first, seconds=seconds)
    chosen = plan
    for _ in range(_ROUNDS):
        if found.schedule.value >= plan.value * (1 - GAP):
            break
        wired, over = _wired_plan(plan, found, task.devices)
        if not over:
            chosen = wired
            break
        reserved = {n: max(b, task.reserved.get(n, 0)) for n, b in over.items()}
        task = replace(task, reserved={**task.reserved, **reserved})
        found = fastest(task, first, seconds=seconds)
    of_both = min(plan.lower_bound, proved.schedule.value) if proved.is_best else 0.0
    bound = min(max(proved.bound, of_both), chosen.value)
    if bound >= chosen.value * (1 - 1e-9):
        proof = "optimal"
    else:
        proof = plan.proof if bound == plan.lower_bound != proved.bound else "critical path"
    return replace(chosen, lower_bound=bound, proof=proof)


def _wired_plan(
    row: PartitionPlan, found: Fastest, devices: Sequence[Device]
) -> tuple[PartitionPlan, dict[str, int]]:
    """The plan, and what activations need on the devices that are too small for it.

    Stages of one device count together, as if all were under way: weights that they share are in the file of each.
    """
    assert row.program is not None
    work, schedule = found.work, found.schedule
    stage_of = {c: k for k, p in enumerate(work.pieces.pieces) for c in p.calls}
    programs, _ = wired_programs(row.program, stage_of, len(work.pieces))
    weights = [sum(w.bytes for w in work.pieces.weights if k in w.users) for k in range(len(programs))]
    sending, sends = _sent(work, schedule.device_of)
    held, live, busy = ([0.0] * len(devices) for _ in range(3))
    stages = []
    for number, (part, device) in enumerate(zip(programs, schedule.device_of, strict=True)):
        alive, seconds = _live_bytes(part), work.seconds(number, device)
        memory = weights[number] + alive
        held[device] += memory
        live[device] += alive
        busy[device] += seconds + sending[number]
        names = tuple(n.name for n in row.program.calls() if stage_of.get(n) == number)
        stages.append(
            Stage(
                work.devices[device].name,
                names,
                seconds,
                sending[number],
                memory,
                sends[number],
                weights[number],
                start=schedule.starts[number],
            )
        )
    over = {
        d.name: int(b)
        for d, b, h in zip(devices, live, held, strict=True)
        if d.memory is not None and h > d.memory
    }
    notes = _notes(work.pieces, tuple(range(len(stages))))
    return replace(row, stages=tuple(stages), bottleneck=max(busy), notes=notes, side_by_side=True), over


def _sent(work: Work, device_of: Sequence[int]) -> tuple[list[float], list[int]]:
    """By stage: seconds of sending what comes in and goes out, and bytes that go out, to other devices."""
    seconds, sends = [0.0] * len(device_of), [0] * len(device_of)
    for user, makers in enumerate(work.reads):
        for maker, size in makers.items():
            took = work.sending(size, device_of[maker], device_of[user])
            seconds[user] += took
            seconds[maker] += took
            sends[maker] += size if device_of[maker] != device_of[user] else 0
    return seconds, sends


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
    """The plan, and by how much the devices that are too small for it hold more than the search knew of."""
    problem, stage_of = found.problem, found.split.stage_of
    calls = _by_call(problem.pieces, stage_of)
    programs = stage_programs(program, calls, len(problem.devices))
    weights, known = problem.weight_bytes(stage_of), problem.held_bytes(stage_of)
    sends = [*problem.crossing_bytes(stage_of), 0]
    stages, over = [], {}
    for number, (part, (computing, sending)) in enumerate(
        zip(programs, problem.loads(stage_of), strict=True)
    ):
        device, live = problem.devices[number], _live_bytes(part)
        memory = weights[number] + live
        if device.memory is not None and memory > device.memory:
            over[device.name] = memory - known[number]
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
