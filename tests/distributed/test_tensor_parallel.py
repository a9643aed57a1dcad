"""Stages whose layers several processes share, with real processes; and one of them killed."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fxopt.lowering import lower
from fxopt.passes.partition import Link, partition
from tests.distributed import processes
from tests.traced import traced

pytestmark = pytest.mark.slow
NEAR = Link(bandwidth=1e12, latency=0.0)


def folder(path: Path, sharers: int, devices: int) -> Path:
    """A small decoder over some devices."""
    names = [f"cpu:{i}" for i in range(devices)]
    plan = partition(traced("gpt2", True), names, tensor_parallel=sharers, links=NEAR, time_limit=2)
    lower(plan, "stages", path=path / "parts")
    return path / "parts"


def records(path: Path, count: int) -> torch.Tensor:
    """Ids, in a file as well."""
    program = traced("gpt2", True)
    ids = torch.randint(0, 20, (count, 12), generator=torch.Generator().manual_seed(0))
    np.savez(path / "x.npz", **{program.signature.inputs[0].name: ids.numpy()})
    return ids


@pytest.mark.parametrize(("sharers", "devices"), [(2, 2), (4, 4), (2, 4)])
def test_processes_give_what_the_program_gives(tmp_path: Path, sharers: int, devices: int) -> None:
    parts, ids = folder(tmp_path, sharers, devices), records(tmp_path, 10)
    options = ["--data", "x.npz", "--output", "y.npz", "--batch", "4"]  # batches of 4, 4 and 2
    run = processes.launch(str(parts), *options, module="fxopt.distributed", home=tmp_path, processes=devices)
    _, told = run.communicate(timeout=180)
    assert run.returncode == 0, told
    (found,) = np.load(tmp_path / "y.npz").values()
    expected = traced("gpt2", True)(ids)
    assert isinstance(expected, torch.Tensor)
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)


def test_a_killed_process_ends_the_others(tmp_path: Path) -> None:
    parts = folder(tmp_path, 2, 2)
    records(tmp_path, 20_000)
    options = ["--data", "x.npz", "--output", "y.npz", "--batch", "2", "--timeout", "20"]
    run = processes.launch(str(parts), *options, module="fxopt.distributed", home=tmp_path)
    victim = processes.worker(run.pid, rank=1)
    while not processes.has_joined(victim):
        time.sleep(0.1)
    time.sleep(1.0)
    os.kill(victim, signal.SIGKILL)
    run.communicate(timeout=60)
    assert run.returncode != 0
    assert not (tmp_path / "y.npz").exists()
    assert processes.in_session(run.pid) == []


def test_a_hung_process_ends_the_other_in_the_stated_time(tmp_path: Path) -> None:
    parts = folder(tmp_path, 2, 2)
    records(tmp_path, 20_000)
    options = ["--data", "x.npz", "--output", "y.npz", "--batch", "2", "--timeout", "4"]
    run = processes.launch(str(parts), *options, module="fxopt.distributed", home=tmp_path)
    victim, other = (processes.worker(run.pid, rank=rank) for rank in (1, 0))
    while not processes.has_joined(victim):
        time.sleep(0.1)
    time.sleep(1.0)
    os.kill(victim, signal.SIGSTOP)
    started = time.monotonic()
    while other in processes.children(run.pid):
        time.sleep(0.1)
        assert time.monotonic() - started < 20
    os.kill(victim, signal.SIGKILL)  # torchrun gives a stopped process half a minute
    _, told = run.communicate(timeout=60)
    lines = [line for line in told.splitlines() if line.startswith("fxopt: error: ")]
    assert len(lines) == 1
    assert lines[0].startswith("fxopt: error: process 0: ")
    assert "process 1 has been silent for 4 s" in lines[0] or "does not answer" in lines[0]
    assert processes.in_session(run.pid) == []


def test_another_number_of_processes_is_one_line(tmp_path: Path) -> None:
    parts = folder(tmp_path, 2, 4)
    records(tmp_path, 2)
    run = processes.launch(
        str(parts), "--data", "x.npz", "--output", "y.npz", module="fxopt.distributed", home=tmp_path
    )
    _, told = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "there are 2 stages that 2 share each and 2 processes: start 2 for each stage" in told
