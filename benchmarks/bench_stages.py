"""Throughput of two stages in two processes, beside two independent copies of the whole, one a core, in the same run.

    python benchmarks/bench_stages.py [--width 1024] [--layers 12] [--rows 256] [--batches 120] [--rounds 3]

The budget: 0.85 of the copies, with stages of 20 ms and more. Each side is two processes of one thread; seconds are
those from a barrier until both are done.
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
from fxopt.distributed.pipeline import join, run_stage
from fxopt.lowering.stages.lower import StagedArtifact, open_stages
from fxopt.passes.partition import partition


def write(folder: Path, width: int, layers: int, rows: int) -> float:
    """The stages of a chain of linear layers; returns the planned milliseconds of the slower one."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers))).eval()
    program = fxopt.trace(net, (torch.zeros(rows, width),))
    plan = partition(program, ["cpu:0", "cpu:1"])
    fxopt.lower(plan, "stages", path=folder, verify=False)
    return 1e3 * plan.bottleneck


def inputs(staged: StagedArtifact) -> list[torch.Tensor]:
    return [torch.rand([int(d) for d in s.shape]) for s in staged.signature.tensor_inputs]


def worker(kind: str, folder: str, batches: int) -> None:
    torch.set_num_threads(1)
    staged = open_stages(folder)
    rank = join(staged, 60.0)
    one = inputs(staged)
    staged.run_flat(one)
    dist.barrier()
    start = time.perf_counter()
    if kind == "pipeline":
        for _ in run_stage(staged, rank, (one for _ in range(batches))):
            pass
    else:
        for _ in range(batches // 2):
            staged.run_flat(one)
    dist.barrier()
    if rank == 0:
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
        check=True,
        capture_output=True,
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
            pipeline, copies = (seconds(kind, stages, options.batches) for kind in ("pipeline", "copies"))
            print(
                f"pipeline {options.batches / pipeline:.1f} batches a second, two copies {options.batches / copies:.1f}: "
                f"{copies / pipeline:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
