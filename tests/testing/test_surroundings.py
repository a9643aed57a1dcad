"""check_pass in a script of the user's: what it leaves in the folder, and what it shows."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from rich.console import Console

import fxopt
from fxopt.passes.eliminate.eliminate_dead_code import EliminateDeadCode
from fxopt.testing import check_pass
from fxopt.testing.surroundings import storage

ROOT = Path(fxopt.__file__).parents[1]
SCRIPT = """
import torch
import fxopt

@fxopt.register_pass
class ForgetRelu(fxopt.RewritePass):
    "relu(x) -> x"
    contract = fxopt.Contract.EXACT
    @staticmethod
    def pattern(x): return torch.relu(x)
    @staticmethod
    def replacement(x): return x

if __name__ == "__main__":
    try:
        fxopt.testing.check_pass(ForgetRelu(), examples=10, targets=(), shrink=False)
    except AssertionError as failure:
        print(failure)
"""


def test_a_script_leaves_nothing_and_its_reproducer_imports_the_pass(tmp_path: Path):
    (tmp_path / "my_passes.py").write_text(SCRIPT)
    bare = {
        k: v for k, v in os.environ.items() if k not in ("PYTEST_VERSION", "HYPOTHESIS_STORAGE_DIRECTORY")
    }
    environment = {**bare, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "my_passes.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "repeat it with:" in done.stdout and "from my_passes import ForgetRelu" in done.stdout, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["my_passes.py"]


def test_a_folder_that_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with storage() as database:
        assert database is settings.get_profile(settings.get_current_profile_name()).database
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_VERSION")
    monkeypatch.setattr("fxopt.testing.surroundings.storage_directory", lambda **_: Home(tmp_path))
    with storage() as database:
        assert database is None
    (tmp_path / ".hypothesis").mkdir()
    with storage() as database:
        assert database is settings.get_profile(settings.get_current_profile_name()).database


class Home:
    def __init__(self, folder: Path) -> None:
        self.path = folder / ".hypothesis"


def test_how_far_it_is(monkeypatch: pytest.MonkeyPatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr("fxopt.testing.surroundings.stderr_console", lambda: console)
    check_pass(EliminateDeadCode(), examples=5, targets=(), min_fired=0)
    assert screen.getvalue() == ""
    check_pass(EliminateDeadCode(), examples=5, targets=(), min_fired=0, progress=True)
    assert "check eliminate-dead-code" in screen.getvalue()
