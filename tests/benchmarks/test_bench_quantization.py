"""The figures of quantization, the bars they are held to, and the page that shows them."""

import json
import math

import pytest
import torch

from benchmarks.bench_quantization import CASES, FLOAT, MODEL, PAGE, RESULTS, losses, page
from benchmarks.quantization_bars import Bar, bars, count


@pytest.fixture(scope="module")
def results() -> dict:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_page_of_the_documentation_is_that_of_the_figures(results: dict) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(results)
    assert list(results["models"]) == [name for name in CASES if name in results["models"]]


@pytest.mark.parametrize("target", ["eager", "torchscript"])
def test_integer_kernels_of_torch_are_four_times_as_fast_as_the_model(results: dict, target: str) -> None:
    assert results["models"]["resnet18"]["sides"][f"fxopt int8 {target}"]["speed"][MODEL]["value"] >= 4


@pytest.mark.parametrize(("name", "gain"), [("resnet18", 1), ("mobilenetv2", 0)])
def test_less_is_lost_than_by_onnxruntime_s_tools(results: dict, name: str, gain: float) -> None:
    found = results["models"][name]["sides"]
    assert found["fxopt int8 onnx"]["sqnr"] >= found["onnxruntime int8"]["sqnr"] + gain
    assert found["fxopt int8 onnx"]["size"] < 0.28 * found[FLOAT]["size"]


def test_losses() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    wanted = [x[:1], x[1:]]
    found = losses(lambda b: b + torch.tensor([0.0, 0.1]), wanted, [(x[:1],), (x[1:],)])
    assert found["sqnr"] == pytest.approx(10 * math.log10(29 / 0.02), abs=1e-3)
    assert found["cosine"] == pytest.approx((25.4 / (5 * math.hypot(3, 4.1)) + 1) / 2, abs=1e-6)


def test_bars(results: dict) -> None:
    found = list(bars(results["models"]))
    assert len(found) == count(results["models"]) >= 17, "of every line the figures are there"
    sides = results["models"]["mobilenetv2"]["sides"]
    (gain,) = (b for b in found if b.model == "mobilenetv2" and b.unit == "dB")
    assert gain.measured == sides["fxopt int8 onnx"]["sqnr"] - sides["onnxruntime int8"]["sqnr"]
    assert [b.what for b in found if not b.met] == [b.what for b in found if b.cells()[-1] == "no"]


def test_a_bar_that_is_touched_is_met() -> None:
    assert Bar("m", "w", "at least", 1.0, 1.0, "x").met
    assert Bar("m", "w", "at most", 1.0, 1.0, "MB").met
    assert Bar("m", "w", "at most", 1.0, 1.01, "MB").cells() == ["m", "w", "at most 1.00 MB", "1.01 MB", "no"]
    assert not Bar("m", "w", "at least", 0.9995, 0.9994, "").met
