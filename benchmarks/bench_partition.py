"""How near plans are to the best, and how long they take: the zoo, and long chains with side branches.

    python benchmarks/bench_partition.py [--models NAME ...] [--devices 2 3 4 16] [--time-limit 10] [--nodes 10000]

Devices have the speeds 1, 0.5, 1, 2, ...; links are fast (10 GB/s, 10 us), so that splitting pays for small models
too. The gap is to the proven lower bound; seconds are the processor's, the time limit is the clock's. The last columns are the
bottlenecks, by the same times, of splits into equal numbers of calls and into equal parameters (what PiPPy, from which
torch.distributed.pipelining comes, did by itself; torch 2.13 leaves the choice to the user's `split_policy`), as multiples of
the plan's. Both are over the devices as they stand; for the second figure of each the best of as few of the devices as they like
is taken, the fastest first.
"""

import argparse
import statistics
import time
from itertools import accumulate

import torch

from fxopt.passes.partition import Device, Link, PartitionPlan, partition, seconds_of
from fxopt.passes.partition._devices import Links
from fxopt.passes.partition._pieces import pieces_of
from fxopt.passes.partition._problem import Problem
from fxopt.program import Program
from fxopt.testing import ProgramBuilder
from tests.traced import traced
from tests.zoo import names

SPEEDS = (1.0, 0.5, 1.0, 2.0)
LINK = Link(bandwidth=1e10, latency=1e-5)


def long_chain(nodes: int) -> Program:
    """Linear layers with activations and residuals, a branch at every tenth call."""
    b = ProgramBuilder()
    x = b.input((b.batch, 64))
    w = b.weight((64, 64))
    kept = x
    for number in range(nodes // 4):
        x = b.call("aten.relu", b.call("aten.linear", x, w))
        x = b.call("aten.add.Tensor", b.call("aten.tanh", x), kept)
        kept = x if number % 3 == 0 else kept
    return b.finish(x)


def planned(program: Program, count: int, limit: float) -> tuple[PartitionPlan, float]:
    start = time.process_time()
    plan = partition(program, devices(count), links=LINK, time_limit=limit)
    return plan, time.process_time() - start


def equal_parts(problem: Problem, amounts: list[float]) -> float:
    """The bottleneck where each stage has about as much as the others, as many stages as there are devices."""
    share = sum(amounts) / len(problem.devices) or 1.0
    middles = [
        before + amount / 2 for before, amount in zip(accumulate([0.0, *amounts]), amounts, strict=False)
    ]
    stage_of = [min(int(m / share), len(problem.devices) - 1) for m in middles]
    return problem.value(stage_of)


def others(program: Program, count: int, plan: PartitionPlan) -> list[str]:
    """How many times the plan's bottleneck the usual splits have."""
    given = devices(count)
    pieces = pieces_of(program, seconds_of(program))
    parameters = [0.0] * len(pieces)
    for weight in pieces.weights:
        if weight.users:
            parameters[weight.users[0]] += weight.bytes
    found = []
    for amounts in ([1.0] * len(pieces), parameters):
        asked = equal_parts(Problem(pieces, given, Links(LINK)), amounts)
        fastest = sorted(given, key=lambda d: -d.speed)
        fewer = [Problem(pieces, tuple(fastest[:n]), Links(LINK)) for n in range(1, count + 1)]
        best = min(asked, *(equal_parts(problem, amounts) for problem in fewer))
        found += [f"{asked / plan.bottleneck:8.2f}", f"{best / plan.bottleneck:6.2f}"]
    return found


def devices(count: int) -> tuple[Device, ...]:
    return tuple(Device(f"cpu:{i}", SPEEDS[i % len(SPEEDS)]) for i in range(count))


def row(name: str, program: Program, count: int, limit: float) -> float:
    plan, seconds = planned(program, count, limit)
    calls = sum(1 for _ in program.calls())
    print(
        f"{name:16}{calls:7}{count:9}{len(plan.stages):8}{1e3 * plan.bottleneck:14.3f}"
        f"{plan.gap:10.3%}{seconds:9.1f} {''.join(others(program, count, plan))}  {plan.proof}",
        flush=True,
    )
    return plan.gap


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=names())
    parser.add_argument("--devices", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--time-limit", type=float, default=10.0)
    parser.add_argument("--nodes", nargs="*", type=int, default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'model':16}{'calls':>7}{'devices':>9}{'stages':>8}{'bottleneck ms':>14}{'gap':>10}{'seconds':>9}"
        f"{'calls':>9}{'fewer':>6}{'params':>8}{'fewer':>6}  proof"
    )
    gaps: dict[int, list[float]] = {count: [] for count in options.devices}
    for name in options.models:
        for count in options.devices:
            gaps[count].append(row(name, traced(name, True), count, options.time_limit))
    for count, found in gaps.items():
        if found:
            mean = statistics.geometric_mean(1 + gap for gap in found) - 1
            print(f"{count} devices: gap at most {max(found):.3%}, geometric mean {mean:.3%}")
    for nodes in options.nodes:
        row(f"chain {nodes}", long_chain(nodes), max(options.devices), options.time_limit)


if __name__ == "__main__":
    main()
