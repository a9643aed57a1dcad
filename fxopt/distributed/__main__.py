"""`torchrun --nproc-per-node N -m fxopt.distributed FOLDER --data X.npz --output Y.npz`: a data set through stages.

Each process runs one stage, or its share of one; batches follow one another through them. Several times as many
processes are replicas, which share the data. Started again it goes on from what is done.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fxopt.cli.console import progress
from fxopt.distributed.data import open_data
from fxopt.distributed.group import joined
from fxopt.distributed.job import Job, checked_output, rejected_file
from fxopt.distributed.pipeline import work
from fxopt.errors import FxoptError, InputError
from fxopt.lowering.stages.lower import open_stages
from fxopt.program.records import read_npz

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs this process's stage.

    Returns:
        The exit code: 0 done, 1 some records were set aside, 2 a mistake or a process that was lost.
    """
    parser = argparse.ArgumentParser(prog="fxopt.distributed", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help='what fxopt.lower(plan, "stages") wrote')
    parser.add_argument("--data", type=Path, required=True, metavar="X.npz", help="an array per input name")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="Y.npz", help="an array per output name"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="records that go through at a time")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="to wait for another process"
    )
    options = parser.parse_args(arguments)
    rank = os.environ.get("RANK", "0")
    try:
        # The last process knows how far it is.
        with progress(quiet=int(rank) + 1 != int(os.environ.get("WORLD_SIZE", "1"))):
            rejected = _run(options)
    except FxoptError as error:
        sys.stderr.write(f"fxopt: error: process {rank}: {error}\n")
        sys.stderr.flush()
        return 2
    if rejected:
        count, where = len(rejected), rejected_file(options.output)
        sys.stderr.write(f"fxopt: {count} records were set aside, see {where}\n")
    return 1 if rejected else 0


def _run(options: argparse.Namespace) -> dict[int, str]:
    """Returns what was set aside, in the first process."""
    if "RANK" not in os.environ:
        raise InputError("start it by torchrun: torchrun --nproc-per-node N -m fxopt.distributed FOLDER ...")
    if not options.timeout > 0 or (options.batch is not None and options.batch < 1):
        raise InputError("--timeout is seconds above 0, --batch records from 1 up")
    path = checked_output(options.output)
    staged = open_stages(options.folder, process=int(os.environ["RANK"]))
    if staged.wires is not None:
        raise InputError(
            f"the stages of {options.folder} run side by side, in one process: fxopt.load(...) runs them; processes take "
            "batches through stages in a row, which objectives other than latency plan"
        )
    # Read before anything starts: what does not fit the model ends every process in the same way.
    dataset = open_data(read_npz(options.data), staged.signature, options.batch)
    with joined(options.timeout) as group:
        if group.count % len(staged.parts):
            shared = f" that {staged.tensor_parallel} share each" if staged.tensor_parallel > 1 else ""
            raise InputError(
                f"there are {len(staged.stages)} stages{shared} and {group.count} processes: start "
                f"{'one' if not shared else staged.tensor_parallel} for each stage, {len(staged.parts)} in all, "
                "or a multiple of that for replicas"
            )
        job = Job(dataset, staged, group, path)
        work(job, staged)
        return job.finish().rejected


if __name__ == "__main__":
    sys.exit(main())
