"""`fxopt bench`: the table, JSON, inputs, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import fxopt
from fxopt.cli import main
from fxopt.passes.partition import Rates, read_cost
from tests.traced import traced

QUICK = ["--starts", "1", "--seconds", "0.01"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fxopt.lower(traced("mlp", True), "onnx", path="a.onnx", verify=False)
    Path("b.onnx").write_bytes(Path("a.onnx").read_bytes())


@pytest.mark.usefixtures("files")
def test_a_table(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "a.onnx", "b.onnx", *QUICK]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == [
        "side",
        "kind",
        "time",
        "processor",
        "time",
        "speed",
        "size",
        "peak",
        "memory",
        "opens",
        "in",
    ]
    assert lines[1].startswith("a.onnx  onnx")
    assert lines[2].startswith("b.onnx  onnx")
    assert "x (" in lines[2]
    assert "inputs: input: f32[8, 64]" in out
    assert "open a.onnx, b.onnx" in err


@pytest.mark.usefixtures("files")
def test_json_alone_on_standard_output(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "a.onnx", "b.onnx", "--json", "--size", "batch=3", *QUICK]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert [side["name"] for side in report["sides"]] == ["a.onnx", "b.onnx"]
    assert report["inputs"] == ["input: f32[3, 64]"]
    assert err == ""


@pytest.mark.usefixtures("files")
def test_quiet_and_inputs(capsys: pytest.CaptureFixture[str]):
    np.savez("x.npz", input=np.zeros((2, 64)))
    assert main(["bench", "a.onnx", "b.onnx", "--inputs", "x.npz", "--quiet", *QUICK]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.onnx"], "expected at least two models or files to compare, got 1"),
        (["a.onnx", "c.onnx"], "c.onnx does not exist; expected FILE.py:FACTORY or a file"),
        (["a.onnx", "net.py"], "net.py: name the function that returns the model, as in net.py:build"),
        (["a.onnx", "b.onnx", "--size", "batch"], "--size 'batch': expected NAME=N, such as batch=8"),
        (["a.onnx", "b.onnx", "--inputs", "y.npz"], "can't read y.npz"),
        (["a.onnx", "b.onnx", "--threads", "0"], "Invalid value for '--threads'"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert main(["bench", *arguments, *QUICK]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


class TestCalibrate:
    RATES = Rates(2e9, 3e9, 4e-6, {"product": Rates(5e9, 6e9, 7e-6)}, "a machine")

    @pytest.fixture(autouse=True)
    def measured(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("fxopt.measure.calibration.calibrate", lambda: self.RATES)

    def test_rates_are_shown_and_written(self, capsys: pytest.CaptureFixture[str]):
        assert main(["bench", "--calibrate"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split() for line in lines] == [
            ["calls", "GFLOP/s", "GB/s", "a", "call"],
            ["product", "5.0", "6.0", "7.0", "us"],
            ["all", "others", "2.0", "3.0", "4.0", "us"],
            ["a", "machine"],
        ]
        assert read_cost("rates.json") == self.RATES

    def test_json_alone_and_another_file(self, capsys: pytest.CaptureFixture[str]):
        assert main(["bench", "--calibrate", "--json", "--output", "mine.json"]) == 0
        assert Rates.from_json(json.loads(capsys.readouterr().out)) == self.RATES
        assert read_cost("mine.json") == self.RATES
        assert not Path("rates.json").exists()

    def test_quiet_and_threads(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        seen: list[int] = []
        monkeypatch.setattr(torch, "set_num_threads", seen.append)
        assert main(["bench", "--calibrate", "--quiet", "--threads", "2"]) == 0
        assert capsys.readouterr() == ("", "")
        assert seen == [2]

    @pytest.mark.usefixtures("files")
    def test_then_sides_are_timed(self, capsys: pytest.CaptureFixture[str]):
        assert main(["bench", "a.onnx", "b.onnx", "--calibrate", *QUICK]) == 0
        out = capsys.readouterr().out
        assert "all others" in out and "b.onnx  onnx" in out

    def test_nothing_to_time_is_one_line(self, capsys: pytest.CaptureFixture[str]):
        assert main(["bench"]) == 2
        assert "bench needs what to time: fxopt bench A B" in capsys.readouterr().err
