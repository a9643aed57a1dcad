"""`fxopt optimize` from the arguments to the files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import fxopt
from fxopt.cli import main
from fxopt.report import Report, Verdict

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    return model.eval(), (torch.randn(2, 1, 4, 4),)

class Scaled(nn.Module):
    def forward(self, x, scale):
        return x * scale

def with_keywords():
    return Scaled().eval(), (torch.randn(2, 3),), {"scale": torch.randn(3)}

def in_training():
    return nn.Sequential(nn.Linear(3, 3), nn.Dropout()), (torch.randn(2, 3),)

def score(run):
    return float(run(torch.ones(2, 1, 4, 4)).sum())

def score_halved(run):
    return 1.0 if type(run).__name__ == "Program" else 0.5

def no_score(run):
    return "high"

def failing_score(run):
    raise ValueError("no data")

class Branches(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(3))
    def forward(self, x):
        self.count.add_(x.sum(0))
        return x + self.count

def counting():
    return Counting().eval(), (torch.randn(2, 3),)

def branches():
    return Branches().eval(), (torch.randn(2, 3),)
"""

PLUGIN = '''
import fxopt, torch

@fxopt.register_pass
class DropHalf(fxopt.RewritePass):
    """relu(x) -> x * 0.5, which is wrong."""
    contract = fxopt.Contract.EQUIVALENT
    @staticmethod
    def pattern(x): return torch.relu(x)
    @staticmethod
    def replacement(x): return x * 0.5

@fxopt.register_pass
class CountRecords(fxopt.Pass):
    """Fails unless it is given the calibration data that the test writes."""
    needs_calibration = True
    def run(self, rewriter):
        sizes = [tuple(t.shape) for record in rewriter.calibration for t in record]
        if sizes != [(2, 1, 4, 4), (2, 1, 4, 4), (1, 1, 4, 4)]:
            raise fxopt.PassError(f"found {sizes}")
'''


@pytest.fixture
def net(tmp_path: Path) -> str:
    path = tmp_path / "net_of_user.py"
    path.write_text(NET)
    return str(path)


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "plugin_of_user.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.mark.parametrize(
    ("target", "suffix"), [("eager", ".fxopt"), ("torchscript", ".pt"), ("onnx", ".onnx")]
)
def test_a_file_and_its_report(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, suffix: str
):
    out = tmp_path / "a" / "out"
    arguments = [
        "optimize",
        f"{net}:build",
        "--target",
        target,
        "--output",
        str(out),
        "--dynamic",
        "input:0=batch",
    ]
    assert main(arguments) == 0
    assert sorted(p.name for p in out.iterdir()) == sorted([f"model{suffix}", "report.json"])
    report = Report.load(out / "report.json")
    assert report.ok
    assert (report.target, report.pipeline) == (target, "O1")
    assert report.artifact.size == (out / f"model{suffix}").stat().st_size
    assert "aten.batch_norm" not in report.after.ops
    artifact = fxopt.load(out / f"model{suffix}")
    assert artifact(torch.randn(5, 1, 4, 4)).shape == (5, 3)
    output = capsys.readouterr()
    assert "equivalent" in output.out
    progress = output.err.splitlines()
    assert progress == ["trace the model", "run the pipeline O1", f"lower to {target} and verify the file"]


