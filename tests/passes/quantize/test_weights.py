"""`insert-fake-quant` without calibration: weights, tables, and activations by their range at each call."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.analysis.ranges import Grid
from fxopt.ops import bind, choose_qparams, fake_quantize
from fxopt.passes.quantize._rounding import weight_scale
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from fxopt.testing import check_pass
from tests.passes.helpers import calls, program, rand, reasons

SCHEMES = ("int8-dynamic", "int8-weights")


def run(before: Program, scheme: str, **options: object) -> PipelineResult:
    return PassManager.of([InsertFakeQuant(scheme=scheme, **options)]).run(before)


def test_weights_alone() -> None:
    before = program(F.linear, rand(8, 6), weight=rand(5, 6, seed=1), bias=rand(5, seed=2))
    after = run(before, "int8-weights").program
    assert calls(after) == ["fake_quantize", "linear"]
    assert after.weights["weight_scale"].shape == (5, 1)
    assert torch.equal(after.weights["bias"], before.weights["bias"])


def test_activations_by_their_range_at_each_call() -> None:
    before = program(F.linear, rand(8, 6), weight=rand(5, 6, seed=1), bias=rand(5, seed=2))
    after = run(before, "int8-dynamic").program
    assert calls(after) == [
        "fake_quantize",
        "choose_qparams",
        "getitem",
        "getitem",
        "fake_quantize",
        "linear",
    ]
    for size in (1.0, 1000.0):
        x = rand(8, 6, seed=3) * size
        wanted, got = before(x), after(x)
        assert (wanted - got).abs().max() < 0.05 * size, "no range is fixed"


def test_the_range_is_that_of_dynamic_quantize_linear() -> None:
    x = torch.tensor([-1.0, 0.0, 4.0])
    scale, zero_point = choose_qparams(x, 0, 255)
    assert float(scale) == pytest.approx(5 / 255)
    assert (int(zero_point), zero_point.dtype) == (51, torch.uint8)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_table_that_is_left_out_is_told(scheme: str) -> None:
    result = run(program(nn.Embedding(10, 4), torch.arange(6)), scheme, ignore=("embedding",))
    assert reasons(result) == ["it stays in float: it matches ignore=embedding"]


def test_the_scale_of_nothing() -> None:
    scale = weight_scale(torch.zeros(0, 3), None, Grid(8, signed=True, narrow=True), torch.zeros(()))
    nothing = weight_scale(torch.zeros(2, 3), None, Grid(8, signed=True, narrow=True), torch.zeros(()))
    assert scale == nothing


def test_readers_of_one_value_share_its_rounding() -> None:
    def two(x, w, v):
        return F.linear(x, w), F.linear(x, v)

    after = run(program(two, rand(8, 6), w=rand(3, 6), v=rand(2, 6)), "int8-dynamic").program
    assert calls(after).count("choose_qparams") == 1


@pytest.mark.parametrize("scheme", ["int8", *SCHEMES])
def test_a_table_has_a_scale_a_row(scheme: str) -> None:
    ids = torch.arange(6).reshape(2, 3)
    before = program(nn.Embedding(10, 4), ids)
    after = PassManager.of([InsertFakeQuant(scheme=scheme)]).run(before, calibration=[ids]).program
    assert calls(after) == ["fake_quantize", "embedding"]
    assert after.weights["weight_scale"].shape == (10, 1)
    assert (after(ids) - before(ids)).abs().max() < 0.02


def test_a_table_that_a_layer_reads_too() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return F.linear(self.table(ids), self.table.weight)

    ids = torch.arange(6).reshape(2, 3)
    before = program(Tied(), ids)
    for scheme in ("int8", *SCHEMES):
        after = PassManager.of([InsertFakeQuant(scheme=scheme)]).run(before, calibration=[ids]).program
        assert (after(ids) - before(ids)).abs().max() < 0.2
        assert [n for n, t in after.weights.items() if t.numel() == 40] == ["table.weight"]


def test_convolutions_read_floats() -> None:
    x = rand(2, 3, 5, 5)
    result = run(program(nn.Conv2d(3, 4, 3), x), "int8-dynamic")
    assert calls(result.program) == ["fake_quantize", "conv2d"]
    assert reasons(result) == [
        "what it reads stays in float: generic has no kernel that rounds it at each call"
    ]


def test_sums_that_an_accumulator_does_not_hold_read_floats() -> None:
    length = (2**31 - 1) // (255 * 128) + 1
    result = run(program(F.linear, rand(1, length), weight=rand(1, length, seed=1)), "int8-dynamic")
    assert "choose_qparams" not in calls(result.program)
    assert "may overflow" in reasons(result)[0]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("function", "weights", "why"),
    [
        (lambda x: x @ x.t(), {}, "it is a product of two activations"),
        (lambda x, w: F.linear(x.double(), w.double()), {"w": rand(3, 6)}, "does not compute in float32"),
    ],
)
def test_products_that_stay_in_float(function, weights, why, scheme: str) -> None:
    result = run(program(function, rand(8, 6), **weights), scheme)
    assert not result.passes[0].changed
    assert why in reasons(result)[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_calls_left_out(scheme: str) -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    before = program(model, torch.arange(6).reshape(2, 3))
    after = run(before, scheme, ignore=("1", "embedding")).program
    rounded = [n for n in after.calls() if n.target is fake_quantize and bind(n)["x"].op == "get_attr"]
    assert [str(bind(n)["x"].target) for n in rounded] == ["2.weight"]


def test_no_calibration_is_asked_for() -> None:
    before = program(F.linear, rand(8, 6), weight=rand(5, 6))
    for scheme in SCHEMES:
        assert "quantized" in fxopt.run_pipeline(before, scheme).properties


def test_an_empty_batch() -> None:
    before = program(F.linear, rand(8, 6), dynamic=True, weight=rand(5, 6))
    assert run(before, "int8-dynamic").program(torch.zeros(0, 6)).shape == (0, 5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_drawn_programs(scheme: str) -> None:
    check_pass(InsertFakeQuant(scheme=scheme), examples=25)


def rows_of_two_sizes() -> tuple[Program, torch.Tensor]:
    x = rand(8, 6, seed=3)
    x[0] *= 1000
    x[1] = 0
    return program(F.linear, x, weight=rand(5, 6, seed=1), bias=rand(5, seed=2)), x


def test_rows_of_one_size() -> None:
    """A row that outweighs the others takes nothing from them; one of zeros stays one."""
    before, x = rows_of_two_sizes()
    after = run(before, "int8-dynamic", rows=True).program
    assert calls(after)[:4] == ["fake_quantize", "abs", "amax", "clamp_min"]
    assert calls(after)[-3:] == ["linear", "mul", "add"]
    assert torch.equal(after(x)[1], before.weights["bias"])
    off = (before(x) - after(x)).abs().amax(1)
    size = x.abs().amax(1)
    assert (off <= 0.05 * size).all()
    plain = run(before, "int8-dynamic").program
    assert (before(x) - plain(x)).abs().amax(1)[2:].min() > off[2:].max()


def test_rows_without_a_bias_and_of_other_products() -> None:
    x = rand(8, 6)
    after = run(program(F.linear, x, weight=rand(5, 6)), "int8-dynamic", rows=True).program
    assert calls(after)[-2:] == ["linear", "mul"]
    after = run(program(torch.matmul, x, other=rand(6, 5)), "int8-dynamic", rows=True).program
    assert "amax" not in calls(after) and "choose_qparams" in calls(after)
    after = run(program(F.linear, x, weight=rand(5, 6)), "int8-weights", rows=True).program
    assert calls(after) == ["fake_quantize", "linear"]


def test_readers_of_one_value_share_its_rows() -> None:
    def two(x, w, v):
        return F.linear(x, w), F.linear(x, v)

    after = run(program(two, rand(8, 6), w=rand(3, 6), v=rand(2, 6)), "int8-dynamic", rows=True).program
    assert calls(after).count("amax") == calls(after).count("choose_qparams") == 1


@pytest.mark.parametrize("target", ["onnx", "torchscript", "eager"])
def test_files_of_rows(target: str) -> None:
    before, _ = rows_of_two_sizes()
    fxopt.lower(run(before, "int8-dynamic", rows=True).program, target)
