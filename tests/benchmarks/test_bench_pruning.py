"""The figures of pruning, the bars they are held to, and the page that shows them."""

import json

import pytest

from benchmarks.bench_pruning import KEPT, PAGE, RESULTS, measure, page
from tests.zoo import names

LEFT = {"digits": 26, "resnet10": 41, "shufflenetv2": 51, "mobilenetv2": 48, "bert": 82}
"""Percent of the parameters that may be left, by the figures of a prototype."""


@pytest.fixture(scope="module")
def results() -> dict:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_page_of_the_documentation_is_that_of_the_figures(results: dict):
    assert PAGE.read_text(encoding="utf-8") == page(results)


def test_every_model_works_and_keeps_its_function(results: dict):
    assert sorted(results["models"]) == sorted(names())
    assert all(row["fxopt"].get("error", 1) < KEPT for row in results["models"].values())


def test_no_less_goes_than_torch_pruning_takes_where_it_keeps_the_function(results: dict):
    both = [(r["fxopt"], r["Torch-Pruning"]) for r in results["models"].values()]
    kept = [(ours, theirs) for ours, theirs in both if theirs.get("error", 1) < KEPT]
    assert kept
    assert all(ours["left"] <= theirs["left"] for ours, theirs in kept)


@pytest.mark.parametrize("name", sorted(LEFT))
def test_no_more_is_left_than_by_the_prototype(results: dict, name: str):
    row = results["models"][name]["fxopt"]
    assert round(100 * row["left"] / row["before"]) <= LEFT[name]


def test_a_large_network_takes_seconds(results: dict):
    assert results["large"]["before"] > 25e6
    assert results["large"]["seconds"] < 10


def test_half_of_the_channels_make_files_twice_as_fast(results: dict):
    for target in ("onnx", "torchscript"):
        assert results["speed"][target]["low"] >= 2.0
        assert results["speed"][target]["size"] < 1.1 * results["speed"]["params"]


def test_a_model_is_measured():
    made = measure("mlp", "fxopt")
    assert made["error"] < KEPT  # type: ignore[operator]
    assert made["left"] < 0.51 * made["before"]  # type: ignore[operator]
