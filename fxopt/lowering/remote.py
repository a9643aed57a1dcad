"""Running a file in a fresh process, seen from here.

One worker a kind is started at its first use and kept: a file costs milliseconds, not the seconds of an
import. A worker that dies (a runtime can abort the process) is a failure of the file it was running, told
with the end of what it printed; the next request starts another.
"""

import atexit
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO

import torch

from fxopt.errors import ArtifactError
from fxopt.lowering.tensors import pack, unpack_value
from fxopt.lowering.wire import Header, Value, read_frame, write_frame
from fxopt.program.signature import Signature

__all__ = ["RemoteError", "RemoteSubject", "Worker", "close_workers", "worker_of"]

_TAIL = 2000


class RemoteError(ArtifactError):
    """The runtime refused a file or failed while running it."""


class Worker:
    """A process that runs files of one kind, and the pipes to it."""

    def __init__(self, kind: str, *, module: str = "fxopt.lowering.worker", threads: int = 1) -> None:
        """Starts it.

        Args:
            kind: what the module gets as its argument.
            module: what the process runs: one that serves frames.
            threads: how many the runtimes' thread pools may have.
        """
        self.kind = kind
        self.owner = os.getpid()
        self.errors: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        # -P: a user's `onnx.py` in the current folder is not what the worker means by onnx. A session of its
        # own: Ctrl-C reaches this process, which closes the worker in order.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
        )
        self.files = 0

    @property
    def alive(self) -> bool:
        """Whether it can take a request (a forked child must not speak through its parent's pipes)."""
        return self.process.poll() is None and self.owner == os.getpid()

    def ask(self, header: Header, values: Sequence[Value] = ()) -> list[Value]:
        """Sends a request and waits for the values of the answer.

        Raises:
            RemoteError: the runtime raised, or the process died.
        """
        return self.request(header, values)[1]

    def request(self, header: Header, values: Sequence[Value] = ()) -> tuple[Header, list[Value]]:
        """Sends a request and waits for the answer, header and values.

        Raises:
            RemoteError: the runtime raised, or the process died.
        """
        requests, replies = self.process.stdin, self.process.stdout
        assert requests is not None
        assert replies is not None
        answered = False
        try:
            write_frame(requests, header, values)  # type: ignore[arg-type]  # Popen types its pipes more loosely
            reply, results = read_frame(replies)  # type: ignore[arg-type]
            answered = True
        except (OSError, EOFError) as error:
            raise RemoteError(self._epitaph()) from error
        finally:
            if not answered:  # dead, or interrupted between request and answer: the pipes are out of step
                self.close()
        if "error" in reply:
            raise RemoteError(f"{reply['type']}: {reply['error']}")
        return reply, results

    def _epitaph(self) -> str:
        """How the process ended, and the last of what it printed."""
        _close(self.process.stdin)
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        end = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.errors.seek(0)
        tail = self.errors.read()[-_TAIL:].decode(errors="replace").strip()
        return f"the process that ran it died ({end})" + (f": {tail}" if tail else "")

    def close(self) -> None:
        """Ends the process."""
        if self.owner != os.getpid():
            return
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            _close(stream)


def _close(stream: IO[bytes] | None) -> None:
    """Closes a pipe; a request that never went out may still be in its buffer."""
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()


_WORKERS: dict[str, Worker] = {}


def worker_of(kind: str) -> Worker:
    """The kind's worker, started if there is none alive."""
    worker = _WORKERS.get(kind)
    if worker is None or not worker.alive:
        if worker is not None:
            worker.close()
        worker = _WORKERS[kind] = Worker(kind)
    return worker


@atexit.register
def close_workers() -> None:
    """Ends all workers; the next file starts anew."""
    while _WORKERS:
        _WORKERS.popitem()[1].close()


class RemoteSubject:
    """A file as something to verify: its signature, and its results as a fresh process computes them.

    A context manager, which closes the file in the worker.
    """

    def __init__(self, kind: str, path: str, signature: Signature, entry: str = "") -> None:
        self.kind, self.path, self.signature = kind, os.path.abspath(path), signature
        self.entry = entry
        self._worker: Worker | None = None
        self._file = -1

    def open(self) -> None:
        """Opens the file in the worker, anew if the worker was replaced.

        Raises:
            RemoteError: the runtime refuses it.
        """
        worker = worker_of(self.kind)
        if worker is self._worker:
            return
        worker.files += 1
        worker.ask({"do": "open", "file": worker.files, "path": self.path, "entry": self.entry})
        self._worker, self._file = worker, worker.files

    def run(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs the file on the tensors of `signature.tensor_inputs`.

        Raises:
            RemoteError: the runtime raised or the process died.
        """
        self.open()
        assert self._worker is not None
        results = self._worker.ask({"do": "run", "file": self._file}, [pack(t) for t in tensors])
        return [unpack_value(v) for v in results]

    def close(self) -> None:
        """Forgets the file in the worker."""
        worker, self._worker = self._worker, None
        if worker is not None and worker.alive:
            worker.ask({"do": "close", "file": self._file})

    def __enter__(self) -> "RemoteSubject":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):
            self.close()
