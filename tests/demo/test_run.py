"""The demo, end to end."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fxopt.cli import main
from fxopt.demo import DemoRow, run, run_demo
from fxopt.demo.models import DemoModel
from fxopt.report import Report, Verdict


def tiny() -> DemoModel:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    ).eval()
    x = torch.randn(4, 1, 4, 4)
    with torch.no_grad():
        expected = model(x)

    def measure(call: object) -> float:
        return float((call(x) - expected).abs().max() < 1e-4)

    return DemoModel("tiny", model, (x,), {"input": {0: "batch"}}, "accuracy", measure, 1.0)


def test_every_model_goes_to_every_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "_MODELS", (tiny,))
    rows = list(run_demo(tmp_path / "out", seconds=0.0))
    assert [(r.model, r.target, r.verdict) for r in rows] == [
        ("tiny", target, Verdict.EQUIVALENT) for target in ("eager", "torchscript", "onnx")
    ]
    for row in rows:
        path = tmp_path / "out" / row.file
        assert path.stat().st_size == row.size
        assert row.value == 1.0
        assert row.speed > 0
        assert not row.failed
        report = Report.load(f"{path}.json")
        assert report.ok
        assert "aten.batch_norm" in report.before.ops
        assert "aten.batch_norm" not in report.after.ops


@pytest.mark.parametrize(
    ("verdict", "value", "failed"),
    [
        (Verdict.EQUIVALENT, 0.9, False),
        (Verdict.EQUIVALENT, 0.8, True),
        (Verdict.EQUIVALENT, float("nan"), True),
        (Verdict.DIFFERENT, 1.0, True),
        (Verdict.UNDECIDED, 1.0, True),
    ],
)
def test_when_a_row_has_failed(verdict: Verdict, value: float, failed: bool):
    assert DemoRow("m", "onnx", "m.onnx", verdict, "accuracy", value=value, least=0.9).failed is failed


def test_a_failed_row_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    rows = [DemoRow("m", "onnx", "m.onnx", Verdict.DIFFERENT, "accuracy")]
    monkeypatch.setattr("fxopt.demo.run_demo", lambda folder: iter(rows))
    assert main(["demo"]) == 1
    assert "different" in capsys.readouterr().out


def test_json_quiet_and_colour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    rows = [DemoRow("m", "onnx", "m.onnx", Verdict.DIFFERENT, "accuracy")]
    monkeypatch.setattr("fxopt.demo.run_demo", lambda folder: iter(rows))
    assert main(["demo", "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["file"], row["verdict"], row["value"]) == ("m.onnx", "different", None)
    assert main(["demo", "--quiet"]) == 1
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["demo"])
    assert "\x1b[31m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(["demo"])
    assert "\x1b[31m" not in capsys.readouterr().out


def test_an_unwritable_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    assert main(["demo", "--output", str(tmp_path / "file" / "out")]) == 2
    assert "can't make the folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["demo", "--output", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "equivalent" in line]
    assert len(lines) == 6
    assert {p.suffix for p in tmp_path.iterdir()} == {".fxopt", ".pt", ".onnx", ".json"}
