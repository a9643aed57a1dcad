"""Ops that several processes run together on the shards of one program, `torch.ops.fxopt.*`.

`all_reduce` gives each of `ranks` shards the sum of what all of them hold, `all_gather` all of it, one after the other
along a dimension. They go through the communicator that stands
in `communicating`, else through `torch.distributed`'s world if that has as many processes; `side_by_side` runs
the shards in threads of one process.

>>> shards = [torch.tensor([1.0]), torch.tensor([2.0])]
>>> side_by_side([lambda x=x: torch.ops.fxopt.all_reduce(x, 2) for x in shards])
[tensor([3.]), tensor([3.])]
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch

__all__ = ["Communicator", "Processes", "all_gather", "all_reduce", "communicating", "side_by_side"]

_LIBRARY = torch.library.Library("fxopt", "FRAGMENT")
_LIBRARY.define("all_reduce(Tensor x, int ranks) -> Tensor")
_LIBRARY.define("all_gather(Tensor x, int dim, int ranks) -> Tensor")
_here = threading.local()
_Value = TypeVar("_Value")


class Communicator(Protocol):
    """How shards reach one another.

    Attributes:
        ranks: how many there are.
    """

    ranks: int

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of what the shards hold."""

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """What the shards hold, in the order of ranks along a dimension."""


class Processes:
    """The processes of a `torch.distributed` group, by its functional collectives; the whole world by default."""

    def __init__(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        self.group = torch.distributed.group.WORLD if group is None else group
        assert self.group is not None
        self.ranks = self.group.size()

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of what the processes hold."""
        from torch.distributed import _functional_collectives as functional

        assert self.group is not None
        return _waited(functional.all_reduce(tensor.contiguous(), "sum", self.group))

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """What the processes hold, in the order of ranks along a dimension."""
        from torch.distributed import _functional_collectives as functional

        assert self.group is not None
        return _waited(functional.all_gather_tensor(tensor.contiguous(), dim, self.group))


def _waited(tensor: torch.Tensor) -> torch.Tensor:
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    return tensor.wait() if isinstance(tensor, AsyncCollectiveTensor) else tensor


class _Thread:
    """One of several threads: they lay down what they hold, and each reads what all have."""

    def __init__(self, rank: int, held: list[torch.Tensor | None], barrier: threading.Barrier) -> None:
        self.rank, self.held, self.barrier = rank, held, barrier
        self.ranks = barrier.parties

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum, in the order of ranks, so that it has the same bits in each."""
        return functools.reduce(torch.add, self._all(tensor))

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """What the threads hold, in the order of ranks along a dimension."""
        return torch.cat(self._all(tensor), dim)

    def _all(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.held[self.rank] = tensor
        self.barrier.wait()
        found = [t for t in self.held if t is not None]
        self.barrier.wait()
        return found


@contextlib.contextmanager
def communicating(communicator: Communicator) -> Iterator[None]:
    """What collectives of this thread go through."""
    before = getattr(_here, "communicator", None)
    _here.communicator = communicator
    try:
        yield
    finally:
        _here.communicator = before


def side_by_side(shards: Sequence[Callable[[], _Value]]) -> list[_Value]:
    """Runs functions in a thread each; their collectives meet.

    Raises:
        Exception: the first that a function raises of its own; the others end at their next collective.
    """
    barrier = threading.Barrier(len(shards))
    held: list[torch.Tensor | None] = [None] * len(shards)

    def run(rank: int) -> _Value:
        with communicating(_Thread(rank, held, barrier)):
            try:
                return shards[rank]()
            except BaseException:
                barrier.abort()
                raise

    with ThreadPoolExecutor(len(shards)) as pool:
        futures = [pool.submit(run, rank) for rank in range(len(shards))]
    errors = [e for e in (f.exception() for f in futures) if e is not None]
    own = [e for e in errors if not isinstance(e, threading.BrokenBarrierError)]
    for error in own or errors:
        raise error
    return [f.result() for f in futures]


def _communicator(ranks: int) -> Communicator:
    found: Communicator | None = getattr(_here, "communicator", None)
    if found is None and torch.distributed.is_available() and torch.distributed.is_initialized():
        found = Processes()
    count = 1 if found is None else found.ranks
    if found is None or count != ranks:
        raise RuntimeError(
            f"this is one of {ranks} shards of a program, and {count} run here: start one process for each "
            "(torchrun --nproc-per-node N -m fxopt.distributed FOLDER)"
        )
    return found


def _all_reduce(x: torch.Tensor, ranks: int) -> torch.Tensor:
    return _communicator(ranks).all_reduce(x)


def _all_gather(x: torch.Tensor, dim: int, ranks: int) -> torch.Tensor:
    return _communicator(ranks).all_gather(x, dim)


def _gathered_like(x: torch.Tensor, dim: int, ranks: int) -> torch.Tensor:
    return x.new_empty([size * ranks if i == dim else size for i, size in enumerate(x.shape)])


def _like_x(x: torch.Tensor, ranks: int) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_LIBRARY.impl("all_reduce", _all_reduce, "CompositeExplicitAutograd")
torch.library.register_fake("fxopt::all_reduce", _like_x, lib=_LIBRARY)
_LIBRARY.impl("all_gather", _all_gather, "CompositeExplicitAutograd")
torch.library.register_fake("fxopt::all_gather", _gathered_like, lib=_LIBRARY)

all_reduce: torch._ops.OpOverload = torch.ops.fxopt.all_reduce.default
all_gather: torch._ops.OpOverload = torch.ops.fxopt.all_gather.default
