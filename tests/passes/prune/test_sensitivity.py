"""The picture and the table of a scan, number by number."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from fxopt.errors import InputError
from fxopt.passes.prune import Sensitivity, scan_sensitivity
from tests.passes.helpers import rand
from tests.passes.prune.test_prune import hidden

SCAN = Sensitivity(1.0, (0.25, 0.5), ("first", "b"), ((0.9, 0.5), (1.2, 0.75)))


def test_the_picture(tmp_path: Path) -> None:
    """The first column begins after 8 pixels a letter of the longest name; cells are 64 by 20."""
    SCAN.plot(tmp_path / "scan.svg")
    picture = ElementTree.parse(tmp_path / "scan.svg").getroot()
    assert (picture.get("width"), picture.get("height")) == ("184", "60")
    parts = [(e.tag.rpartition("}")[2], e) for e in picture]
    cells = [
        tuple(e.get(k) for k in ("x", "y", "width", "height", "fill")) for tag, e in parts if tag == "rect"
    ]
    assert cells == [
        ("56", "20", "63", "19", "rgb(255,204,204)"),  # a fifth of the largest drop
        ("120", "20", "63", "19", "rgb(255,0,0)"),
        ("56", "40", "63", "19", "rgb(255,255,255)"),  # better than before is no drop
        ("120", "40", "63", "19", "rgb(255,128,128)"),
    ]
    texts = [(e.get("x"), e.get("y"), e.text) for tag, e in parts if tag == "text"]
    assert texts == [
        ("60", "14", "25%"), ("124", "14", "50%"),
        ("4", "34", "first"), ("60", "34", "0.9"), ("124", "34", "0.5"),
        ("4", "54", "b"), ("60", "54", "1.2"), ("124", "54", "0.75"),
    ]  # fmt: skip


def test_a_scan_without_any_drop_is_white() -> None:
    for scan in (Sensitivity(1.0, (0.5,), ("a",), ((1.5,),)), Sensitivity(1.0, (0.5,), ("a",), ((1.0,),))):
        assert 'fill="rgb(255,255,255)"' in scan._svg()


def test_a_picture_of_nothing() -> None:
    assert 'width="16" height="20"' in Sensitivity(1.0, (), (), ())._svg()


def test_the_table() -> None:
    assert SCAN.table().splitlines() == [
        "layer  25%  50%",
        "first  0.9  0.5",
        "b      1.2  0.75",
        "whole model: 1",
    ]


def test_the_largest_ratio_before_the_first_loss() -> None:
    scan = Sensitivity(1.0, (0.25, 0.5, 0.75), ("a",), ((0.75, 0.25, 1.0),))
    assert [scan.most("a", max_drop=d) for d in (0.125, 0.25, 0.5, 0.75)] == [0.0, 0.25, 0.25, 0.75]
    with pytest.raises(ValueError, match="not in tuple"):
        scan.most("b", max_drop=0.0)


def test_the_usual_ratios() -> None:
    before, x = hidden(), rand(2, 4)
    expected = before(x)
    assert isinstance(expected, torch.Tensor)

    def metric(run) -> float:
        return -float((run(x) - expected).abs().sum())

    scan = scan_sensitivity(before, metric)
    assert scan.ratios == (0.25, 0.5, 0.75, 0.9)
    assert scan.layers == ("w",) and len(scan.scores[0]) == 4
    assert list(scan.scores[0]) == sorted(scan.scores[0], reverse=True)


def test_one_weight_at_a_time_has_zeros() -> None:
    before, seen = hidden(), []

    def metric(run) -> float:
        seen.append({n: int((w == 0).sum()) for n, w in run.weights.items()})
        return 0.0

    scan_sensitivity(before, metric, ratios=(0.5,), granularity="weight")
    assert seen[:2] == [{"w": 16, "b": 0, "v": 0}, {"w": 0, "b": 0, "v": 12}]


def test_a_module_is_no_program() -> None:
    with pytest.raises(InputError, match="scan_sensitivity takes a Program"):
        scan_sensitivity(torch.nn.Linear(2, 2), lambda run: 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda run: run(rand(2, 9)) and 0.0, r"the metric fails for w pruned by 0.25: \w+Error: "),
        (lambda run: "high", "the metric fails for w pruned by 0.25: ValueError: could not convert string"),
    ],
)
def test_a_metric_that_raises_is_told(metric, message: str) -> None:  # type: ignore[no-untyped-def]  # mistakes
    with pytest.raises(InputError, match=message):
        scan_sensitivity(hidden(), metric)
