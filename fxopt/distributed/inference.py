"""`run`: a data set through an artifact, on several devices and processes; each record once, results in order.

>>> import fxopt
>>> program = fxopt.trace(torch.nn.Linear(3, 2).eval(), (torch.zeros(2, 3),), dynamic_shapes=({0: "batch"},))
>>> artifact = fxopt.lower(program, "eager")
>>> results = run(artifact, {"input": torch.zeros(1000, 3)}, devices=["cpu", "cpu"])
>>> results.outputs.shape, results.rejected
(torch.Size([1000, 2]), {})
"""

import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import torch

from fxopt.distributed.data import Model, Piece, open_data
from fxopt.distributed.group import joined
from fxopt.distributed.job import Job, checked_output
from fxopt.errors import InputError
from fxopt.lowering import Artifact, open_artifact
from fxopt.lowering.elsewhere import Elsewhere
from fxopt.program import Program
from fxopt.program.devices import checked_device

__all__ = ["Results", "run"]


@dataclass(frozen=True)
class Results:
    """What came out.

    Attributes:
        outputs: in the order of the records. Of arrays the model's own containers, as of one call with all of them;
            of a list of calls a list, None for a call that was set aside. None where `output` was given, and in all
            processes but the first.
        rejected: why a record was set aside, by its number.
        count: of records.
        resumed: how many parts of it an earlier run had done.
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
    path = None if output is None else checked_output(output)
    if not timeout > 0 or (batch is not None and batch < 1):
        raise InputError("timeout is seconds above 0, batch records from 1 up")
    model = open_artifact(artifact, trust=trust) if isinstance(artifact, (str, os.PathLike)) else artifact
    places = _devices(devices)
    dataset = open_data(data, model.signature, batch)
    with joined(timeout) as group:
        if group.count > 1 and places:
            places = [places[group.local_rank % len(places)]]
        job = Job(dataset, model, group, path)
        _Replicas(_replicas(model, places), job).work()
        outcome = job.finish()
    return Results(*outcome, dataset.count, job.resumed, time.monotonic() - start)


class _Replicas:
    """The replicas of this process, a thread each; who is free takes the next shard.

    Args:
        models: what they run, one a device.
        job: whose shards they take.
    """

    def __init__(self, models: Sequence[Model], job: Job) -> None:
        self.models, self.job = models, job
        self._stop = threading.Event()

    def work(self) -> None:
        """Takes shards until there are no more."""
        if len(self.models) == 1:
            self._take_all(self.models[0])
            return
        with ThreadPoolExecutor(len(self.models)) as pool:
            futures = [pool.submit(self._take_all, model) for model in self.models]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # After a failure, or Ctrl-C, the others end with the step that they are at.
                if any(not f.done() or f.exception() is not None for f in futures):
                    self._stop.set()
        for future in futures:
            future.result()

    def _take_all(self, model: Model) -> None:
        job = self.job
        while (number := job.group.take()) < len(job.todo):
            shard = job.todo[number]
            pieces: list[Piece] = []
            for step in job.shards[shard]:
                job.group.check()
                if self._stop.is_set():
                    return
                pieces += job.dataset.run(model, *job.dataset.bounds(step))
            job.put(shard, pieces)


def _replicas(model: Artifact | Program, devices: Sequence[torch.device]) -> list[Model]:
    """The model on each device, by default on its own; threads on one device share it."""
    home = torch.device(next((s.device for s in model.signature.tensor_inputs), "cpu"))
    there = {d: model if d == home == torch.device("cpu") else Elsewhere(model, d) for d in devices or [home]}
    return [there[d] for d in devices or [home]]


def _devices(devices: Iterable[str | torch.device] | None) -> list[torch.device]:
    """The devices, which are all here.

    Raises:
        InputError: one is not.
    """
    if isinstance(devices, str):
        raise InputError(f'devices is the text {devices!r}: expected a list, such as devices=["{devices}"]')
    found = [checked_device(d) for d in devices or ()]
    if devices is not None and not found:
        raise InputError("devices is empty: name at least one, or leave it out")
    if any(d.type == "meta" for d in found):
        raise InputError("the device meta has no values: there would be nothing to write")
    return found
