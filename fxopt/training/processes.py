"""One process or many: under `torchrun` a run shares its data among the processes, unchanged.

Every process starts from the same weights and takes the same decisions; the first one scores and writes.

>>> Processes.of(torch.device("cpu")).count
1
"""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import distributed, nn

from fxopt.errors import InputError

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, device: torch.device) -> "Processes":
        """The processes that `torchrun` started, or that the user's script has joined; else this one alone."""
        if not distributed.is_available():
            return cls()
        if not distributed.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) < 2:
                return cls()
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(_leave)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this process scores and writes."""
        return self.index == 0

    def wrapped(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with gradients averaged over the processes."""
        if self.count == 1:
            return module
        ids = [device.index] if device.type == "cuda" and device.index is not None else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)

    def decided(self, score: Callable[[], float], device: torch.device) -> float:
        """The first process's score, in all of them.

        Raises:
            InputError: it failed there, in all of them.
        """
        if self.count == 1:
            return score()
        failure: Exception | None = None
        value = torch.zeros(2, dtype=torch.float64, device=device)
        if self.leads:
            try:
                value[1] = score()
            except Exception as error:  # the others wait: they must hear of it
                failure, value[0] = error, 1.0
        distributed.broadcast(value, 0)
        if failure is not None:
            raise failure
        if value[0]:
            raise InputError("scoring failed in the first process, which says why")
        return float(value[1])

    def meet(self) -> None:
        """Waits for all."""
        if self.count > 1:
            distributed.barrier()


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
