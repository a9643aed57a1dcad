"""One run in this process: its shards, what is done of them, the rest, and what becomes of all in the end."""

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from fxopt.distributed.data import DataSet, Model, Piece
from fxopt.distributed.group import Alone
from fxopt.distributed.parts import Folder, Memory, Parts, flattened, restored
from fxopt.distributed.shards import by_cost, shards
from fxopt.errors import InputError
from fxopt.lowering.stages import STAGES
from fxopt.program.records import write_npz
from fxopt.program.writing import replacing, write_file

__all__ = ["Job", "Outcome", "checked_output", "rejected_file"]

log = logging.getLogger(__name__)
_SHARDS = 256
"""Shards of a run, about: what a killed process has to do again is a few of these."""
_SPOKEN = 2.0
"""Seconds between two lines of progress."""


class Outcome(NamedTuple):
    """What came out: the outputs, or None where they were written or are another process's; what was set aside."""

    outputs: object
    rejected: dict[int, str]


class Job:
    """A run among the processes of a group.

    Args:
        dataset: what is run.
        model: on what.
        group: the processes.
        path: the `.npz` to write, if any; parts stand beside it.

    Attributes:
        shards: the steps of each.
        todo: the numbers of the shards that nobody has done, the dearest first.
        resumed: how many are done.

    Raises:
        InputError: parts of another run stand there, or the processes were started on different runs.
    """

    def __init__(self, dataset: DataSet, model: Model, group: Alone, path: Path | None) -> None:
        self.dataset, self.group, self.path = dataset, group, path
        self.shards = shards(dataset.costs, _SHARDS)
        described = {"artifact": _identity(model, group.count), "data": dataset.digest()}
        group.agree(described)
        self.parts: Parts = (
            Memory() if path is None else Folder(path.with_name(f"{path.name}.parts"), described)
        )
        done: set[int] = set().union(*group.gathered(self.parts.done()))
        self.todo = [i for i in by_cost(self.shards, dataset.costs) if i not in done]
        self.resumed = len(done)
        self._spoken = time.monotonic()
        if self.resumed and group.rank == 0:
            log.info("%d of %d parts are done already", self.resumed, len(self.shards))

    def cost(self, shard: int) -> int:
        """Of all its steps, in elements of inputs."""
        return sum(self.dataset.costs[step] for step in self.shards[shard])

    def put(self, shard: int, pieces: Sequence[Piece]) -> None:
        """Keeps a shard's results."""
        self.parts.put(shard, pieces)
        done, now = self.resumed + self.group.finish_one(), time.monotonic()
        if now - self._spoken > _SPOKEN:
            self._spoken = now
            log.info("%d of %d parts done", done, len(self.shards))

    def finish(self) -> Outcome:
        """Waits for the others, brings all parts to the first process, which writes or returns the outputs.

        Raises:
            InputError: the model took no record at all.
            ArtifactError: the outputs can't be written; the parts stay.
        """
        self.group.meet()
        self._collect()
        outcome = self._outcome() if self.group.rank == 0 else Outcome(None, {})
        self.group.meet()
        self.parts.remove()
        return outcome

    def _collect(self) -> None:
        """Sends the parts to the first process that does not see them: it may share no folder with others."""
        held = self.group.gathered(self.parts.done())
        seen = set(held[0])
        for owner, theirs in enumerate(held):
            wanted = sorted(theirs - seen)
            seen |= theirs
            if wanted and self.group.rank == owner:
                self._send(wanted)
            elif wanted and self.group.rank == 0:
                self._receive(owner)

    def _send(self, wanted: Sequence[int]) -> None:
        """All at once: a message takes its time, however small."""
        pieces = {shard: self.parts.pieces(shard) for shard in wanted}
        text, tensors = flattened([p for of_shard in pieces.values() for p in of_shard])
        lengths = {shard: len(of_shard) for shard, of_shard in pieces.items()}
        self.group.send(json.dumps([list(lengths.items()), list(tensors), text]), list(tensors.values()), 0)

    def _receive(self, owner: int) -> None:
        told, tensors = self.group.receive(owner)
        lengths, names, text = json.loads(told)
        pieces = iter(restored(text, dict(zip(names, tensors, strict=True))))
        for shard, length in lengths:
            self.parts.put(shard, list(islice(pieces, length)))

    def _outcome(self) -> Outcome:
        pieces = [piece for shard in range(len(self.shards)) for piece in self.parts.pieces(shard)]
        rejected = {i: p.reason for p in pieces if p.outputs is None for i in range(p.start, p.stop)}
        if len(rejected) == self.dataset.count:
            self.parts.remove()
            raise InputError(f"the model takes no record of the data; of the first it says: {rejected[0]}")
        if self.path is None:
            return Outcome(self.dataset.outputs(pieces), rejected)
        _write_rejected(self.path, rejected)
        with replacing(self.path) as temporary:
            write_npz(temporary, self.dataset.arrays(pieces))
        return Outcome(None, rejected)


def checked_output(output: str | os.PathLike[str]) -> Path:
    """A path that outputs can be written to.

    Raises:
        InputError: it is no `.npz`, or in no folder.
    """
    path = Path(output)
    if path.suffix != ".npz":
        raise InputError(f"output {path}: expected a name that ends in .npz")
    if not path.resolve().parent.is_dir():
        raise InputError(f"can't write {path}: the folder {path.parent} does not exist")
    return path


def rejected_file(output: str | os.PathLike[str]) -> Path:
    """Where the reasons of records that were set aside stand: `Y.rejected.json` beside `Y.npz`."""
    return Path(output).with_suffix(".rejected.json")


def _write_rejected(path: Path, rejected: dict[int, str]) -> None:
    file = rejected_file(path)
    if rejected:
        with replacing(file) as temporary:
            write_file(temporary, [json.dumps(rejected, indent=1, ensure_ascii=False).encode()])
    else:
        file.unlink(missing_ok=True)


def _identity(model: Model, processes: int) -> str:
    """What tells an artifact from another: its files' hash. One in memory is no other run's."""
    path = getattr(model, "path", None)
    if path is None or not Path(path).exists():
        return "held in memory" if processes > 1 else secrets.token_hex(8)
    place = (
        Path(path) / STAGES if (Path(path) / STAGES).is_file() else Path(path)
    )  # it has the others' hashes
    digest = hashlib.sha256()
    for file in sorted(f for f in place.rglob("*") if f.is_file()) if place.is_dir() else [place]:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
