"""The processes of a run: who takes which shard, who is still there, and results on their way to the first.

A shard is taken by counting up one number in the store that `torchrun` keeps: who is free takes the next. Each process
says every second that it is alive, and watches the one before it; one that is silent too long ends all.
"""

import contextlib
import itertools
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.distributed_c10d import _get_default_store

from fxopt.distributed.wire import Receiver, Sender
from fxopt.errors import FxoptError, InputError

__all__ = ["Alone", "Group", "ProcessLost", "joined", "neighbours"]

_PULSE = 1.0
"""Seconds between two signs of life."""
_serial = itertools.count()
_Value = TypeVar("_Value")


class ProcessLost(FxoptError):
    """Another process of the run ended or does not answer."""


class Alone:
    """This process and no other."""

    rank, count, local_rank = 0, 1, 0

    def __init__(self) -> None:
        self._next = itertools.count()
        self._finished = itertools.count(1)

    def agree(self, what: dict[str, str]) -> None:
        """All processes mean the same run."""

    def gathered(self, mine: _Value) -> list[_Value]:
        """What each process holds, by rank."""
        return [mine]

    def take(self) -> int:
        """The next number: 0, 1, 2, ... each goes to one process."""
        return next(self._next)

    def finish_one(self) -> int:
        """Counts a shard as done; returns how many are."""
        return next(self._finished)

    def check(self) -> None:
        """Whether all are still there."""

    def meet(self) -> None:
        """Waits until all have come here."""

    def some(self, ranks: Sequence[int]) -> dist.ProcessGroup:
        """A group of some of the processes, for collectives."""
        raise AssertionError("there is no other")

    def send(self, text: str, tensors: Sequence[torch.Tensor], rank: int) -> None:
        """Sends a text and tensors to another process."""
        raise AssertionError("there is no other")

    def receive(self, rank: int) -> tuple[str, list[torch.Tensor]]:
        """Receives what another process sends."""
        raise AssertionError("there is no other")


class Group(Alone):
    """The processes that `torchrun` started.

    Args:
        seconds: how long one may be silent.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._own = not dist.is_initialized()
        wait = timedelta(seconds=seconds)
        if self._own:
            dist.init_process_group("gloo", timeout=wait)
        self._group = dist.group.WORLD if self._own else dist.new_group(backend="gloo", timeout=wait)
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", str(self.rank)))
        self._store = PrefixStore(f"fxopt.run/{next(_serial)}", _get_default_store())
        self._lost = ""
        self._ended = threading.Event()
        self._pulse = threading.Thread(target=self._watch, args=(self._store.clone(),), daemon=True)  # type: ignore[attr-defined]  # its stub lacks it
        self._pulse.start()

    def _watch(self, store: Store) -> None:
        """Says that this process is alive, and notes if another is not."""
        before = (self.rank - 1) % self.count
        heard, last = time.monotonic(), -1
        try:
            while not self._ended.wait(_PULSE):
                store.add(f"alive/{self.rank}", 1)
                beat = store.add(f"alive/{before}", 0)
                if beat != last:
                    heard, last = time.monotonic(), beat
                elif time.monotonic() - heard > self.seconds:
                    store.set("lost", f"process {before} has been silent for {self.seconds:g} s")
                if store.check(["lost"]):
                    self._lost = store.get("lost").decode()
                    return
        except RuntimeError as error:  # the store has gone with the process that kept it
            if not self._ended.is_set():
                self._lost = f"the process that keeps the run together is gone: {_first_line(error)}"

    def check(self) -> None:
        """Whether all are still there.

        Raises:
            ProcessLost: one is not.
        """
        if self._lost:
            raise ProcessLost(self._lost)

    def agree(self, what: dict[str, str]) -> None:
        """All processes mean the same run.

        Raises:
            InputError: one was given other data, another artifact or other options.
        """
        for rank, theirs in enumerate(self.gathered(what)):
            differs = next((k for k, v in what.items() if theirs.get(k) != v), None)
            if differs is not None:
                raise InputError(
                    f"process {rank} was started on another run: its {differs} differs from this one's"
                )

    def gathered(self, mine: _Value) -> list[_Value]:
        """What each process holds, by rank."""
        found: list[_Value] = [mine] * self.count
        with neighbours():
            dist.all_gather_object(found, mine, group=self._group)
        return found

    def take(self) -> int:
        """The next number: 0, 1, 2, ... each goes to one process."""
        with neighbours():
            return int(self._store.add("next", 1)) - 1

    def finish_one(self) -> int:
        """Counts a shard as done; returns how many are, in all processes."""
        with neighbours():
            return int(self._store.add("finished", 1))

    def meet(self) -> None:
        """Waits until all have come here, however long their work takes, as long as they are alive.

        Raises:
            ProcessLost: one is not.
        """
        with neighbours():
            arrived = self._store.add("met", 1)
            goal = -(-arrived // self.count) * self.count
            while int(self._store.add("met", 0)) < goal:
                self.check()
                time.sleep(0.02)

    def some(self, ranks: Sequence[int]) -> dist.ProcessGroup:
        """A group of some of the processes, for collectives; all processes have to ask for it."""
        wait = timedelta(seconds=self.seconds)
        found: dist.ProcessGroup = dist.new_group(list(ranks), backend="gloo", timeout=wait)
        return found

    def send(self, text: str, tensors: Sequence[torch.Tensor], rank: int) -> None:
        """Sends a text and tensors to another process."""
        sender = Sender(rank, self._group)
        with neighbours():
            sender.send_text(text)
            sender.send(tensors)
            sender.wait()

    def receive(self, rank: int) -> tuple[str, list[torch.Tensor]]:
        """Receives what another process sends."""
        receiver = Receiver(rank, self._group)
        with neighbours():
            text, tensors = receiver.receive(), receiver.receive()
        assert isinstance(text, str)
        assert isinstance(tensors, list)
        return text, tensors

    def leave(self, *, together: bool) -> None:
        """Ends the watch, and the group if it was made here; `together`, not before the others have read the store."""
        if together:
            with neighbours():
                dist.barrier(self._group)
        self._ended.set()
        self._pulse.join()
        if self._own:
            dist.destroy_process_group()


@contextlib.contextmanager
def joined(seconds: float) -> Iterator[Alone]:
    """The processes of this run: those of `torchrun`, or of the group that the script has made, or this one alone.

    Args:
        seconds: how long one may be silent before the others end.
    """
    several = dist.is_available() and (dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1)
    if not several:
        yield Alone()
        return
    with neighbours():
        group = Group(seconds)
    try:
        yield group
    except BaseException:
        group.leave(together=False)
        raise
    group.leave(together=True)


@contextlib.contextmanager
def neighbours() -> Iterator[None]:
    """What gloo and the store raise of a lost process, as one line.

    Raises:
        ProcessLost: for a RuntimeError inside.
    """
    try:
        yield
    except RuntimeError as error:  # they have no exception of their own
        raise ProcessLost(f"another process is gone or does not answer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """What is said, without gloo's place in its source and its advice."""
    line = str(error).strip().splitlines()[0]
    return re.sub(r"^\[\S+:\d+\] ", "", line).partition(" This is typically caused by")[0]
