"""`torchrun --nproc-per-node N -m fxopt.distributed FOLDER --data X.npz --output Y.npz`: a data set through stages.

Each process runs one stage; batches follow one another through them. The last process writes the outputs by name, joined
along axis 0 in the order of the records.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from fxopt.distributed.pipeline import join, run_stage
from fxopt.errors import FxoptError, InputError
from fxopt.lowering.stages.lower import StagedArtifact, open_stages
from fxopt.program.records import calls, read_npz, write_npz
from fxopt.program.writing import replacing

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs this process's stage; exit code 0 done, 2 a mistake or a process that was lost."""
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
        _run(options)
    except FxoptError as error:
        sys.stderr.write(f"fxopt: error: process {rank}: {error}\n")
        sys.stderr.flush()
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    if "RANK" not in os.environ:
        raise InputError("start it by torchrun: torchrun --nproc-per-node N -m fxopt.distributed FOLDER ...")
    if not options.timeout > 0 or (options.batch is not None and options.batch < 1):
        raise InputError("--timeout is seconds above 0, --batch records from 1 up")
    if not options.output.resolve().parent.is_dir():
        raise InputError(f"can't write {options.output}: the folder {options.output.parent} does not exist")
    staged = open_stages(options.folder)
    # Read before anything starts: what does not fit the model ends every process in the same way.
    batches = [
        staged.signature.flatten_inputs(args)
        for args in calls(read_npz(options.data), staged.signature, batch=options.batch)
    ]
    stage = join(staged, options.timeout)
    results = list(run_stage(staged, stage, batches))
    if stage == len(staged.stages) - 1:
        _write(options.output, staged, results)
    dist.barrier()  # nobody leaves while another may still read from it
    dist.destroy_process_group()


def _write(path: Path, staged: StagedArtifact, results: list[list[object]]) -> None:
    names = [s.name for s in staged.signature.computed_outputs]
    joined: dict[str, object] = {}
    for name, parts in zip(names, zip(*results, strict=True), strict=True):
        tensors = [torch.as_tensor(p) for p in parts]
        joined[name] = torch.cat(tensors) if tensors[0].dim() else torch.stack(tensors)
    with replacing(path) as temporary:
        write_npz(temporary, joined)


if __name__ == "__main__":
    sys.exit(main())
