"""`fxopt bisect` and `fxopt reduce`, and `optimize --on-failure reproduce`: one command each."""

from pathlib import Path

import pytest
import torch

import fxopt
from fxopt.cli import main
from fxopt.factories import read_factory

PLUGIN = """
import torch
import torch.nn.functional as F
from torch import nn
import fxopt

@fxopt.register_pass
class GeluLost(fxopt.RewritePass):
    pattern = staticmethod(lambda x: F.gelu(x))
    replacement = staticmethod(lambda x: F.relu(x))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)
    def forward(self, x):
        return self.b(F.gelu(self.a(x))).tanh()

def build():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(2, 6),)
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One file for all tests: a pass is registered once."""
    file = tmp_path_factory.mktemp("bisect") / "bisected_net.py"
    file.write_text(PLUGIN)
    return str(file)


@pytest.fixture
def net(plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return plugin


def test_a_right_pipeline_is_said_to_be_right(net: str, capsys: pytest.CaptureFixture[str]):
    assert main(["bisect", f"{net}:build", "--pipeline", "fold-constants"]) == 0
    assert "does not fail" in capsys.readouterr().out


def test_the_bad_pass_is_named(net: str, capsys: pytest.CaptureFixture[str]):
    options = ["--plugin", net, "--pipeline", "fold-constants,gelu-lost", "--dynamic", "x:0=batch"]
    assert main(["bisect", f"{net}:build", *options]) == 1
    told = capsys.readouterr().out
    assert "pass 'gelu-lost' (number 2 of 2), rewrite 1" in told and "bisected_net.py:" in told


def test_reduce_writes_a_folder(net: str, capsys: pytest.CaptureFixture[str]):
    module, args = read_factory(Path(net), "build").model, torch.ones(2, 6)
    fxopt.trace(module, (args,)).save("net.fxopt")
    options = ["--plugin", net, "--pipeline", "gelu-lost", "--output", "failures"]
    assert main(["reduce", "net.fxopt", *options]) == 1
    assert "reduced from 4 to 1 call" in capsys.readouterr().out
    (folder,) = Path("failures").iterdir()
    assert (folder / "reproduce.py").is_file()


def test_optimize_does_the_whole_chain(net: str, capsys: pytest.CaptureFixture[str]):
    options = ["--plugin", net, "--pipeline", "gelu-lost", "--check-each", "--on-failure", "reproduce"]
    assert main(["optimize", f"{net}:build", *options, "--output", "out"]) == 1
    told = capsys.readouterr().err
    assert "gelu-lost" in told and "reduced from 4 to 1 call" in told and "reproduce.py" in told
    assert len(list(Path("out/failure").iterdir())) == 1 and not Path("out/model.onnx").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test", "./a.sh", "--slower", "1.5"], "not both"),
        (["--target", "onix"], "onix"),
        (["--pipeline", "no-such-pass"], "no-such-pass"),
        (["--test", "./missing.sh"], "can't be run"),
        (["--slower", "0"], "--slower 0: expected a factor above 1"),
    ],
)
def test_mistakes_are_one_line(
    net: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    assert main(["bisect", f"{net}:build", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_file_in_place_of_the_folder_is_told_first(net: str, capsys: pytest.CaptureFixture[str]):
    assert main(["reduce", f"{net}:build", "--output", net]) == 2
    assert f"--output {net} is a file" in capsys.readouterr().err
