"""Stages in processes of their own: the same numbers, batches of several sizes, and no process left behind."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import fxopt
from fxopt.distributed.__main__ import main
from fxopt.passes.partition import Link, partition
from tests.distributed import processes as processes_of
from tests.traced import traced

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
    return processes_of.launch(
        str(folder), *options, module="fxopt.distributed", home=folder.parent, processes=processes
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
    victim = _joined_worker(run.pid, rank=1)
    time.sleep(1.0)
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    _, told = run.communicate(timeout=60)
    assert time.monotonic() - start < 40
    assert run.returncode != 0
    assert "process 0: another process is gone" in told or "SIGTERM" in told or "Signal 9" in told
    assert not (tmp_path / "y.npz").exists()
    assert processes_of.in_session(run.pid) == []


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


def _joined_worker(parent: int, *, rank: int) -> int:
    """The process of a rank, once it has begun to run its stage."""
    pid = processes_of.worker(parent, rank=rank)
    for _ in range(600):
        if processes_of.has_joined(pid):
            return pid
        time.sleep(0.1)
    raise AssertionError("the process joined no other")
