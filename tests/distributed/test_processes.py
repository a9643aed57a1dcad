"""Data shared among processes: the same results, nothing lost or done twice whoever is killed, no process left behind."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import fxopt
from fxopt.passes.partition import Link
from tests.distributed.models import ids, words
from tests.distributed.processes import (
    children,
    free_port,
    has_joined,
    in_session,
    kill_session,
    launch,
    worker,
)

pytestmark = pytest.mark.slow
RECORDS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact, the data, and what one process makes of it."""
    path = tmp_path_factory.mktemp("run")
    artifact = fxopt.lower(words(), "onnx", path=path / "words.onnx", verify=False)
    for name, count in (("x", RECORDS), ("short", RECORDS // 10)):
        x = ids(count)
        np.savez(path / f"{name}.npz", ids=x.numpy())
        fxopt.run(artifact, {"ids": x}, output=path / f"{name}.expected.npz", batch=4)
    plan = fxopt.partition(words(), ["cpu:0", "cpu:1"], links=Link(bandwidth=1e12, latency=0.0))
    fxopt.lower(plan, "stages", path=path / "stages", stage_target="onnx", verify=False)
    return path


REPLICAS = ("fxopt", "run", "words.onnx")
"""A copy of the model in each process."""
STAGES = ("fxopt.distributed", "stages")
"""A stage in each process."""


def start(
    how: tuple[str, ...], folder: Path, output: Path, *options: str, data: str = "x.npz", **kwargs: object
) -> "subprocess.Popen[str]":
    module, *verb, artifact = how
    given = [str(folder / artifact), "--data", str(folder / data), "--output", str(output), "--batch", "4"]
    return launch(*verb, *given, *options, module=module, **kwargs)  # type: ignore[arg-type]


def same(output: Path, folder: Path, data: str = "x") -> bool:
    got, expected = np.load(output), np.load(folder / f"{data}.expected.npz")
    return got.files == expected.files and all(np.array_equal(got[n], expected[n]) for n in got.files)


def test_two_processes_give_what_one_gives_and_the_first_says_so(folder: Path, tmp_path: Path) -> None:
    done = start(REPLICAS, folder, tmp_path / "y.npz", home=tmp_path)
    out, told = done.communicate(timeout=120)
    assert done.returncode == 0, told
    assert same(tmp_path / "y.npz", folder)
    assert out.startswith(f"{tmp_path / 'y.npz'}: {RECORDS} records in ")
    assert out.count("\n") == 1
    assert [f.name for f in tmp_path.iterdir()] == ["y.npz"]


def test_machines_that_share_no_folder(folder: Path, tmp_path: Path) -> None:
    port, homes = free_port(), [tmp_path / "one", tmp_path / "other"]
    runs = []
    for number, home in enumerate(homes):
        home.mkdir()
        meeting = ["--nnodes", "2", "--node-rank", str(number), "--master-addr", "127.0.0.1"]
        meeting += ["--master-port", str(port)]
        runs.append(start(REPLICAS, folder, Path("y.npz"), home=home, processes=1, rendezvous=meeting))
    for run in runs:
        _, told = run.communicate(timeout=120)
        assert run.returncode == 0, told
    assert same(homes[0] / "y.npz", folder)
    assert [f.name for f in homes[0].iterdir()] == ["y.npz"]
    assert list(homes[1].iterdir()) == []


@pytest.mark.parametrize("how", [REPLICAS, STAGES])
def test_bad_records_are_set_aside_in_all_processes(
    how: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    x = ids(2000)
    bad = [3, 999, 1000, 1999]
    x[bad] = 11
    np.savez(folder / "bad.npz", ids=x.numpy())
    run = start(how, folder, tmp_path / "y.npz", data="bad.npz", home=tmp_path)
    out, told = run.communicate(timeout=120)
    assert run.returncode == 1, told
    assert "4 were set aside, see" in out or "4 records were set aside, see" in told
    assert sorted(map(int, json.loads((tmp_path / "y.rejected.json").read_text()))) == bad
    assert np.flatnonzero(np.isnan(np.load(tmp_path / "y.npz")["mean"]).any(1)).tolist() == bad


def parts(output: Path) -> dict[str, tuple[int, int]]:
    """The files of a run's parts, and what changes if one is written again."""
    folder = output.with_name(f"{output.name}.parts")
    found = {}
    for file in folder.glob("[0-9]*.safetensors"):
        with contextlib.suppress(OSError):  # the run has just ended and removed it
            status = file.stat()
            found[file.name] = (status.st_ino, status.st_mtime_ns)
    return found


def kill_one(run: "subprocess.Popen[str]", draw: random.Random, processes: int) -> None:
    """Kills one process of a run, or all as if the machine went down, at a random moment after it has begun."""
    victim = draw.choice([*range(processes), None])
    pid = worker(run.pid, rank=victim or 0)
    while run.poll() is None and not has_joined(pid):
        time.sleep(0.02)
    time.sleep(draw.uniform(0, 0.8))
    if victim is None:
        kill_session(run.pid)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kills(how: tuple[str, ...], folder: Path, output: Path, count: int, seed: int, processes: int = 2) -> int:
    """Starts and kills a run until it comes through; at least `count` times. Returns how often it was killed."""
    draw = random.Random(seed)
    # A batch costs more where it goes from process to process.
    data = "x" if how == REPLICAS else "short"
    killed = 0
    for _ in range(10 * count):
        before = parts(output)
        options = ("--timeout", "10")
        run = start(
            how, folder, output, *options, data=f"{data}.npz", home=output.parent, processes=processes
        )
        if killed < count or draw.random() < 0.5:
            kill_one(run, draw, processes)
        started = time.monotonic()
        _, told = run.communicate(timeout=90)
        assert time.monotonic() - started < 60
        assert in_session(run.pid) == []
        after = parts(output)
        assert output.exists() or before.items() <= after.items(), "a part was lost, or made again"
        if run.returncode == 0:
            assert same(output, folder, data), told
            if killed >= count:
                return killed
            output.unlink()  # it was done before it could be killed: once more
        else:
            killed += 1
    raise AssertionError("it never came through")


@pytest.mark.parametrize("how", [REPLICAS, STAGES])
def test_whoever_is_killed_nothing_is_lost_or_done_twice(
    how: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    assert kills(how, folder, tmp_path / "y.npz", 5, seed=0) >= 5


def test_a_process_that_hangs_ends_the_others_in_the_stated_time(folder: Path, tmp_path: Path) -> None:
    run = start(REPLICAS, folder, tmp_path / "y.npz", "--timeout", "3", home=tmp_path)
    pid = worker(run.pid, rank=1)
    while not has_joined(pid):
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    other = worker(run.pid, rank=0)
    while other in children(run.pid):
        time.sleep(0.1)
        assert time.monotonic() - started < 20
    os.kill(pid, signal.SIGKILL)  # torchrun gives a stopped process half a minute
    _, told = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "process 1 has been silent for 3 s" in told or "another process is gone" in told
    assert not (tmp_path / "y.npz").exists()
    assert in_session(run.pid) == []


def test_processes_that_were_given_other_data_are_told(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "import os\nimport torch\n\n\ndef calls():\n"
        "    return [torch.zeros(1, 5, dtype=torch.int64)] * (1 + int(os.environ['RANK']))\n"
    )
    given = [
        "run",
        str(folder / "words.onnx"),
        "--data",
        f"{source}:calls",
        "--output",
        str(tmp_path / "y.npz"),
    ]
    run = launch(*given, module="fxopt", home=tmp_path)
    _, told = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "was started on another run: its data differs from this one's" in told


def test_a_script_that_has_made_its_own_group(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(
        "import torch, torch.distributed as dist, fxopt\n"
        "dist.init_process_group('gloo')\n"
        "x = torch.arange(40).reshape(8, 5) % 10\n"
        f"r = fxopt.run({str(folder / 'words.onnx')!r}, {{'ids': x}}, batch=2)\n"
        "r2 = fxopt.run(fxopt.load(" + repr(str(folder / "words.onnx")) + "), [x, x[:3]])\n"
        "if dist.get_rank() == 0:\n"
        "    assert torch.equal(r.outputs['twice'], x * 2)\n"
        "    assert torch.equal(r2.outputs[1]['twice'], x[:3] * 2)\n"
        "else:\n"
        "    assert r.outputs is None\n"
        "dist.barrier()\n"
        "dist.destroy_process_group()\n"
        "print('done', flush=True)\n"
    )
    command = ["--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command],
        env={
            **os.environ,
            "PYTHONPATH": os.environ.get("PYTHONPATH", "") or str(Path(fxopt.__file__).parents[1]),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 2


def test_words_are_what_the_tests_think(folder: Path) -> None:
    expected = words()(ids(RECORDS))
    assert isinstance(expected, dict)
    got = np.load(folder / "x.expected.npz")
    torch.testing.assert_close(torch.from_numpy(got["mean"]), expected["mean"])
