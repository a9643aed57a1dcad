"""Processes that torchrun starts, looked at and killed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(
    *arguments: str,
    module: str,
    home: Path,
    processes: int = 2,
    rendezvous: Sequence[str] = ("--standalone",),
) -> "subprocess.Popen[str]":
    """A module under torchrun, with `home` as the working folder, in a session of its own."""
    command = ["-m", "torch.distributed.run", *rendezvous, "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *command, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


_PARENT, _SESSION = 1, 3
"""Fields of /proc/PID/stat behind the command."""


def children(parent: int) -> list[int]:
    """The processes that a process started and that are alive."""
    return _alive(_PARENT, parent)


def in_session(session: int) -> list[int]:
    """The processes of a session that are alive: those a killed parent has left behind too."""
    return _alive(_SESSION, session)


def _alive(field: int, value: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # one that ended just now
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[field]) == value and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def worker(parent: int, *, rank: int) -> int:
    """The process of a rank, as soon as it is there."""
    for _ in range(600):
        for pid in children(parent):
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if f"RANK={rank}".encode() in environment:
                    return pid
        time.sleep(0.1)
    raise AssertionError("torchrun started no process")


def has_joined(pid: int) -> bool:
    """Whether a process has talked to its neighbour: it holds several sockets."""
    with contextlib.suppress(OSError):
        return sum(1 for f in Path(f"/proc/{pid}/fd").iterdir() if "socket" in str(f.readlink())) >= 3
    return False


def kill_session(session: int) -> None:
    """Kills all of it, as a machine that goes down does."""
    for pid in in_session(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
