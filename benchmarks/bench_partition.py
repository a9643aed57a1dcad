"""How near plans are to the best, and how long they take: the zoo, and long chains with side branches.

    python benchmarks/bench_partition.py [--models NAME ...] [--devices 2 3 4] [--time-limit 10] [--nodes 10000]

Devices have the speeds 1, 0.5, 1, 2, ...; links are fast (10 GB/s, 10 us), so that splitting pays for small models
too. The gap is to the proven lower bound.
"""

import argparse
import time

import torch

from fxopt.passes.partition import Device, Link, PartitionPlan, partition
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
    devices = [Device(f"cpu:{i}", SPEEDS[i % len(SPEEDS)]) for i in range(count)]
    start = time.perf_counter()
    plan = partition(program, devices, links=LINK, time_limit=limit)
    return plan, time.perf_counter() - start


def row(name: str, program: Program, count: int, limit: float) -> None:
    plan, seconds = planned(program, count, limit)
    calls = sum(1 for _ in program.calls())
    print(
        f"{name:16}{calls:7}{count:9}{len(plan.stages):8}{1e3 * plan.bottleneck:14.3f}"
        f"{plan.gap:10.3%}{seconds:9.1f}  {plan.proof}",
        flush=True,
    )


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
    )
    for name in options.models:
        for count in options.devices:
            row(name, traced(name, True), count, options.time_limit)
    for nodes in options.nodes:
        row(f"chain {nodes}", long_chain(nodes), max(options.devices), options.time_limit)


if __name__ == "__main__":
    main()
