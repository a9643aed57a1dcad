"""One stage of a folder in this process, between its neighbours."""

import contextlib
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from fxopt.distributed.wire import Receiver, Sender
from fxopt.errors import FxoptError, InputError
from fxopt.lowering.stages.lower import StagedArtifact

__all__ = ["NeighbourLost", "join", "run_stage"]


class NeighbourLost(FxoptError):
    """A process beside this one ended or does not answer."""


def join(staged: StagedArtifact, seconds: float) -> int:
    """Joins the processes that `torchrun` started; returns the stage of this one.

    Args:
        staged: the stages.
        seconds: how long one process waits for another before it gives up.

    Raises:
        InputError: another number of processes than stages.
    """
    dist.init_process_group("gloo", timeout=timedelta(seconds=seconds))
    count = dist.get_world_size()
    if count != len(staged.stages):
        dist.destroy_process_group()
        raise InputError(
            f"there are {len(staged.stages)} stages and {count} processes: start one for each stage"
        )
    return dist.get_rank()


def run_stage(
    staged: StagedArtifact, stage: int, batches: Iterable[list[torch.Tensor]]
) -> Iterator[list[object]]:
    """Runs this process's stage over all batches; the last one yields the results.

    While a stage computes a batch, what it made of those before is on its way.

    Args:
        staged: the stages.
        stage: this process's.
        batches: tensors of `signature.tensor_inputs`; read by the first stage alone. They may differ in size.

    Raises:
        NeighbourLost: the process before or behind this one is gone, or does not answer in time.
    """
    run = staged.stages[stage].run_flat
    behind = Sender(stage + 1) if stage + 1 < len(staged.stages) else None
    given = batches if stage == 0 else _received(Receiver(stage - 1))
    for tensors in given:
        results = run(tensors)
        if behind is None:
            yield results
        else:
            with _neighbour():
                behind.send([r for r in results if isinstance(r, torch.Tensor)])
    if behind is not None:
        with _neighbour():
            behind.end()


def _received(before: Receiver) -> Iterator[list[torch.Tensor]]:
    while True:
        with _neighbour():
            tensors = before.receive()
        if tensors is None:
            return
        yield tensors


@contextlib.contextmanager
def _neighbour() -> Iterator[None]:
    """What gloo raises of a lost neighbour, as one line."""
    try:
        yield
    except RuntimeError as error:  # gloo has no exception of its own
        first = str(error).strip().splitlines()[0]
        raise NeighbourLost(f"the process beside this one is gone or does not answer: {first}") from error
