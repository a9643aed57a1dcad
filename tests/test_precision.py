"""Mixed precision: layers stay in float until an accuracy is kept, and the report says what was tried."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fxopt
from fxopt.errors import InputError
from fxopt.optimizer import OptimizeResult
from fxopt.optimizer.precision import _in_order, sqnr
from fxopt.passes.quantize import LayerError
from fxopt.report import PrecisionReport, Report
from tests.passes.helpers import program, rand


class Fragile(nn.Module):
    """One layer reads a value with outliers that cancel in its result: 8 bits leave little of what remains.

    `equalize-layers` would mend that, so that the pipelines here do without.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.a.weight[:2] *= 300
            self.b.weight[:, 1] = self.b.weight[:, 0] = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


DATA = [rand(16, 8, seed=s) for s in range(4)]


def optimized(**options: object) -> OptimizeResult:
    given = {"pipeline": "int8{equalize=false}", "target": "eager", "calibration": DATA, **options}
    return fxopt.optimize(Fragile().eval(), (DATA[0],), **given)


def chosen(report: Report) -> PrecisionReport:
    assert report.precision is not None
    return report.precision


def test_the_layer_that_loses_most_gets_floats() -> None:
    before = optimized().report
    assert before.precision is None
    assert max(before.layers, key=lambda one: -one.sqnr).name == "b"
    result = optimized(min_sqnr=25)
    found = chosen(result.report)
    assert found.met and found.score >= 25 and result.report.missed == ""
    assert found.layers == ("b=int8-weights",)
    assert result.report.pipeline == 'int8{equalize=false,layers=["b=int8-weights"]}'
    assert [(len(t.layers), t.met) for t in found.tried] == [(0, False), (1, True)]
    kinds = {one.name: (one.activation_bits, one.weight_bits) for one in result.report.layers}
    assert kinds == {"a": (8, 8), "b": (32, 8), "c": (8, 8)}
    assert sum(one.share for one in result.report.layers) == pytest.approx(1)


def test_nothing_is_changed_where_it_is_enough() -> None:
    found = chosen(optimized(min_sqnr=5).report)
    assert (found.met, found.layers, len(found.tried)) == (True, (), 1)


def test_the_fewest_changes_that_do_are_found() -> None:
    """0, 1, 2, 4 and all six changes are tried, then the fifth."""
    every = chosen(optimized(min_sqnr=1000).report).tried
    assert [round(t.score) for t in every[:4]] == sorted(round(t.score) for t in every[:4])
    assert len(every) == 6 and [t.met for t in every] == [False] * 4 + [True, False]
    found = chosen(optimized(min_sqnr=every[2].score - 0.1).report)
    assert found.score == every[2].score and found.layers == every[2].layers
    assert [t.met for t in found.tried] == [False, False, True]


def test_the_best_is_kept_where_no_choice_does(tmp_path: Path) -> None:
    path = tmp_path / "m.fxopt"
    kept, seen = by_sqnr(), list[object]()

    def metric(run: Callable[..., object]) -> float:
        seen.append(run)
        return kept(run) + 9 * (run is seen[0])

    report = optimized(metric=metric, max_drop=1.0, path=path).report
    assert path.is_file() and report.ok
    found = chosen(report)
    assert not found.met and found.score == max(t.score for t in found.tried)
    assert len(found.tried) == 5, "0, 1, 2, 4 and all six changes"
    assert "a metric of at least 10 - 1 was asked for" in report.missed
    assert report.missed in report.warnings
    assert set(found.layers) == {"a=float", "b=float", "c=float"}, "all that can be done was done"


def by_sqnr() -> Callable[[Callable[..., object]], float]:
    model = Fragile().eval()
    with torch.no_grad():
        wanted = model(DATA[0])

    def metric(run: Callable[..., object]) -> float:
        got = run(DATA[0])
        assert isinstance(got, torch.Tensor)
        return 1 - float((got - wanted).square().sum() / wanted.square().sum())

    return metric


def test_a_metric_with_a_budget() -> None:
    report = optimized(metric=by_sqnr(), max_drop=0.003).report
    assert report.metric is not None and report.metric.met
    assert chosen(report).layers and chosen(report).goal == "a metric of at least 1 - 0.003"
    assert chosen(report).next, "what would have come next"


