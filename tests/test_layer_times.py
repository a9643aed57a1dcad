"""Times by layer, and the warning that 8 bits are slower: by numbers that are given, not measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import fxopt
from fxopt.cli import main
from fxopt.lowering.onnx.artifact import OnnxArtifact
from fxopt.lowering.times import NodeTime
from fxopt.optimizer import timing
from fxopt.optimizer.timing import slower
from fxopt.report import LayerReport, Report
from fxopt.reporting.text import layer_table
from tests.passes.helpers import rand

X = rand(16, 8)


def test_no_warning_where_8_bits_are_as_fast() -> None:
    for ours in (0.5, 1.0, 1.04):
        assert slower(ours, 1.0, [NodeTime("a", "Conv", 1.0)], {}) == ""
    assert slower(1.06, 1.0, [], {}) != ""


def test_what_was_not_fused_is_named_largest_first() -> None:
    nodes = [NodeTime("a", "Conv", 0.2), NodeTime("b", "QLinearConv", 0.9), NodeTime("c", "Gemm", 0.4),
             NodeTime("", "Add", 0.1), NodeTime("d", "QuantizeLinear", 0.1), NodeTime("e", "DequantizeLinear", 0.1),
             NodeTime("f", "Transpose", 0.5)]  # fmt: skip
    assert slower(2.0, 1.0, nodes, {"a": "stem", "c": "head"}) == (
        "8 bits are slower than float on this machine: 2000.000 ms a call, in float 1000.000 ms; computed in float: "
        "head (Gemm, 20%), stem (Conv, 10%), added (Add, 5%); roundings take 10%"
    )


def test_five_are_named_and_the_rest_counted() -> None:
    nodes = [NodeTime(f"n{i}", "Conv", 0.1) for i in range(7)]
    text = slower(2.0, 1.0, nodes, {})
    assert "n4 (Conv, 5%) and 2 more" in text and "n5" not in text and "roundings" not in text


def test_the_sides_run_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Side:
        def __init__(self, name: str) -> None:
            self.name = name

        def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
            order.append(self.name)
            return []

    ticks = iter(range(10**6))
    monkeypatch.setattr(timing.time, "process_time", lambda: next(ticks) * (2 if order[-1:] == ["b"] else 1))
    ours, theirs = timing._in_turns([(Side("a"), []), (Side("b"), [])])
    assert order[:4] == ["a", "b", "a", "b"] and ours != theirs


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 4)).eval()


def timed(monkeypatch: pytest.MonkeyPatch, ours: float, **options: object) -> Report:
    """With kernels that are said to take a second for each call, two for each linear layer."""

    def node_times(self: object, tensors: list[torch.Tensor], calls: frozenset[str]) -> list[NodeTime]:
        (x,) = tensors
        assert x.dtype is (torch.uint8 if "io" in str(options) else torch.float32)
        found = [NodeTime(c, "QGemm", 1.0) for c in sorted(calls) if c.startswith("linear") for _ in range(2)]
        return [*found, *(NodeTime(c, "Sigmoid", 1.0) for c in sorted(calls) if c.startswith("silu"))]

    monkeypatch.setattr(OnnxArtifact, "node_times", node_times)
    monkeypatch.setattr(timing, "_in_turns", lambda sides: [ours, 1.0])
    given = {"pipeline": "int8", "target": "onnx", "calibration": [X], "time_layers": True, **options}
    return fxopt.optimize(net(), (X,), **given).report


@pytest.mark.parametrize("pipeline", ["int8", "int8{io=int8}"])
def test_layers_have_times_and_the_warning_names_modules(
    monkeypatch: pytest.MonkeyPatch, pipeline: str
) -> None:
    report = timed(monkeypatch, 4.0, pipeline=pipeline)
    assert [(one.name, one.seconds) for one in report.layers] == [("0", 2.0), ("2", 2.0)]
    (warning,) = report.warnings
    assert "4000.000 ms a call, in float 1000.000 ms; computed in float: 1 (Sigmoid, 25%)" in warning
    assert "time layers" in report.timings


def test_a_faster_file_has_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timed(monkeypatch, 0.5).warnings == []


def test_nothing_is_timed_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    report = timed(monkeypatch, 4.0, time_layers=False)
    assert report.warnings == [] and all(one.seconds != one.seconds for one in report.layers)


def test_a_float_pipeline_has_no_layers_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    report = timed(monkeypatch, 4.0, pipeline="O1", calibration=None)
    assert report.warnings == [] and not report.layers


def test_the_table_has_a_column_of_times_where_there_are_some() -> None:
    def printed(*layers: LayerReport) -> str:
        console = Console(width=200)
        with console.capture() as capture:
            console.print(layer_table(layers))
        return capture.get()

    assert "time" not in printed(LayerReport("a", "linear", 8, 8))
    text = printed(
        LayerReport("a", "linear", 8, 8, sqnr=9.0, seconds=0.0015), LayerReport("b", "linear", 8, 8, sqnr=9.0)
    )
    assert "time" in text and "1.500 ms" in text and "nan" not in text


def test_command_line(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Linear(8, 4).eval(), (torch.zeros(16, 8),)\n"
    )
    np.savez(tmp_path / "x.npz", input=X.numpy())
    asked = ["optimize", f"{tmp_path}/net.py:build", "--pipeline", "int8", "--target", "onnx", "--time-layers",
             "--calibration", str(tmp_path / "x.npz"), "--output", str(tmp_path / "out")]  # fmt: skip
    assert main([*asked, "--gen-script", str(tmp_path / "again.py")]) == 0
    assert "time_layers=True" in (tmp_path / "again.py").read_text()
    report = Report.from_json(json.loads((tmp_path / "out/report.json").read_text()))
    assert all(one.seconds > 0 for one in report.layers)
