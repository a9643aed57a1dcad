"""Stages in processes of their own: the same numbers, batches of several sizes, and no process left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import fxopt
from fxopt.distributed.__main__ import main
from fxopt.passes.partition import Link, partition
from tests.traced import traced

ROOT = Path(__file__).parents[2]
NEAR = Link(bandwidth=1e12, latency=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network in two stages."""
    path = tmp_path_factory.mktemp("stages") / "parts"
    plan = partition(traced("digits", True), ["cpu:0", "cpu:1"], links=NEAR)
    fxopt.lower(plan, "stages", path=path, verify=False)
    return path


def records(path: Path, count: int) -> torch.Tensor:
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    name = traced("digits", True).signature.tensor_inputs[0].name
    np.savez(path, **{name: x.numpy()})
    return x


def launch(folder: Path, *options: str, processes: int = 2) -> "subprocess.Popen[str]":
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command, "-m", "fxopt.distributed", str(folder), *options],
        env=environment,
        cwd=folder.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_data_set_through_two_processes_in_order(folder: Path, tmp_path: Path) -> None:
    x = records(tmp_path / "x.npz", 25)  # batches of 8, 8, 8 and 1
    options = ["--data", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz"), "--batch", "8"]
    done = launch(folder, *options)
    _, told = done.communicate(timeout=120)
    assert done.returncode == 0, told
    (output,) = np.load(tmp_path / "y.npz").values()
    expected = traced("digits", True)(x)
    assert isinstance(expected, torch.Tensor)
    assert torch.equal(torch.from_numpy(output), torch.cat([traced("digits", True)(p) for p in x.split(8)]))  # type: ignore[misc]
    assert torch.allclose(torch.from_numpy(output), expected, atol=1e-5)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_leaves_no_output(folder: Path, tmp_path: Path) -> None:
    records(tmp_path / "x.npz", 60_000)
    options = ["--data", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz"), "--batch", "4"]
    run = launch(folder, *options, "--timeout", "20")
    victim = _worker(run.pid, rank=1)
    time.sleep(1.0)
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    _, told = run.communicate(timeout=60)
    assert time.monotonic() - start < 40
    assert run.returncode != 0
    assert "process 0: the process beside this one is gone" in told or "SIGTERM" in told or "Signal 9" in told
    assert not (tmp_path / "y.npz").exists()
    assert _workers(run.pid) == []


@pytest.mark.slow
def test_another_number_of_processes_than_stages_is_one_line(folder: Path, tmp_path: Path) -> None:
    records(tmp_path / "x.npz", 4)
    options = ["--data", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz")]
    run = launch(folder, *options, processes=3)
    _, told = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "there are 2 stages and 3 processes: start one for each stage" in told


def test_without_torchrun_it_says_how_to_start_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert main([str(folder), "--data", "x.npz", "--output", "y.npz"]) == 2
    assert capsys.readouterr().err.startswith("fxopt: error: process 0: start it by torchrun")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "nowhere/y.npz"], "the folder nowhere does not exist"),
        (["--output", "y.npz", "--timeout", "0"], "--timeout is seconds above 0"),
        (["--output", "y.npz", "--batch", "0"], "--batch records from 1 up"),
        (["--output", "y.npz"], "can't read x.npz"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.chdir(tmp_path)
    assert main([str(folder), "--data", "x.npz", *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def _workers(parent: int) -> list[int]:
    """The processes that torchrun started and that are alive."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # one that ended just now
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def _worker(parent: int, *, rank: int) -> int:
    """The process of a rank, once it has begun to run its stage."""
    for _ in range(600):
        for pid in _workers(parent):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in environment and _joined(pid):
                return pid
        time.sleep(0.1)
    raise AssertionError("torchrun started no process")


def _joined(pid: int) -> bool:
    """Whether a process has talked to its neighbour: it holds several sockets."""
    return sum(1 for f in Path(f"/proc/{pid}/fd").iterdir() if "socket" in str(f.readlink())) >= 3
