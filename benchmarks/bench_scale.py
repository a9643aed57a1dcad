"""What a model too large for one device would take on many: docs/scale.md, predicted, without any device.

    python -m benchmarks.bench_scale [--devices 8 16 ... 512] [--layers 80] [--write]

A transformer of Llama 2's 70B shape is traced on `meta` in bfloat16 and planned for devices that are all alike. Figures are
predictions by a roofline of the rates given here, which are those of a data sheet and measured on nothing.
"""

import argparse
import dataclasses
import datetime
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.llama import LLAMA_2_70B, Shape, transformer
from fxopt.frontend import trace
from fxopt.passes.partition import Device, Link, PartitionPlan, Rates, partition
from fxopt.program import Program
from fxopt.program.text import human_bytes

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
RATES = Rates(flops=5e14, bandwidth=3e12, overhead=5e-6)
"""Half of the dense bfloat16 peak of an 80 GB accelerator, and its memory's bandwidth."""
LINK = Link(bandwidth=2e11, latency=1e-5)
MEMORY = 80_000_000_000


def large(shape: Shape, length: int) -> Program:
    """One sequence through the model, on `meta`."""
    model = transformer(shape, length, device="meta", dtype=torch.bfloat16)
    return trace(model, (torch.zeros(1, length, dtype=torch.int64, device="meta"),))


def planned(program: Program, count: int, memory: int = MEMORY) -> PartitionPlan:
    """The plan for so many devices."""
    devices = [Device(f"cuda:{i}", memory=memory) for i in range(count)]
    return partition(
        program,
        devices,
        cost=RATES,
        links=LINK,
        tensor_parallel="auto",
        replicas="auto",
        time_limit=5.0,
    )


def row(count: int, plan: PartitionPlan, seconds: float) -> str:
    """A line of the table: the best way, and how many were tried in how long."""
    best = plan.tried[0]
    cells = [
        str(count),
        f"{best.tensor_parallel} x {best.stages} x {best.replicas}",
        f"{1e3 * best.bottleneck:.2f}",
        f"{1e3 * best.latency:.1f}",
        f"{best.bubble:.1%}",
        human_bytes(best.memory),
        f"{1 / best.seconds:.1f}",
        str(len(plan.tried)),
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def page(program: Program, counts: Sequence[int], memory: int = MEMORY) -> str:
    """The page."""
    rows = []
    for count in counts:
        start = time.process_time()
        plan = planned(program, count, memory)
        rows.append(row(count, plan, time.process_time() - start))
    parameters = sum(w.numel() for w in program.weights.values())
    return "\n".join(
        [
            "# Many devices",
            "",
            f"Predicted, not measured: {parameters / 1e9:.1f} billion parameters, traced on `meta`, planned by",
            "`python -m benchmarks.bench_scale --write` for devices that are alike: "
            f"{RATES.flops:.0e} operations and {RATES.bandwidth:.0e} bytes a second,",
            f"{human_bytes(memory)}, links of {LINK.bandwidth:.0e} bytes a second and {LINK.latency:.0e} s. Planning in",
            f"seconds of processor time, {datetime.datetime.now(tz=datetime.UTC).date()}, torch {torch.__version__}.",
            "",
            "| devices | tensor x stages x replicas | bottleneck, ms | latency, ms | bubble | memory a device | "
            "sequences a second | ways tried | planned in, s |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", nargs="+", type=int, default=[8, 16, 32, 64, 128, 256, 512])
    parser.add_argument("--layers", type=int, default=LLAMA_2_70B.layers)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--write", action="store_true", help="docs/scale.md")
    options = parser.parse_args()
    shape = dataclasses.replace(LLAMA_2_70B, layers=options.layers)
    text = page(large(shape, options.length), options.devices)
    print(text)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
