"""`fxopt optimize --distill`: prune, train, lower, verify in one command."""

import json
import runpy
from pathlib import Path

import pytest
import torch

import fxopt
from fxopt.cli import main
from fxopt.cli.distill import retraining

NET = """
import torch
from torch import nn
from torch.nn.utils import prune

torch.manual_seed(0)
X = torch.randn(256, 6)
FULL = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
with torch.no_grad():
    LABELS = FULL(X).argmax(1)

def build():
    return FULL, (X[:2],)

def loaders():
    return {"data": list(zip(X.split(32), LABELS.split(32))), "epochs": 25, "learning_rate": 0.03}

def plain():
    return [(x,) for x in X.split(32)]

def nothing():
    return []

def no_data():
    return {"epochs": 3}

def accuracy(run):
    with torch.no_grad():
        return float((run(X).argmax(1) == LABELS).float().mean())
"""

ZERO = """
import torch
import fxopt

@fxopt.register_pass
class ZeroRows(fxopt.Pass):
    \"\"\"Zeroes 16 of 32 rows: a crude pruning.\"\"\"
    contract = fxopt.Contract.APPROXIMATE
    def run(self, rewriter):
        for node in rewriter.nodes("aten.linear"):
            weight = rewriter.value(node.args[1])
            if weight.shape[0] == 32:
                rows = torch.nn.Parameter(weight.detach().clone())
                bias = torch.nn.Parameter(rewriter.value(node.args[2]).detach().clone())
                with torch.no_grad():
                    rows[16:], bias[16:] = 0, 0
                with rewriter.rewrite("zero-rows", node):
                    call = rewriter.call("aten.linear", node.args[0], rewriter.constant(rows), rewriter.constant(bias))
                    rewriter.replace(node, call)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "taught_net.py").write_text(NET)
    (tmp_path / "zero_rows.py").write_text(ZERO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ARGUMENTS = (
    *("optimize", "taught_net.py:build", "--dynamic", "input:0=batch", "--plugin", "zero_rows.py"),
    *("--pipeline", "clean,zero-rows,eliminate-dead-weights", "--target", "eager"),
    *("--quiet", "--output", "out"),
)


def test_prune_train_lower_verify(folder: Path) -> None:
    metric = ["--metric", "taught_net.py:accuracy", "--max-drop", "0.1"]
    distill = ["--distill", "taught_net.py:loaders"]
    assert main([*ARGUMENTS, *metric]) == 1, "pruned and not trained it is too bad to keep"
    assert main([*ARGUMENTS, *distill, *metric, "--gen-script", "again.py"]) == 0
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["metric"]["before"] == 1.0
    assert report["metric"]["after"] > 0.9
    assert "train" in report["timings"]
    assert any("training changes the function on purpose" in note for note in report["notes"])
    artifact = fxopt.load(folder / "out" / "model.fxopt")
    assert [report[when]["weight_bytes"] for when in ("before", "after")] == [4 * 323, 4 * 163]
    first = artifact(torch.ones(3, 6))
    runpy.run_path(str(folder / "again.py"), run_name="__main__")
    again = fxopt.load(folder / "out" / "model.fxopt")(torch.ones(3, 6))
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("loaders", "message"),
    [
        ("nothing", "data is empty"),
        ("no_data", "the loaders' dict lacks 'data'; it has epochs"),
        ("loader", "has no function 'loader'; did you mean 'loaders'?"),
    ],
)
def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str], loaders: str, message: str) -> None:
    assert main([*ARGUMENTS, "--distill", f"taught_net.py:{loaders}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (folder / "out" / "model.fxopt").exists()


def test_what_loaders_may_return() -> None:
    x = torch.randn(8, 4)
    program = fxopt.trace(torch.nn.Linear(4, 2).eval(), (x,))
    for given in ([(x,)], ([(x,)], [(x,)]), ((x,), (x,)), {"data": [(x,)], "epochs": 1, "loss": "mse"}):
        assert isinstance(retraining(given)(program, program), fxopt.Program)
