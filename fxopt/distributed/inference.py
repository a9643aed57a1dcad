"""`run`: a data set through an artifact, on several devices and processes; each record once, results in order.

>>> import fxopt
>>> program = fxopt.trace(torch.nn.Linear(3, 2).eval(), (torch.zeros(2, 3),), dynamic_shapes=({0: "batch"},))
>>> artifact = fxopt.lower(program, "eager")
>>> results = run(artifact, {"input": torch.zeros(1000, 3)}, devices=["cpu", "cpu"])
>>> results.outputs.shape, results.rejected
(torch.Size([1000, 2]), {})
"""

import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fxopt.distributed.data import DataSet, Model, Piece, open_data
from fxopt.distributed.group import Alone, joined
from fxopt.distributed.parts import Folder, Memory, Parts, packed
from fxopt.distributed.shards import by_cost, shards
from fxopt.errors import InputError
from fxopt.lowering import Artifact, open_artifact
from fxopt.program import Program
from fxopt.program.records import write_npz
from fxopt.program.writing import replacing, write_file

__all__ = ["Results", "rejected_file", "run"]

log = logging.getLogger(__name__)
_SHARDS = 256
"""Shards of a run, about: what a killed process has to do again is a few of these."""
_SPOKEN = 2.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class Results:
    """What came out.

    Attributes:
        outputs: in the order of the records. Of arrays the model's own containers, as of one call with all of them;
            of a list of calls a list, None for a call that was set aside. None where `output` was given, and in all
            processes but the first.
        rejected: why a record was set aside, by its number.
        count: of records.
        resumed: how many of them an earlier run had done.
        seconds: that this run took.
    """

    outputs: object = field(repr=False)
    rejected: dict[int, str]
    count: int
    resumed: int
    seconds: float


def run(
    artifact: Artifact | Program | str | os.PathLike[str],
    data: object,
    *,
    devices: Iterable[str | torch.device] | None = None,
    output: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    timeout: float = 60.0,
    trust: bool = False,
) -> Results:
    """Runs a data set through an artifact: replicas on several devices, or in the processes that `torchrun` started.

    The data is split into shards of about the same cost; who is free takes the next. With `output` each shard's results
    go to a folder beside it (`Y.npz.parts`) as soon as they are there, and the same call goes on from what it finds
    in it, with any number of processes; nothing is lost or done twice but what was under way.

    Args:
        artifact: an artifact, its file, or a program.
        data: arrays or tensors by input name, axis 0 the records, run in batches; or a list of calls, each a tensor, a
            tuple of positional arguments, or a dict of named ones.
        devices: a replica on each, in this process; an entry may stand twice. Under `torchrun` a process takes one of
            them, in turn. By default the one device that the artifact is for.
        output: an `.npz` to write, an array per output name. Of a list of calls whose results differ in shape it holds
            `NAME.values`, one after the other, flat, and `NAME.shapes`. A record that was set aside is NaN, or 0 where
            the dtype has none, and stands with its reason in `Y.rejected.json`.
        batch: records at a time, of arrays.
        timeout: seconds after which a process that does not answer ends the others.
        trust: as in `load`.

    Raises:
        InputError: the data is empty or no data, no record at all could be run, a device is not here, the folder holds
            parts of another run.
        DataError: arrays that do not fit the model.
        ArtifactError: a file can't be read or written.
        ProcessLost: another process of the run is gone.
    """
    start = time.monotonic()
    path = None if output is None else _checked_output(output)
    if not timeout > 0 or (batch is not None and batch < 1):
        raise InputError("timeout is seconds above 0, batch records from 1 up")
    model = open_artifact(artifact, trust=trust) if isinstance(artifact, (str, os.PathLike)) else artifact
    places = _devices(devices)
    dataset = open_data(data, model.signature, batch)
    with joined(timeout) as group:
        if group.count > 1 and places:
            places = [places[group.local_rank % len(places)]]
        replicas = [_replica(model, place) for place in places] or [model]
        job = _Job(dataset, model, replicas, group, path)
        job.work()
        job.collect()
        results = job.results() if group.rank == 0 else (None, {})
        group.meet()
        job.parts.remove()
    return Results(*results, dataset.count, job.resumed, time.monotonic() - start)


def rejected_file(output: str | os.PathLike[str]) -> Path:
    """Where the reasons of records that were set aside stand: `Y.rejected.json` beside `Y.npz`."""
    return Path(output).with_suffix(".rejected.json")


