"""`fxopt verify`: sides, inputs, exit codes, the counterexample."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fxopt
from fxopt.cli import main
from fxopt.cli.verify import COUNTEREXAMPLE

NET = """
import torch
from torch import nn

def net(bias=0.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].bias += bias
    return model.eval()

def build():
    return net(), (torch.randn(2, 3),)

def other():
    return net(bias=0.01), (torch.randn(2, 3),)

class Two(nn.Module):
    def forward(self, x, y):
        return x + y

def two():
    return Two().eval(), (torch.randn(2, 3), torch.randn(2, 3))

def wide():
    return nn.Linear(4, 2).eval(), (torch.randn(2, 4),)

class Keyword(nn.Module):
    def forward(self, x, *, scale):
        return x * scale

def keyword():
    return Keyword().eval(), (torch.randn(2, 3),), {"scale": torch.randn(3)}
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("verified_net.py").write_text(NET)
    return "verified_net.py"


@pytest.fixture
def artifact(net: str) -> str:
    """A file of the right model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    program = fxopt.trace(model, (torch.randn(2, 3),), dynamic_shapes={"input": {0: "batch"}})
    fxopt.lower(program, "eager", path="model.fxopt")
    return "model.fxopt"


def test_a_model_and_its_file(net: str, artifact: str, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", f"{net}:build", artifact]) == 0
    assert capsys.readouterr().out.startswith("equivalent")
    assert not Path(COUNTEREXAMPLE).exists()


def test_another_model_differs_and_the_inputs_that_show_it_can_be_given_back(
    net: str, artifact: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["verify", f"{net}:other", artifact]) == 1
    output = capsys.readouterr()
    assert output.out.startswith("different")
    assert COUNTEREXAMPLE in output.err
    assert np.load(COUNTEREXAMPLE)["input"].shape[1:] == (3,)
    assert main(["verify", f"{net}:other", artifact, "--inputs", COUNTEREXAMPLE]) == 1
    assert main(["verify", f"{net}:build", artifact, "--inputs", COUNTEREXAMPLE]) == 0


def test_two_factories_are_compared_on_the_examples(net: str):
    assert main(["verify", f"{net}:build", f"{net}:build", "--quiet"]) == 0
    assert main(["verify", f"{net}:build", f"{net}:other", "--quiet"]) == 1


def test_two_factories_on_given_inputs(net: str):
    np.savez("x.npz", input=np.ones((2, 3), np.float32))
    assert main(["verify", f"{net}:build", f"{net}:build", "--inputs", "x.npz"]) == 0


def test_json_is_all_of_standard_output(net: str, artifact: str, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", f"{net}:build", artifact, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "equivalent"
    assert report["outputs"]


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ("missing.onnx", "missing.onnx does not exist"),
        ("verified_net.py", "name the function"),
        ("verified_net.py:biuld", "did you mean 'build'?"),
        ("broken.onnx", "broken.onnx"),
        ("broken.fxopt", "broken.fxopt"),
        ("broken.pt", "broken.pt"),
        ("model.txt", "model.txt"),
    ],
)
def test_what_cant_be_opened_is_one_line_and_no_verdict(
    net: str, capsys: pytest.CaptureFixture[str], candidate: str, message: str
):
    for name in ("broken.onnx", "broken.fxopt", "broken.pt", "model.txt"):
        Path(name).write_bytes(b"not what it says")
    assert main(["verify", f"{net}:build", candidate]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_pt2_needs_trust(net: str, capsys: pytest.CaptureFixture[str]):
    exported = torch.export.export(nn.Linear(3, 2), (torch.randn(2, 3),))
    torch.export.save(exported, "linear.pt2")
    assert main(["verify", "linear.pt2", "linear.pt2"]) == 2
    assert "trust" in capsys.readouterr().err
    assert main(["verify", "linear.pt2", "linear.pt2", "--trust"]) == 0


def test_two_models_with_keyword_only_inputs_need_a_file(net: str, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", f"{net}:keyword", f"{net}:keyword"]) == 2
    assert "--inputs" in capsys.readouterr().err


def test_two_models_that_take_different_inputs_are_a_mistake(
    net: str, artifact: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["verify", f"{net}:build", f"{net}:two"]) == 2
    assert capsys.readouterr().err == (
        "fxopt: error: the two sides take different inputs: build is called with (f32 of 2 dimensions), "
        "two is called with (f32 of 2 dimensions, f32 of 2 dimensions)\n"
    )
    fxopt.trace(nn.Linear(4, 2).eval(), (torch.randn(2, 4),)).save("wide.fxopt")
    assert main(["verify", "wide.fxopt", artifact]) == 2
    assert "eager takes input: f32[batch, 3], Linear takes input: f32[2, 4]" in capsys.readouterr().err


def test_two_models_of_other_widths_are_told_by_the_model(net: str, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", f"{net}:build", f"{net}:wide"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and "Linear does not run on inputs[0]" in error


def test_a_foreign_torchscript_file_is_compared_on_what_the_other_side_takes(
    net: str, artifact: str, capsys: pytest.CaptureFixture[str]
):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, (torch.randn(2, 3),)).save("foreign.pt")
        torch.jit.trace(nn.Linear(3, 2).eval(), (torch.randn(2, 3),)).save("wrong.pt")
    for other in (artifact, f"{net}:build"):
        assert main(["verify", other, "foreign.pt", "--trust"]) == 0
        assert main(["verify", other, "wrong.pt", "--trust"]) == 1
        assert main(["verify", "foreign.pt", other, "--trust"]) == 0
    assert main(["verify", "foreign.pt", "wrong.pt", "--trust"]) == 2
    assert "--inputs" in capsys.readouterr().err
