"""`--gen-script`: a Python file that does what the command line did."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fxopt
from fxopt.cli import main

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
    def forward(self, x, mask):
        return torch.relu(self.linear(x)) * mask

def build():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(2, 3),), {"mask": torch.ones(2, 2)}

def training():
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout()), (torch.randn(2, 3),)

def score(run):
    return float(run(torch.ones(2, 3), mask=torch.ones(2, 2)).sum())
"""

PLUGIN = '''
import fxopt

@fxopt.register_pass
class LookAtRecords(fxopt.Pass):
    """Needs calibration data."""
    needs_calibration = True
    def run(self, rewriter):
        assert len(list(rewriter.calibration)) == 1
'''


def run(script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs it from a folder that is not its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_makes_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "work" / "models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    Path("models/my-net.py").write_text(NET)
    Path("plugin.py").write_text(PLUGIN)
    np.savez("data.npz", x=np.ones((2, 3), np.float32), mask=np.ones((2, 2), np.float32))
    arguments = [
        "--target",
        "eager",
        "--output",
        "out",
        "--dynamic",
        "x:0=batch",
        "--dynamic",
        "mask:0=batch",
    ]
    arguments += ["--pipeline", "O1,look-at-records", "--plugin", "plugin.py", "--calibration", "data.npz"]
    arguments += ["--metric", "models/my-net.py:score", "--max-drop", "0.1", "--check-each"]
    arguments += ["--gen-script", "run.py", "-q"]
    assert main(["optimize", "models/my-net.py:build", *arguments]) == 0
    first = Path("out/model.fxopt").read_bytes()
    Path("out/model.fxopt").unlink()
    done = run(Path("run.py").resolve(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "equivalent" in done.stdout
    assert Path("out/model.fxopt").read_bytes() == first
    report = json.loads(Path("out/report.json").read_text())
    assert report["metric"]["max_drop"] == 0.1
    assert str(tmp_path) not in Path("run.py").read_text()


def test_the_scripts_report_has_the_warnings_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    arguments = ["--target", "eager", "--output", "out", "--gen-script", "run.py", "-q"]
    assert main(["optimize", "net.py:training", *arguments]) == 0
    first = json.loads(Path("out/report.json").read_text())["warnings"]
    Path("out/report.json").unlink()
    with pytest.warns(UserWarning, match="training mode"):
        runpy.run_path("run.py", run_name="__main__")
    assert json.loads(Path("out/report.json").read_text())["warnings"] == first
    assert len(first) == 1 and "training mode" in first[0]


@pytest.mark.slow
def test_a_pt2_an_unnamed_size_and_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2).eval(), (torch.randn(2, 3),)), "m.pt2")
    assert main(["optimize", "m.pt2", "--trust", "--dry-run", "--gen-script", "a.py", "-q"]) == 0
    assert "trust=True" in Path("a.py").read_text()
    Path("net.py").write_text(NET)
    shapes = ["--dynamic", "x:0", "--dynamic", "mask:0"]
    options = ["--dry-run", "--target", "torchscript", "--pipeline", "O0", "--gen-script", "b.py", "-q"]
    assert main(["optimize", "net.py:build", *shapes, *options]) == 0
    for name in ("a.py", "b.py"):
        done = run(Path(name).resolve(), tmp_path)
        assert done.returncode == 0, done.stderr
        assert "in memory" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix not in (".pyc", "")) == [
        "a.py", "b.py", "m.pt2", "net.py",
    ]  # fmt: skip
    assert main(["optimize", "net.py:build", *shapes, *options]) == 2
    assert "b.py exists and may have been edited" in capsys.readouterr().err


def test_a_mistake_writes_no_script(tmp_path: Path):
    script = tmp_path / "run.py"
    (tmp_path / "net.py").write_text(NET)
    for wrong in (["--pipeline", "O9"], ["--target", "onxx"], ["--opset", "99"], ["--max-drop", "1"]):
        command = ["optimize", f"{tmp_path / 'net.py'}:build", "--dry-run", "--gen-script", str(script)]
        assert main([*command, *wrong]) == 2
    assert not script.exists()
    assert fxopt.__version__
