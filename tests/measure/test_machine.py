"""What the machine says of itself."""

import subprocess
import sys

import torch

from fxopt.measure import Machine, machine, this_machine


def test_this_machine():
    here = this_machine()
    assert here.processor
    assert here.cores >= 1
    assert here.versions["torch"] == torch.__version__
    assert Machine.from_json(here.to_json()) == here


def test_busy():
    assert Machine("p", 2, "s", "3", load=1.5).busy
    assert not Machine("p", 2, "s", "3", load=0.5).busy


def peak(code: str) -> int:
    whole = f"{code}\nfrom fxopt.measure.machine import peak_memory; print(peak_memory())"
    return int(subprocess.run([sys.executable, "-c", whole], capture_output=True, check=True).stdout)


def test_peak_memory_is_the_most_that_the_process_had():
    before, after = peak(""), peak("x = b'1' * 50_000_000; del x")
    assert 40_000_000 < after - before < 60_000_000


def test_without_proc_getrusage_says(monkeypatch):
    class Missing:
        def __init__(self, *_: object) -> None: ...

        def read_text(self, **_: object) -> str:
            raise FileNotFoundError

    exact = machine.peak_memory()
    monkeypatch.setattr(machine, "Path", Missing)
    assert machine.peak_memory() >= 0.5 * exact
    assert machine.this_machine().processor
