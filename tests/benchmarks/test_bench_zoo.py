"""The benchmark's figures and the page that shows them."""

import json
from pathlib import Path

import pytest

from benchmarks.bench_zoo import PAGE, RESULTS, measure, summed
from benchmarks.markdown import BARS, page
from fxopt.measure import this_machine
from tests.zoo import names

FAST = ["model", "fxopt eager", "TorchScript freeze", "fxopt torchscript", "fxopt onnx"]


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("zoo")
    return summed([measure("mlp", FAST, 0.01, seed, folder) for seed in (1, 2)])


def test_every_side_computes_what_the_model_does(row: dict):
    assert list(row["sides"]) == FAST
    for side, made in row["sides"].items():
        assert made["error"] < 1e-5
        assert 0 < made["cpu"]["median"] < 1
        assert (made["size"] > 0) is (side != "model")
        assert (made["nodes"] > 0) is (side == "fxopt onnx")
    assert row["failures"] == {}
    assert row["rounds"] >= 30


def test_the_second_process_takes_the_files_of_the_first(tmp_path: Path):
    first, second = (measure("mlp", ["model", "fxopt onnx"], 0.01, seed, tmp_path) for seed in (1, 2))
    assert first["sides"]["fxopt onnx"]["seconds"] > 0  # type: ignore[index]
    assert second["sides"]["fxopt onnx"]["seconds"] == 0  # type: ignore[index]


def results(row: dict, eager: float, onnx: float) -> dict:
    speeds = {
        pair: {"value": value, "low": value - 0.01, "high": value + 0.01}
        for pair, value in (("fxopt eager / model", eager), ("fxopt onnx / torch.onnx.export", onnx))
    }
    least = {"model": 4.0, "fxopt eager": 1.0, "fxopt onnx": 1.0, "torch.onnx.export": 2.0}
    model = row["sides"]["model"]
    sides = {side: {**model, "cpu": {**model["cpu"], "least": x}} for side, x in least.items()}
    made = {
        **{key: row[key] for key in ("date", "starts", "rounds")},
        "sides": sides,
        "speeds": speeds,
        "failures": {"onnxsim": "E: a|b"},
    }
    return {"machine": this_machine().to_json(), "models": {"mlp": made}}


def test_the_page(row: dict):
    text = page(results(row, 1.5, 0.97))
    assert "on every model. Met." in text
    assert "| mlp | 1.50 (1.49 to 1.51; 4.00) | 0.97 (0.96 to 0.98; 2.00) | 2 | " in text
    assert "| mlp | onnxsim | `E: a/b` |" in text
    slow = page(results(row, 1.5, 0.96))
    assert "Not met by fxopt onnx on mlp (0.96)." in slow


def test_the_page_of_the_documentation_is_that_of_the_figures():
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(RESULTS.read_text(encoding="utf-8")))


def test_the_bars_were_measured_on_every_model():
    models = json.loads(RESULTS.read_text(encoding="utf-8"))["models"]
    assert sorted(models) == sorted(names())
    assert all(f"{side} / {of}" in row["speeds"] for row in models.values() for side, of in BARS)