def test_a_metric_that_no_choice_keeps(tmp_path: Path) -> None:
    metric = by_sqnr()
    path = tmp_path / "m.fxopt"
    report = optimized(
        metric=lambda run: metric(run) + (run is None) - (not isinstance(run, fxopt.Program)),
        max_drop=0.5,
        path=path,
    ).report
    assert report.metric is not None and not report.metric.met
    assert report.missed and path.is_file(), "the simulated program kept it, the file did not"


def test_without_a_budget_nothing_is_chosen() -> None:
    report = optimized(metric=by_sqnr()).report
    assert report.precision is None and report.metric is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_sqnr": 30, "pipeline": "O1"}, "give a pipeline that quantizes"),
        ({"min_sqnr": 30, "pipeline": "int8-weights", "calibration": None}, "give a pipeline that quantizes"),
        ({"min_sqnr": "much"}, "expected a number of dB"),
        ({"min_sqnr": math.inf}, "expected a number of dB"),
        ({"min_sqnr": 30, "max_drop": 0.1, "metric": lambda run: 1.0}, "both given"),
    ],
)
def test_what_can_not_be_asked_for(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimized(**options)


@pytest.mark.parametrize("pipeline", ["int8-dynamic", "int4-weights{block=32}", "int8-weights"])
def test_other_schemes_have_their_steps(pipeline: str) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    data = [rand(8, 32, seed=s) for s in range(2)]
    report = fxopt.optimize(
        model, (data[0],), pipeline=pipeline, target="eager", calibration=iter(data), min_sqnr=90
    ).report
    found = chosen(report)
    assert found.met and set(found.layers) == {"0=float", "2=float"}


def test_the_measure_is_the_mean_over_outputs() -> None:
    def two(x: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return x * s, x * 100, x > 0

    x = rand(4, 3)
    before = program(two, x, s=torch.ones(()))
    after = program(two, x, s=torch.tensor(1.1))
    score = sqnr(before, [x, (x, "a target")])
    assert score(after) == pytest.approx(-10 * math.log10(0.01 / 2), abs=1e-3)
    assert score(before) == math.inf
    assert sqnr(before, [torch.zeros(4, 3)])(after) == math.inf


def test_a_lone_layer_is_searched() -> None:
    """The whole model is one layer, which has no module path."""
    torch.manual_seed(0)
    options = {"pipeline": "int8", "target": "eager", "calibration": DATA}
    result = fxopt.optimize(nn.Linear(8, 4).eval(), (DATA[0],), min_sqnr=45, **options)
    assert chosen(result.report).layers == ("weight=int8-weights",)
    assert [(one.name, one.activation_bits) for one in result.report.layers] == [("weight", 32)]


def test_layers_of_a_functional_model_are_searched() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.w, self.b = nn.Parameter(torch.randn(16, 8)), nn.Parameter(torch.randn(16))
            self.rest = nn.ParameterList([torch.randn(16, 4)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.w, self.b).relu() @ self.rest[0]

    result = fxopt.optimize(
        Functional().eval(), (DATA[0],), pipeline="int8", target="onnx", calibration=DATA, min_sqnr=150
    )
    assert set(chosen(result.report).layers) == {"w=float", "rest.0=float"}


def layer(name: str, *, error: float, flops: int, of_weights: float = 0.0) -> LayerError:
    node = next(iter(program(torch.neg, rand(2)).calls()))
    return LayerError(
        node, name, f"{name}.w", (8, 8), flops, weight_bytes=10, output=error, output_of_weights=of_weights
    )


def test_of_equal_gains_the_cheapest_comes_first() -> None:
    dear, cheap = layer("dear", error=1.0, flops=900), layer("cheap", error=1.0, flops=100)
    for layers in ([dear, cheap], [cheap, dear]):
        changes = list(_in_order(layers))
        assert [(c.module, c.scheme) for c in changes[:2]] == [
            ("cheap", "int8-weights"),
            ("dear", "int8-weights"),
        ]
        assert [round(c.cost, 3) for c in changes[:2]] == [0.1, 0.9]


def test_a_dear_layer_comes_first_where_it_gains_more_for_its_cost() -> None:
    layers = [layer("cheap", error=1.0, flops=100), layer("dear", error=20.0, flops=900)]
    assert [c.module for c in _in_order(layers)][:2] == ["dear", "cheap"]


def test_a_layer_s_weights_follow_its_activations() -> None:
    """Also where the weights are what gains more for its cost."""
    changes = list(_in_order([layer("one", error=1.0, of_weights=0.99, flops=100)]))
    assert [c.scheme for c in changes] == ["int8-weights", "float"]
    assert [c.gain for c in changes] == pytest.approx([0.01, 0.99])
