import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fxopt.lowering import get_target, remote
from fxopt.lowering.remote import RemoteError, RemoteSubject, close_workers, worker_of
from fxopt.lowering.wire import read_frame, write_frame
from fxopt.lowering.worker import main
from tests.traced import inputs, same_bits, traced

ROOT = Path(__file__).parents[2]
SUFFIXES = {"eager": ".fxopt", "torchscript": ".pt", "onnx": ".onnx"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of each target, and workers of this module's own."""
    folder = tmp_path_factory.mktemp("files")
    for name, suffix in SUFFIXES.items():
        (folder / f"mlp{suffix}").write_bytes(get_target(name).emit(traced("mlp", True)).content)
    close_workers()
    yield folder
    close_workers()


def subject(kind: str, folder: Path) -> RemoteSubject:
    return RemoteSubject(kind, str(folder / f"mlp{SUFFIXES[kind]}"), traced("mlp", True).signature)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_file_runs_in_another_process(kind: str, folder: Path):
    tensors = inputs("mlp", True)
    expected = traced("mlp", True).run_flat(tensors)
    with subject(kind, folder) as remote_file:
        got = remote_file.run(tensors)
        if kind == "onnx":
            assert torch.allclose(got[0], expected[0], atol=1e-5)  # type: ignore[arg-type]
        else:
            assert same_bits(got, expected)
        assert remote_file.run([torch.zeros(0, 64)])[0].shape == (0, 10)  # type: ignore[attr-defined]
    assert worker_of(kind).process.pid != os.getpid()


def test_one_process_serves_many_files(folder: Path):
    tensors = inputs("mlp", True)
    with subject("torchscript", folder) as first:
        process = worker_of("torchscript").process.pid
        with subject("torchscript", folder) as second:
            assert same_bits(first.run(tensors), second.run(tensors))
        assert same_bits(first.run(tensors), first.run(tensors))
    assert worker_of("torchscript").process.pid == process


def test_a_failure_is_an_answer(folder: Path, tmp_path: Path):
    (tmp_path / "bad.pt").write_bytes(b"no TorchScript")
    with pytest.raises(RemoteError, match="Error: "):
        RemoteSubject("torchscript", str(tmp_path / "bad.pt"), traced("mlp", True).signature).open()
    process = worker_of("torchscript").process.pid
    with subject("torchscript", folder) as remote_file:
        with pytest.raises(RemoteError, match="RuntimeError: "):
            remote_file.run([torch.zeros(2, 3)])
        assert same_bits(
            remote_file.run(inputs("mlp", True)), traced("mlp", True).run_flat(inputs("mlp", True))
        )
    assert worker_of("torchscript").process.pid == process


def test_a_dead_worker_is_told_and_replaced(folder: Path):
    with subject("torchscript", folder) as remote_file:
        remote_file.open()
        worker = worker_of("torchscript")
        os.write(worker.errors.fileno(), b"free(): invalid pointer\n")
        os.kill(worker.process.pid, signal.SIGSTOP)  # dies between request and answer, not before
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(RemoteError, match=r"died \(signal 9\): free\(\): invalid pointer"):
            worker.ask({"do": "run", "file": 1}, [])
        assert same_bits(
            remote_file.run(inputs("mlp", True)), traced("mlp", True).run_flat(inputs("mlp", True))
        )
        assert worker_of("torchscript") is not worker


def test_an_interrupt_between_request_and_answer_ends_the_worker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    remote_file = subject("torchscript", folder)
    remote_file.open()
    worker = worker_of("torchscript")

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remote, "read_frame", interrupt)
        with pytest.raises(KeyboardInterrupt):
            remote_file.run(inputs("mlp", True))
    assert not worker.alive
    assert same_bits(remote_file.run(inputs("mlp", True)), traced("mlp", True).run_flat(inputs("mlp", True)))
    remote_file.close()


def test_closing_ends_the_processes(folder: Path):
    subject("torchscript", folder).open()
    process = worker_of("torchscript").process
    close_workers()
    assert process.poll() is not None


