"""How O1 scales: long chains, wide graphs, trees and shared values, each size in a process of its own.

    python benchmarks/bench_rewriting.py [--nodes 10000 20000] [--graphs tree] [--pipeline O1] [--passes]

Two chains: `quiet` has nothing to rewrite, `busy` has a rewrite at nearly every node. `wide` joins 2,000 branches at a
time, `tree` adds up many values in pairs, in `shared` each value is read by the next two. The budget: 10,000 nodes in 10
seconds, 100,000 in 60, twice the nodes in at most 2.2 times the time, 2 GB at most.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from torch.fx import Node

from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.testing import ProgramBuilder


def quiet(b: ProgramBuilder, x: Node, w: Node, c: Node) -> Node:
    """Five calls that stay."""
    x = b.call("aten.add.Tensor", b.call("aten.relu", b.call("aten.linear", x, w, c)), 1.0)
    return b.call(
        "aten.reshape", b.call("aten.permute", b.call("aten.reshape", x, [-1, 4, 2]), [0, 2, 1]), [-1, 8]
    )


def busy(b: ProgramBuilder, x: Node, w: Node, c: Node) -> Node:
    """Six calls that become two: a product and a sum, a relu too many, reshapes that undo one another."""
    x = b.call("aten.add.Tensor", b.call("aten.matmul", x, w), c)
    x = b.call("aten.relu", b.call("aten.relu", x))
    return b.call("aten.reshape", b.call("aten.reshape", x, [-1, 2, 4]), [-1, 8])


def chain(layer: Callable[[ProgramBuilder, Node, Node, Node], Node], nodes: int) -> Program:
    """A layer after the other."""
    b = ProgramBuilder()
    x, w, c = b.input((b.batch, 8)), b.weight((8, 8)), b.weight((8,))
    for _ in range(nodes // 6):
        x = layer(b, x, w, c)
    return b.finish(x)


def wide(nodes: int) -> Program:
    """Branches of two calls, joined 2,000 at a time and added up for the next."""
    b = ProgramBuilder()
    x = b.input((b.batch, 8, 1))
    branches = min(2000, nodes // 3)
    for _ in range(max(1, nodes // (2 * branches + 2))):
        parts = [b.call("aten.relu", b.call("aten.add.Tensor", x, float(i))) for i in range(branches)]
        x = b.call("aten.sum.dim_IntList", b.call("aten.cat", parts, 2), [2], True)
    return b.finish(x)


def tree(nodes: int) -> Program:
    """Leaves that differ by a number, added in pairs."""
    b = ProgramBuilder()
    x = b.input((b.batch, 8))
    values = [b.call("aten.mul.Tensor", x, i + 2.0) for i in range(nodes // 2)]
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=False)
        values = [*(b.call("aten.add.Tensor", *pair) for pair in pairs), *values[len(values) // 2 * 2 :]]
    return b.finish(values[0])


def shared(nodes: int) -> Program:
    """Each value is read by the next two; nothing is equal."""
    b = ProgramBuilder()
    x = b.input((b.batch, 8))
    before, now = x, b.call("aten.relu", x)
    for _ in range(nodes // 2):
        before, now = now, b.call("aten.sigmoid", b.call("aten.add.Tensor", now, before))
    return b.finish(now)


GRAPHS: dict[str, Callable[[int], Program]] = {
    "quiet": partial(chain, quiet),
    "busy": partial(chain, busy),
    "wide": wide,
    "tree": tree,
    "shared": shared,
}


def measure(kind: str, nodes: int, pipeline: str) -> dict[str, object]:
    manager = PassManager.parse(pipeline)
    manager.run(GRAPHS[kind](60))  # rules are prepared once a process; that is not what is measured
    program = GRAPHS[kind](nodes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    result = manager.run(program)
    seconds = time.perf_counter() - start
    passes: dict[str, float] = {}
    for report in result.passes:
        passes[report.name] = passes.get(report.name, 0.0) + report.seconds
    return {
        "nodes": len(list(program.calls())),
        "left": len(list(result.program.calls())),
        "rewrites": sum(p.rewrites for p in result.passes),
        "seconds": seconds,
        "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "passes": passes,
    }


def in_a_process(kind: str, nodes: int, pipeline: str) -> dict[str, object]:
    one = [sys.executable, __file__, "--one", kind, str(nodes), "--pipeline", pipeline]
    found = json.loads(
        subprocess.run(one, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    assert isinstance(found, dict)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[5000, 10000, 20000])
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    parser.add_argument("--pipeline", default="O1")
    parser.add_argument("--passes", action="store_true", help="the time in each pass too")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "NODES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), options.pipeline)))
        return
    columns = ("graph", "nodes", "left", "rewrites", "seconds", "us/node", "MB", "ratio")
    print("".join(f"{c:>10}" for c in columns))
    for kind in options.graphs:
        last = 0.0
        for nodes in options.nodes:
            found = in_a_process(kind, nodes, options.pipeline)
            seconds = found["seconds"]
            row = [kind, found["nodes"], found["left"], found["rewrites"], f"{seconds:.2f}"]
            row += [f"{1e6 * seconds / found['nodes']:.0f}", f"{found['megabytes']:.0f}"]
            print("".join(f"{c:>10}" for c in [*row, f"{seconds / last:.2f}" if last else ""]))
            last = seconds
            for name, spent in sorted(found["passes"].items(), key=lambda p: -p[1]) if options.passes else ():
                print(f"{'':12}{name:36}{spent:.2f} s")


if __name__ == "__main__":
    main()
