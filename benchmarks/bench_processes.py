"""Throughput of two processes, as stages and as replicas, beside two independent copies, one a core, in the same run.

    python benchmarks/bench_processes.py [--width 1024] [--layers 12] [--rows 256] [--batches 120] [--rounds 3]

The budget: 0.85 of the copies, with stages of 20 ms and more. Each side is two processes of one thread; seconds are
those from a barrier until both are done, the results brought together and all.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

import fxopt
from fxopt.distributed.data import open_data
from fxopt.distributed.group import joined
from fxopt.distributed.job import Job
from fxopt.distributed.pipeline import work
from fxopt.lowering.stages.lower import open_stages
from fxopt.passes.partition import partition


def write(folder: Path, width: int, layers: int, rows: int) -> float:
    """The stages of a chain of linear layers; returns the planned milliseconds of the slower one."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers))).eval()
    program = fxopt.trace(net, (torch.zeros(rows, width),))
    plan = partition(program, ["cpu:0", "cpu:1"])
    fxopt.lower(plan, "stages", path=folder, verify=False)
    return 1e3 * plan.bottleneck


def worker(kind: str, folder: str, batches: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    staged = open_stages(folder)
    (spec,) = staged.signature.tensor_inputs
    rows, width = map(int, spec.shape)
    data = {spec.name: torch.rand(rows * batches, width, generator=torch.Generator().manual_seed(0))}
    dataset = open_data(data, staged.signature)
    staged.run_flat(dataset.inputs(0, rows))
    dist.barrier()
    start = time.perf_counter()
    if kind == "stages":
        with joined(60.0) as group:
            job = Job(dataset, staged, group, None)
            work(job, staged)
            job.finish()
    elif kind == "replicas":
        fxopt.run(staged, data)
    else:
        for batch in range(batches // 2):
            staged.run_flat(dataset.inputs(batch * rows, (batch + 1) * rows))
    dist.barrier()
    if dist.get_rank() == 0:
        print(f"seconds {time.perf_counter() - start}")
    dist.destroy_process_group()


def seconds(kind: str, folder: Path, batches: int) -> float:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        __file__,
    ]
    done = subprocess.run(
        [*launch, "--worker", kind, str(folder), "--batches", str(batches)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--batches", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker, options.batches)
        return
    with tempfile.TemporaryDirectory() as folder:
        stages = Path(folder) / "stages"
        planned = write(stages, options.width, options.layers, options.rows)
        print(f"planned: {planned:.1f} ms a stage")
        for _ in range(options.rounds):
            took = {kind: seconds(kind, stages, options.batches) for kind in ("stages", "copies", "replicas")}
            rates = ", ".join(f"{kind} {options.batches / s:.1f}" for kind, s in took.items())
            of_copies = ", ".join(
                f"{kind} {took['copies'] / took[kind]:.2f}" for kind in ("stages", "replicas")
            )
            print(f"batches a second: {rates}; of the copies: {of_copies}", flush=True)


if __name__ == "__main__":
    main()
