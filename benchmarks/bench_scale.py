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
from fxopt.passes.partition._factorisation import Factorisation
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


def row(count: int, aim: str, way: Factorisation) -> str:
    """A line of the table."""
    cells = [
        str(count),
        aim,
        f"{way.tensor_parallel} x {way.stages} x {way.replicas}",
        f"{1e3 * way.bottleneck:.2f}",
        f"{1e3 * way.latency:.1f}",
        f"{way.bubble:.1%}",
        human_bytes(way.memory),
        f"{1 / way.seconds:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


_TEXT = """# Many devices

What `fxopt.partition(..., tensor_parallel="auto", replicas="auto")` finds for a model too large for one device. Predicted,
not measured: Llama 2's 70B shape ({parameters:.1f} billion parameters, bfloat16) on a sequence of {length} words, traced on
`meta`; devices that are alike, of {flops:.0e} operations and {bandwidth:.0e} bytes a second and {memory}, links of
{link:.0e} bytes a second and {latency:.0e} s. The rates are those of a data sheet.

A way is devices that share a layer x stages x replicas; bottleneck and latency are in ms, the bubble is that of 32 batches.
For each number of devices the way that does the most sequences a second, and the one of the least latency.

| devices | aim | way | bottleneck | latency | bubble | memory a device | sequences a second |
|---|---|---|---|---|---|---|---|
{rows}

{fewest} to {most} ways are tried, in {least:.0f} to {longest:.0f} seconds of processor time for each number of devices
(`python -m benchmarks.bench_scale --write`, {date}, torch {torch}, one core, other work beside it).

Replicas of as few devices as the weights fit into do the most: what is not sent costs nothing. Latency falls with the
devices that share each layer, as long as the sums that they send take less time than what each saves. Key and value heads
limit it too: where there are more sharers than those, attention stays whole.
"""


def page(program: Program, counts: Sequence[int], memory: int = MEMORY) -> str:
    """The page."""
    rows, took, tried = [], [], []
    for count in counts:
        start = time.process_time()
        plan = planned(program, count, memory)
        took.append(time.process_time() - start)
        tried.append(len(plan.tried))
        rows.append(row(count, "sequences", plan.tried[0]))
        rows.append(row(count, "latency", min(plan.tried, key=lambda way: (way.latency, way.seconds))))
    (ids,) = program.signature.tensor_inputs
    return _TEXT.format(
        parameters=sum(w.numel() for w in program.weights.values()) / 1e9,
        length=ids.shape[1],
        flops=RATES.flops,
        bandwidth=RATES.bandwidth,
        memory=human_bytes(memory),
        link=LINK.bandwidth,
        latency=LINK.latency,
        rows="\n".join(rows),
        fewest=min(tried),
        most=max(tried),
        least=min(took),
        longest=max(took),
        date=datetime.datetime.now(tz=datetime.UTC).date(),
        torch=torch.__version__,
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