def test_json_is_all_of_standard_output(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["optimize", f"{net}:build", "--target", "eager", "--output", str(tmp_path), "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == json.loads((tmp_path / "report.json").read_text())
    assert output.err == ""


def test_quiet(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["optimize", f"{net}:build", "--target", "eager", "--output", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_dry_run_writes_nothing(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["optimize", f"{net}:build", "--target", "eager", "--output", "out", "--dry-run"]) == 0
    assert list(Path.cwd().iterdir()) == []
    assert "equivalent" in capsys.readouterr().out


def test_timing_and_explain(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["optimize", f"{net}:build", "--target", "eager", "--output", str(tmp_path)]
    assert main([*arguments, "--timing", "--explain", "fuse-conv-bn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith("fuse-conv-bn ")]
    assert [row[2] for row in rows] == ["1", "0"]  # O1 runs until nothing changes
    assert any(line.startswith("fuse-conv-bn: 1 rewrite, 0 near misses") for line in lines)
    assert any(line.split()[:1] == ["fuse-conv2d-bn"] for line in lines)


def test_keyword_arguments(net: str, tmp_path: Path):
    assert main(["optimize", f"{net}:with_keywords", "--target", "eager", "--output", str(tmp_path)]) == 0
    x, scale = torch.randn(2, 3), torch.randn(3)
    assert torch.equal(fxopt.load(tmp_path / "model.fxopt")(x, scale=scale), x * scale)


def test_a_warning_is_in_the_report_and_shown_once(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["optimize", f"{net}:in_training", "--target", "eager", "--output", str(tmp_path)]) == 0
    output = capsys.readouterr()
    assert (output.out + output.err).count("training mode") == 1
    assert any("training mode" in line for line in Report.load(tmp_path / "report.json").warnings)


def test_a_wrong_pass_leaves_a_report_and_no_file(
    net: str, plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    arguments = ["optimize", f"{net}:build", "--plugin", plugin, "--target", "eager", "--output", str(out)]
    assert main([*arguments, "--pipeline", "drop-half"]) == 1
    assert [p.name for p in out.iterdir()] == ["report.json"]
    assert Report.load(out / "report.json").verdict is Verdict.DIFFERENT
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fxopt: error: ")
    assert "not equivalent" in error


def test_check_each_names_the_wrong_pass(
    net: str, plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = [
        "optimize",
        f"{net}:build",
        "--plugin",
        plugin,
        "--target",
        "eager",
        "--output",
        str(tmp_path),
    ]
    assert main([*arguments, "--pipeline", "O1,drop-half", "--check-each"]) == 1
    assert "drop-half" in capsys.readouterr().err
    report = Report.load(tmp_path / "report.json")
    assert report.verdict is Verdict.DIFFERENT
    assert report.before is not None and report.artifact is None


def test_calibration_comes_in_batches_of_the_examples_size(net: str, plugin: str, tmp_path: Path):
    np.savez(tmp_path / "data.npz", input=np.zeros((5, 1, 4, 4), np.float32))
    arguments = [
        "optimize",
        f"{net}:build",
        "--plugin",
        plugin,
        "--target",
        "eager",
        "--output",
        str(tmp_path),
    ]
    arguments += ["--pipeline", "count-records", "--dynamic", "input:0=batch"]
    assert main([*arguments, "--calibration", str(tmp_path / "data.npz")]) == 0
    assert main(arguments) == 2


def test_a_pt2_needs_trust(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    exported = torch.export.export(torch.nn.Linear(3, 2), (torch.randn(2, 3),))
    path = tmp_path / "linear.pt2"
    torch.export.save(exported, path)
    arguments = ["optimize", str(path), "--target", "eager", "--output", str(tmp_path)]
    assert main(arguments) == 2
    assert "trust" in capsys.readouterr().err
    assert main([*arguments, "--trust"]) == 0
    assert (tmp_path / "model.fxopt").is_file()


def test_a_metric_within_its_budget(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["optimize", f"{net}:build", "--target", "eager", "--output", str(tmp_path)]
    assert main([*arguments, "--metric", f"{net}:score", "--max-drop", "0.01"]) == 0
    assert "metric" in capsys.readouterr().out


def test_a_metric_beyond_its_budget(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["optimize", f"{net}:build", "--target", "eager", "--output", str(tmp_path)]
    assert main([*arguments, "--metric", f"{net}:score_halved", "--max-drop", "0.4"]) == 1
    assert "the metric fell from 1 to 0.5" in capsys.readouterr().err
    assert not (tmp_path / "model.fxopt").exists()


@pytest.fixture
def data(tmp_path: Path) -> str:
    np.savez(
        tmp_path / "data.npz", input=np.random.default_rng(0).normal(size=(8, 1, 4, 4)).astype("float32")
    )
    return str(tmp_path / "data.npz")


def test_the_best_of_several_precisions_is_kept(
    net: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["optimize", f"{net}:build", "--target", "eager", "--output", str(tmp_path / "out")]
    arguments += ["--pipeline", "int8", "--calibration", data]
    assert main([*arguments, "--metric", f"{net}:score_halved", "--max-drop", "0.4"]) == 1
    said = capsys.readouterr()
    assert "the best file that was found comes to 0.5: a metric of at least 1 - 0.4" in said.err
    assert (tmp_path / "out" / "model.fxopt").is_file()
    report = Report.load(tmp_path / "out" / "report.json")
    assert report.missed and report.precision is not None and len(report.layers) == 2


def test_layers_stay_in_float_for_a_signal_to_noise(
    net: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["optimize", f"{net}:build", "--target", "eager", "--output", str(tmp_path / "out")]
    arguments += ["--pipeline", "int8", "--calibration", data, "--min-sqnr", "90"]
    assert main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "an SQNR of at least 90 dB: met" in said and "=float" in said
    assert main([*arguments[:-1], "x"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-drop", "0.1"], "--max-drop needs --metric"),
        (["--min-sqnr", "20"], "--min-sqnr chooses the precision of each layer"),
        (["--metric", "score"], "expected FILE.py:FUNCTION"),
        (["--metric", "net_of_user.py:scor"], "did you mean 'score'?"),
        (["--metric", "net_of_user.py:no_score"], "returned 'high'; expected a number"),
        (["--metric", "net_of_user.py:failing_score"], "ValueError: no data"),
    ],
)
def test_a_wrong_metric(
    net: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    assert main(["optimize", f"{net}:build", "--target", "eager", "--output", "out", "-q", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_opset(net: str, tmp_path: Path):
    import onnx

    arguments = ["optimize", f"{net}:build", "--output", str(tmp_path), "--opset"]
    assert main([*arguments, "18"]) == 0
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == 18
    assert main([*arguments, "3"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "onxx"], "unknown target 'onxx'; did you mean 'onnx'?"),
        (["--pipeline", "fuse-conv-bnn"], "unknown pass 'fuse-conv-bnn'; did you mean 'fuse-conv-bn'?"),
        (["--pipeline", "O1,,"], "O1,,"),
        (["--explain", "fuse-conv-bnn"], "did you mean 'fuse-conv-bn'?"),
        (["--dynamic", "inputs:0=batch"], "did you mean 'input'?"),
        (["--dynamic", "input"], "expected INPUT:AXIS"),
        (["--plugin", "missing.py"], "missing.py"),
        (["--calibration", "missing.npz"], "can't read missing.npz"),
        (["--pipeline", "int8"], "'smooth-quant' needs calibration data: pass --calibration DATA.npz"),
        (["--opset", "99"], "opset 99 is not offered; choose 18 to 23"),
        (["--target", "eager", "--opset", "18"], "opset is an option of onnx; eager has none"),
        (["--distill", "net.py"], "--distill net.py: expected FILE.py:FUNCTION"),
        (["--distill", "missing.py:loaders"], "missing.py does not exist"),
        (["--pipeline", "o1"], "did you mean 'O1'?"),
        (["--dynamic", "input:0=a", "--dynamic", "input:0=b"], "axis 0 of 'input' is given twice"),
        (["--on-failure", "reproduce", "--dry-run"], "--on-failure writes to DIR/failure: give --output DIR"),
        (
            ["--pipeline", "prune{plan=net.json}"],
            "net.json is not a PrunePlan of fxopt: it lacks granularity",
        ),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(
    net: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    Path("net.json").write_text("{}")
    out = tmp_path / "out"
    assert main(["optimize", f"{net}:build", "--output", str(out), "--quiet", *arguments]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("fxopt: error: ")
    assert message in output.err
    assert "Traceback" not in output.err
    assert output.out == ""
    assert not out.exists() or not list(out.iterdir())


def test_output_is_needed(net: str, capsys: pytest.CaptureFixture[str]):
    assert main(["optimize", f"{net}:build"]) == 2
    assert "--output" in capsys.readouterr().err


def test_a_model_that_cant_be_traced_names_the_users_line(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["optimize", f"{net}:branches", "--output", str(tmp_path)]) == 2
    line = NET.splitlines().index("        if x.sum() > 0:") + 1
    error = capsys.readouterr().err
    assert f"net_of_user.py:{line}" in error
    assert "Traceback" not in error


def test_a_folder_that_cant_be_made(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    assert main(["optimize", f"{net}:build", "--output", str(tmp_path / "file")]) == 2
    assert "can't make the folder" in capsys.readouterr().err


def test_an_option_is_named_as_the_command_line_does(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.randn(2, 3),)), tmp_path / "m.pt2")
    assert main(["optimize", str(tmp_path / "m.pt2"), "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "pass --trust if you trust it" in error
    assert "trust=True" not in error


def test_no_color(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    arguments = ["optimize", f"{net}:build", "--target", "eager", "--dry-run"]
    assert main(arguments) == 0
    assert "\x1b[32m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(arguments) == 0
    assert "\x1b[32m" not in capsys.readouterr().out


def test_a_state_is_an_input(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["optimize", f"{net}:counting", "--target", "eager", "--output", str(tmp_path), "-q"]
    assert main(arguments) == 2
    assert "pass --state to make it an input and output" in capsys.readouterr().err
    assert main([*arguments, "--state"]) == 0
    assert main(["verify", f"{net}:counting", str(tmp_path / "model.fxopt")]) == 0


def test_a_state_that_is_not_there_is_told(net: str, capsys: pytest.CaptureFixture[str]):
    assert main(["optimize", f"{net}:build", "--target", "eager", "--dry-run", "--state"]) == 0
    assert "note: the model writes to no buffer" in capsys.readouterr().out


def test_random_weights_are_the_same_at_the_next_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    net = tmp_path / "random_net.py"
    net.write_text(
        "import torch\ndef build():\n    return torch.nn.Linear(3, 2).eval(), (torch.randn(2, 3),)\n"
    )
    out = tmp_path / "out"
    before = torch.random.get_rng_state()
    assert main(["optimize", f"{net}:build", "--target", "eager", "--output", str(out), "-q"]) == 0
    assert main(["verify", f"{net}:build", str(out / "model.fxopt")]) == 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_saved_program_is_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "net.fxopt"
    fxopt.trace(torch.nn.Linear(3, 2).eval(), (torch.randn(2, 3),)).save(str(path))
    arguments = ["optimize", str(path), "--target", "eager", "--output", str(tmp_path / "out")]
    assert main([*arguments, "-q"]) == 0
    assert main([*arguments, "--dynamic", "input:0=batch"]) == 2
    assert "leave --dynamic out" in capsys.readouterr().err
    assert main(["optimize", str(tmp_path / "out" / "model.fxopt"), "--dry-run"]) == 2
    assert "is of kind 'eager', expected 'program'" in capsys.readouterr().err


def test_a_failure_leaves_no_empty_folder(net: str, tmp_path: Path):
    assert main(["optimize", f"{net}:branches", "--output", str(tmp_path / "out"), "-q"]) == 2
    assert not (tmp_path / "out").exists()


def test_what_the_users_code_prints_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    net, plugin = tmp_path / "loud_net.py", tmp_path / "loud_plugin.py"
    net.write_text(
        "import torch\nprint('importing')\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        print('running')\n        return torch.relu(x)\n"
        "def build():\n    print('building')\n    return Net().eval(), (torch.randn(2),)\n"
        "def score(run):\n    print('scoring')\n    return 1.0\n"
    )
    plugin.write_text("print('plugged')\n")
    arguments = ["optimize", f"{net}:build", "--target", "eager", "--dry-run", "--json"]
    assert main([*arguments, "--metric", f"{net}:score", "--plugin", str(plugin)]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["model"] == "Net"
    for word in ("importing", "building", "running", "scoring", "plugged"):
        assert word in output.err


def test_int8_by_calibration_data(net: str, tmp_path: Path):
    np.savez(
        tmp_path / "data.npz", input=np.random.default_rng(0).normal(size=(8, 1, 4, 4)).astype("float32")
    )
    arguments = ["optimize", f"{net}:build", "--pipeline", "int8", "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert main([*arguments, "--calibration", str(tmp_path / "data.npz")]) == 0
    report = Report.from_json(json.loads((tmp_path / "out" / "report.json").read_text()))
    assert report.verdict is Verdict.EQUIVALENT
    assert report.held_to == "the program after correct-bias"
    assert report.after.ops["fxopt.fake_quantize"] > 5