def talk(code: str, requests: list[tuple[dict[str, object], list[object]]]) -> tuple[list[object], str]:
    """A worker around `code` in a process of its own: its replies, and what it wrote to standard error."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdin, process.stdout, process.stderr:
        replies: list[object] = []
        for header, values in requests:
            write_frame(process.stdin, header, values)  # type: ignore[arg-type]
            replies.append(read_frame(process.stdout))  # type: ignore[arg-type]
        process.stdin.close()
        errors = process.stderr.read().decode()
    process.wait()
    return replies, errors


LISTING = (
    "import atexit, sys\n"
    "names = lambda: ' '.join({m.partition('.')[0] for m in sys.modules})\n"
    "atexit.register(lambda: sys.stderr.write('LOADED ' + names()))\n"
    "from fxopt.lowering.worker import main\n"
)


@pytest.mark.parametrize(
    ("kind", "absent"),
    [
        ("onnx", {"torch", "onnx", "onnxscript", "onnxsim", "sympy"}),
        ("torchscript", {"onnx", "onnxruntime", "transformers", "networkx"}),
    ],
)
def test_a_worker_imports_its_runtime_alone(kind: str, absent: set[str], folder: Path):
    from fxopt.lowering.tensors import pack

    path = str(folder / f"mlp{SUFFIXES[kind]}")
    replies, errors = talk(
        LISTING + f"main({kind!r})",
        [
            ({"do": "open", "file": 1, "path": path}, []),
            ({"do": "run", "file": 1}, [pack(t) for t in inputs("mlp", True)]),
        ],
    )
    assert [r[0] for r in replies] == [{}, {}]  # type: ignore[index]
    loaded = set(errors.rpartition("LOADED ")[2].split())
    assert "fxopt" in loaded
    assert not absent & loaded


def test_a_torchscript_worker_needs_no_more_of_fxopt_than_the_wire(folder: Path):
    code = LISTING.replace(".partition('.')[0]", "") + "main('torchscript')"
    _, errors = talk(code, [({"do": "open", "file": 1, "path": str(folder / "mlp.pt")}, [])])
    loaded = errors.rpartition("LOADED ")[2].split()
    assert {m for m in loaded if m.startswith("fxopt.")} == {
        "fxopt.draws",
        "fxopt.lowering",
        "fxopt.lowering.runners",
        "fxopt.lowering.tensors",
        "fxopt.lowering.wire",
        "fxopt.lowering.worker",
    }


def test_what_a_runtime_prints_does_not_reach_the_frames():
    code = (
        "from fxopt.lowering import runners, worker\n"
        "def noisy(kind, path, entry):\n"
        "    print('printed'); import os; os.write(1, b'written')\n"
        "    return lambda values: [len(values)]\n"
        "worker.open_run = noisy\n"
        "worker.main('eager')"
    )
    requests = [({"do": "open", "file": 1, "path": ""}, []), ({"do": "run", "file": 1}, [5, 6])]
    replies, errors = talk(code, requests)  # type: ignore[arg-type]
    assert replies == [({}, []), ({}, [2])]
    assert "printed" in errors
    assert "written" in errors


def test_a_worker_ends_when_nobody_asks_any_more():
    code = (
        "import sys; from fxopt.lowering.remote import Worker\n"
        "worker = Worker('onnx'); print(worker.process.pid, flush=True); import os; os._exit(1)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ},
        check=False,
    )
    pid = int(out.stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":  # ended, and nobody collects it in this container
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlived its owner")


def test_an_unknown_kind_is_refused():
    with pytest.raises(SystemExit, match=r"expected one of eager, onnx, .*got 'jax'"):
        main("jax")


def test_a_forked_child_has_workers_of_its_own(folder: Path):
    worker = worker_of("torchscript")
    assert worker.alive
    worker.owner += 1
    assert not worker.alive
    worker.close()
    assert worker.process.poll() is None  # the parent's
    worker.owner -= 1
