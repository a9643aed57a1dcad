"""Stages in a process each: batches follow one another through them, and the last process keeps what comes out.

Where several devices share the layers of a stage each is a process, which sends what it has to its like in the next. Of
more processes than parts each so many are a replica of all stages, which runs its share of the data.

What a stage does not take goes on through the others as a text, so that all stay in step; the batch's records are then
tried one by one.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fxopt.distributed.data import DataSet, Piece
from fxopt.distributed.group import neighbours
from fxopt.distributed.job import Job
from fxopt.distributed.shards import among
from fxopt.distributed.wire import Receiver, Sender
from fxopt.errors import InputError
from fxopt.lowering import Artifact
from fxopt.lowering.stages.lower import StagedArtifact
from fxopt.ops.collectives import Processes, communicating

__all__ = ["work"]

_Span = tuple[int, int]
"""The first record of a batch, and the one behind its last."""
_Batch = list[torch.Tensor] | str
"""What goes from stage to stage: tensors, or why there are none."""


def work(job: Job, staged: StagedArtifact) -> None:
    """Runs this process's stage over all that is to do; the last process keeps the parts.

    Args:
        job: of as many processes as there are parts, or several times as many.
        staged: the stages.

    Raises:
        ProcessLost: the process before or behind this one is gone, or does not answer in time.
    """
    place = _Place.of(job, staged)
    mine = among({shard: job.cost(shard) for shard in job.todo}, place.replicas)[place.replica]
    shard_of = {job.dataset.bounds(step): shard for shard in mine for step in job.shards[shard]}
    kept = _Kept(job, shard_of)
    for span, outcome in _outcomes(job, staged, place, list(shard_of)):
        kept.take(span, outcome)
    failed = job.group.gathered(kept.failed)[place.last]
    singles = [(i, i + 1) for start, stop in sorted(failed) for i in range(start, stop)]
    shard_of |= {(i, i + 1): shard_of[span] for span in failed for i in range(*span)}
    for span, outcome in _outcomes(job, staged, place, singles):
        kept.take(span, outcome)


@dataclass(frozen=True)
class _Place:
    """Where this process stands.

    Attributes:
        rank: its number.
        part: which of the parts it runs.
        parts: how many there are.
        replica: which copy of all parts it belongs to.
        replicas: how many there are.
        width: how many share a stage.
    """

    rank: int
    part: int
    parts: int
    replica: int
    replicas: int
    width: int

    @classmethod
    def of(cls, job: Job, staged: StagedArtifact) -> "_Place":
        rank, parts = job.group.rank, len(staged.parts)
        return cls(rank, rank % parts, parts, rank // parts, job.group.count // parts, staged.tensor_parallel)

    @property
    def last(self) -> int:
        """The process of the replica at which results come out."""
        return (self.replica + 1) * self.parts - 1

    @property
    def before(self) -> int | None:
        """The process that this one's inputs come from, if not from the data."""
        return None if self.part < self.width else self.rank - self.width

    @property
    def behind(self) -> int | None:
        """The process that takes what this one makes."""
        return None if self.part + self.width >= self.parts else self.rank + self.width


class _Kept:
    """What came out of the last stage; a shard is put away as soon as it is whole."""

    def __init__(self, job: Job, shard_of: dict[_Span, int]) -> None:
        self.job, self.shard_of = job, shard_of
        self.failed: list[_Span] = []
        self.pieces: dict[int, list[Piece]] = defaultdict(list)
        self.missing: Counter[int] = Counter()
        for (start, stop), shard in shard_of.items():
            self.missing[shard] += stop - start

    def take(self, span: _Span, outcome: Sequence[object] | str) -> None:
        """The results of some records, or why there are none."""
        start, stop = span
        if isinstance(outcome, str) and stop - start > 1:
            self.failed.append(span)
            return
        shard = self.shard_of[span]
        piece = (
            Piece(start, stop, None, outcome)
            if isinstance(outcome, str)
            else Piece(start, stop, self.job.dataset.kept(outcome, start, stop))
        )
        self.pieces[shard].append(piece)
        self.missing[shard] -= stop - start
        if not self.missing[shard]:
            self.job.put(shard, sorted(self.pieces.pop(shard), key=lambda p: p.start))


def _outcomes(
    job: Job, staged: StagedArtifact, place: _Place, spans: list[_Span]
) -> Iterator[tuple[_Span, Sequence[object] | str]]:
    """Runs this process's part over some batches; the last process yields what comes out, the others nothing.

    While a stage computes a batch, what it made of those before is on its way.
    """
    given = _inputs(job.dataset, spans) if place.before is None else _received(Receiver(place.before))
    behind = None if place.behind is None else Sender(place.behind)
    with _sharing(job, place.width):
        for span, batch in zip(spans, given, strict=True):
            outcome = batch if isinstance(batch, str) else _attempt(staged.parts[place.part], batch)
            job.group.check()
            if place.rank == place.last:
                yield span, outcome
            elif behind is not None:
                _send(behind, outcome)
    if behind is not None:
        with neighbours():
            behind.end()


def _send(behind: Sender, outcome: list[object] | str) -> None:
    with neighbours():
        if isinstance(outcome, str):
            behind.send_text(outcome)
        else:
            behind.send([r for r in outcome if isinstance(r, torch.Tensor)])


class _Sharers(Processes):
    """The processes that share a stage."""

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of what they hold.

        Raises:
            ProcessLost: one of them is gone.
        """
        with neighbours():
            return super().all_reduce(tensor)

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """What they hold, one after the other.

        Raises:
            ProcessLost: one of them is gone.
        """
        with neighbours():
            return super().all_gather(tensor, dim)


@contextlib.contextmanager
def _sharing(job: Job, width: int) -> Iterator[None]:
    """Collectives go among the processes of a stage."""
    if width == 1:
        yield
        return
    with neighbours():  # every process takes part in the making of every group
        groups = [job.group.some(range(i, i + width)) for i in range(0, job.group.count, width)]
    with communicating(_Sharers(groups[job.group.rank // width])):
        yield


def _attempt(part: Artifact, batch: list[torch.Tensor]) -> list[object] | str:
    try:
        return part.attempt(batch)
    except InputError as error:
        return str(error)


def _inputs(dataset: DataSet, spans: Iterable[_Span]) -> Iterator[_Batch]:
    for span in spans:
        try:
            yield dataset.inputs(*span)
        except InputError as error:
            yield str(error)


def _received(before: Receiver) -> Iterator[_Batch]:
    while True:
        with neighbours():
            batch = before.receive()
        if batch is None:
            return
        yield batch