class _Job:
    """One run in this process: its shards, what is done of them, and the rest."""

    def __init__(
        self, dataset: DataSet, model: Model, replicas: Sequence[Model], group: Alone, path: Path | None
    ) -> None:
        self.dataset, self.model, self.replicas, self.group, self.path = dataset, model, replicas, group, path
        self.shards = shards(dataset.costs, _SHARDS)
        described = {"artifact": _identity(model, group.count), "data": dataset.digest()}
        group.agree(described)
        self.parts: Parts = (
            Memory() if path is None else Folder(path.with_name(f"{path.name}.parts"), described)
        )
        done = set().union(*group.union(self.parts.done()))
        self.todo = [i for i in by_cost(self.shards, dataset.costs) if i not in done]
        self.resumed = len(self.shards) - len(self.todo)
        self._stop = threading.Event()
        self._spoken = time.monotonic()

    def work(self) -> None:
        """Takes shards until there are no more."""
        if self.resumed:
            log.info("%d of %d parts are done already", self.resumed, len(self.shards))
        if len(self.replicas) == 1:
            self._take_all(self.replicas[0])
        else:
            self._in_threads()
        self.group.meet()

    def _in_threads(self) -> None:
        with ThreadPoolExecutor(len(self.replicas)) as pool:
            try:
                futures = [pool.submit(self._take_all, replica) for replica in self.replicas]
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # After a failure, or Ctrl-C, the others end with the step that they are at.
                if any(not f.done() or f.exception() is not None for f in futures):
                    self._stop.set()
        for future in futures:
            future.result()

    def _take_all(self, model: Model) -> None:
        while (number := self.group.take()) < len(self.todo):
            shard = self.todo[number]
            pieces: list[Piece] = []
            for step in self.shards[shard]:
                self.group.check()
                if self._stop.is_set():
                    return
                pieces += self.dataset.run(model, step)
            self.parts.put(shard, packed(pieces))
            self._tell(self.resumed + self.group.finish_one())

    def _tell(self, done: int) -> None:
        now = time.monotonic()
        if self.group.rank == 0 and now - self._spoken > _SPOKEN:
            self._spoken = now
            log.info("%d of %d parts done", done, len(self.shards))

    def collect(self) -> None:
        """Brings all parts to the first process, from those that share no folder with it."""
        held = self.group.union(self.parts.done())
        for shard in range(len(self.shards)):
            if shard in held[0]:
                continue
            owner = next(rank for rank, theirs in enumerate(held) if shard in theirs)
            if self.group.rank == owner:
                self.group.send(self.parts.content(shard), 0)
            elif self.group.rank == 0:
                self.parts.put(shard, self.group.receive(owner))

    def results(self) -> tuple[object, dict[int, str]]:
        """The outputs in order, or None if they were written; and what was set aside."""
        pieces = [piece for shard in range(len(self.shards)) for piece in self.parts.pieces(shard)]
        rejected = {i: p.reason for p in pieces if p.outputs is None for i in range(p.start, p.stop)}
        if len(rejected) == self.dataset.count:
            self.parts.remove()
            raise InputError(f"the model takes no record of the data; of the first it says: {rejected[0]}")
        signature = self.model.signature
        if self.path is None:
            return self.dataset.outputs(pieces, signature), rejected
        _write_rejected(self.path, rejected)
        with replacing(self.path) as temporary:
            write_npz(temporary, self.dataset.arrays(pieces, signature))
        return None, rejected


def _write_rejected(path: Path, rejected: dict[int, str]) -> None:
    file = rejected_file(path)
    if rejected:
        with replacing(file) as temporary:
            write_file(temporary, [json.dumps(rejected, indent=1, ensure_ascii=False).encode()])
    else:
        file.unlink(missing_ok=True)


def _checked_output(output: str | os.PathLike[str]) -> Path:
    path = Path(output)
    if path.suffix != ".npz":
        raise InputError(f"output {path}: expected a name that ends in .npz")
    if not path.resolve().parent.is_dir():
        raise InputError(f"can't write {path}: the folder {path.parent} does not exist")
    return path


def _identity(model: Model, processes: int) -> str:
    """What tells an artifact from another: its file's hash. One in memory is no other run's."""
    path = getattr(model, "path", None)
    if path is None or not Path(path).exists():
        return "held in memory" if processes > 1 else secrets.token_hex(8)
    digest = hashlib.sha256()
    files: list[Path] = (
        sorted(f for f in Path(path).rglob("*") if f.is_file()) if Path(path).is_dir() else [Path(path)]
    )
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _devices(devices: Iterable[str | torch.device] | None) -> list[torch.device]:
    """The devices, which are all here.

    Raises:
        InputError: one is not.
    """
    if isinstance(devices, str):
        raise InputError(f'devices is the text {devices!r}: expected a list, such as devices=["{devices}"]')
    found = []
    for device in devices or ():
        try:
            found.append(torch.device(device))
            torch.empty(0, device=found[-1])
        except (RuntimeError, AssertionError, TypeError) as error:
            raise InputError(
                f"the device {str(device)!r} is not here: {str(error).splitlines()[0]}"
            ) from error
    if devices is not None and not found:
        raise InputError("devices is empty: name at least one, or leave it out")
    return found


def _replica(model: Model, device: torch.device) -> Model:
    """The model on a device."""
    if device.type != "cpu":
        raise InputError(f"artifacts run on the CPU so far, not on {device}")
    return model
