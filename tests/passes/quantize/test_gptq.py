"""`gptq`: integers of weights by what layers' results are off by."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.errors import InputError, PipelineError
from fxopt.ops import bind, fake_quantize
from fxopt.passes.quantize import gptq
from fxopt.passes.quantize._calibration import watch
from fxopt.passes.quantize._optimal_rounding import Steps, round_optimally
from fxopt.passes.quantize.gptq import Gptq
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from fxopt.testing import check_pass
from tests.passes.helpers import calls, program, rand, reasons

MIXED = rand(12, 12, seed=9) + 2 * torch.eye(12)
DATA = [rand(64, 12, seed=s) @ MIXED for s in range(3)]


def rounded(before: Program, data: object = DATA, **options: object) -> Program:
    item = InsertFakeQuant(scheme=options.pop("scheme", "int8-weights"), **options)
    return PassManager.of([item]).run(before, calibration=data).program


def chosen(before: Program, data: object = DATA, **options: object) -> PipelineResult:
    return PassManager.of([Gptq(**options)]).run(before, calibration=data)


def error(before: Program, after: Program, data: list[torch.Tensor] = DATA) -> float:
    return float(torch.cat([(before(x) - after(x)).flatten() for x in data]).double().square().sum())


def steps(weights: torch.Tensor, bits: int = 3, zero_point: int = 0) -> Steps:
    high = 2 ** (bits - 1) - 1
    scale = (weights.abs().amax(1, keepdim=True) / high).expand_as(weights)
    return Steps(scale, torch.full_like(scale, zero_point), zero_point - high, zero_point + high)


def one_by_one(
    w: torch.Tensor, moments: torch.Tensor, grid: Steps, damping: float, order: list[int]
) -> torch.Tensor:
    """The paper's update with the inverse itself, from which an input is taken off once it is rounded."""
    w, left = w.clone(), list(order)
    moments = moments + damping * moments.diagonal().mean() * torch.eye(len(moments), dtype=w.dtype)
    for i in order:
        inverse = torch.linalg.inv(moments[left][:, left])
        q = grid.nearest(w[:, [i]], torch.tensor([i]))
        off = (w[:, [i]] - q) / inverse[0, 0]
        w[:, left] -= off * inverse[0]
        w[:, [i]] = q
        left = left[1:]
    return w


@pytest.mark.parametrize("block", [1, 2, 3, 7, 8])
def test_columns_in_blocks_give_what_they_give_at_once(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    w, x = rand(4, 7, seed=1).double(), rand(30, 7, seed=2).double() @ rand(7, 7, seed=3).double()
    moments = x.T @ x
    whole = round_optimally(w, moments, steps(w), damping=0.01, by_activation=True)
    monkeypatch.setattr("fxopt.passes.quantize._optimal_rounding._BLOCK", block)
    assert torch.equal(round_optimally(w, moments, steps(w), damping=0.01, by_activation=True), whole)
    assert not torch.equal(whole, steps(w).nearest(w))


def test_small_moments_count_as_large_ones_do() -> None:
    w, x = rand(4, 7, seed=1).double(), rand(30, 7, seed=2).double() @ rand(7, 7, seed=3).double()
    small, large = (
        round_optimally(w, m * x.T @ x, steps(w), damping=0.01, by_activation=False) for m in (1e-6, 1.0)
    )
    assert torch.equal(small, large)
    assert torch.equal(
        round_optimally(w, 0 * x.T @ x, steps(w), damping=0.01, by_activation=False), steps(w).nearest(w)
    )


def test_the_usual_options() -> None:
    assert (Gptq().damping, Gptq().act_order, Gptq().needs_calibration) == (0.01, True, True)


def test_the_nearest_value_by_hand() -> None:
    grid = Steps(torch.full((1, 3), 0.5), torch.full((1, 3), 3.0), 0, 7)
    assert grid.nearest(torch.tensor([[0.3, -9.0, 9.0]])).tolist() == [[0.5, -1.5, 2.0]]
    assert grid.nearest(torch.tensor([[0.3]]), torch.tensor([1])).tolist() == [[0.5]]


@pytest.mark.parametrize("by_activation", [False, True])
@pytest.mark.parametrize("zero_point", [0, 5])
def test_the_update_of_the_paper(by_activation: bool, zero_point: int) -> None:
    x = rand(400, 150, seed=1, dtype=torch.float64) @ rand(150, 150, seed=2, dtype=torch.float64)
    w, moments = rand(6, 150, dtype=torch.float64), x.t() @ x
    grid = steps(w, zero_point=zero_point)
    order = moments.diagonal().argsort(descending=True).tolist() if by_activation else list(range(150))
    wanted = one_by_one(w, moments, grid, 0.01, order)
    got = round_optimally(w, moments, grid, damping=0.01, by_activation=by_activation)
    assert torch.allclose(got, wanted)
    assert not torch.allclose(got, grid.nearest(w))


def test_no_result_is_further_off_than_with_the_nearest_values() -> None:
    for seed in range(10):
        x, w = rand(20, 6, seed=seed, dtype=torch.float64), rand(50, 6, seed=seed + 100, dtype=torch.float64)
        moments, grid = x.t() @ x, steps(w, bits=2)
        got = round_optimally(w, moments, grid, damping=1e-6, by_activation=False)
        off, nearest = (((w - v) @ x.t()).square().sum(1) for v in (got, grid.nearest(w)))
        assert bool((off <= nearest * (1 + 1e-9)).all())
        assert float(off.sum()) < float(nearest.sum())


def test_inputs_of_zeros_alone() -> None:
    w, grid = rand(3, 4, dtype=torch.float64), steps(rand(3, 4, dtype=torch.float64))
    zeros = torch.zeros(4, 4, dtype=torch.float64)
    assert torch.equal(round_optimally(w, zeros, grid, damping=0.01, by_activation=True), grid.nearest(w))
    zeros[1, 1] = 1.0  # the others are dead
    assert round_optimally(w, zeros, grid, damping=0.01, by_activation=True).isfinite().all()


def test_values_stay_within_the_integers() -> None:
    w = torch.tensor([[9.0, -9.0, 0.2]], dtype=torch.float64)
    grid = Steps(torch.ones_like(w), torch.zeros_like(w), -2, 1)
    assert grid.nearest(w).tolist() == [[1, -2, 0]]


# The pass


@pytest.mark.parametrize(
    ("function", "weights", "shape"),
    [
        (lambda x, w: F.linear(x, w), {"w": rand(5, 12)}, None),
        (lambda x, w: x @ w, {"w": rand(12, 5)}, None),
        (lambda x, w, b: torch.addmm(b, x, w), {"w": rand(12, 5), "b": rand(5)}, None),
        (lambda x, w: F.conv2d(x, w, padding=1, stride=2), {"w": rand(6, 4, 3, 3)}, (4, 4, 7, 7)),
        (lambda x, w: F.conv2d(x, w, groups=2, dilation=2), {"w": rand(6, 2, 3, 2)}, (4, 4, 7, 7)),
        (lambda x, w: F.conv2d(x, w, groups=4), {"w": rand(4, 1, 3, 3)}, (4, 4, 7, 7)),
        (lambda x, w: F.conv2d(x[0], w, padding=1), {"w": rand(6, 4, 3, 3)}, (4, 4, 7, 7)),
    ],
)
def test_results_are_off_by_less(
    function, weights: dict[str, torch.Tensor], shape: tuple[int, ...] | None
) -> None:
    data = DATA if shape is None else [rand(*shape, seed=s).cumsum(-1) for s in range(3)]
    before = program(function, data[0], **weights)
    first = rounded(before, data)
    result = chosen(first, data)
    after = result.program
    assert calls(after) == calls(first)
    assert result.passes[0].rewrites == 1
    assert error(before, after, data) < 0.95 * error(before, first, data)
    (rounding,) = (n for n in after.calls() if n.target is fake_quantize)
    new = after.weights[str(bind(rounding)["x"].target)]
    numbers = [after.weights[str(bind(rounding)[n].target)] for n in ("scale", "zero_point")]
    assert torch.equal(fake_quantize(new, *numbers, -128, 127), new), "values of the same integers"
    assert torch.equal(after.weights["w_scale"], first.weights["w_scale"])


def test_the_moments_are_those_of_all_data() -> None:
    before = program(F.linear, DATA[0], dynamic=True, weight=rand(5, 12))
    first = rounded(before)
    whole = torch.cat(DATA)
    once, streamed = (chosen(first, d).program for d in ([whole], [whole[:7], whole[:0], whole[7:]]))
    assert torch.equal(once.weights["weight"], streamed.weights["weight"])
    assert not torch.equal(once.weights["weight"], chosen(first, [whole[:7]]).program.weights["weight"])


def test_a_second_run_changes_nothing() -> None:
    first = chosen(rounded(program(F.linear, DATA[0], weight=rand(5, 12)))).program
    assert not chosen(first).passes[0].changed


def test_layers_that_share_a_rounding() -> None:
    def net(x, w, s, z):
        q = fake_quantize(w, s, z, -128, 127)
        return F.linear(x, q) + F.linear(x.flip(1), q)

    w = rand(12, 12)
    scale = w.abs().amax(1, keepdim=True) / 127
    first = program(net, DATA[0], w=w, s=scale, z=torch.tensor(0))
    first.properties |= {"quantized"}
    before = program(lambda x, w: F.linear(x, w) + F.linear(x.flip(1), w), DATA[0], w=w)
    result = chosen(first)
    assert result.passes[0].rewrites == 1
    assert error(before, result.program) < error(before, first)


def test_memory_for_one_layer_at_a_time(monkeypatch) -> None:
    def net(x, w, v):
        return F.linear(F.linear(x, w).relu(), v)

    before = program(net, DATA[0], w=rand(8, 12), v=rand(5, 8, seed=1))
    first = rounded(before)
    reads = []
    monkeypatch.setattr(gptq, "watch", lambda p, seen, data: reads.append(len(seen)) or watch(p, seen, data))
    for most, passes in ((12**2 + 8**2, [2]), (12**2 + 8**2 - 1, [1, 1]), (1, [1, 1])):
        monkeypatch.setattr(gptq, "_AT_ONCE", most)
        reads.clear()
        after = chosen(first).program
        assert reads == passes
        assert error(before, after) < error(before, first)


def test_the_order_and_the_damping_count() -> None:
    first = rounded(program(F.linear, DATA[0], weight=rand(40, 12)))
    found = [
        chosen(first, **o).program.weights["weight"] for o in ({}, {"act_order": False}, {"damping": 10.0})
    ]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_activations_are_rounded_when_moments_are_taken() -> None:
    before = program(F.linear, DATA[0], weight=rand(5, 12), bias=rand(5))
    first = rounded(before, scheme="int8")
    after = chosen(first).program
    assert calls(after) == calls(first)
    assert error(before, after) < error(before, first)


# What it leaves alone


@pytest.mark.parametrize(
    ("function", "weights", "why"),
    [
        (
            lambda x, w: F.conv1d(x[:, None], w),
            {"w": rand(5, 1, 3)},
            "it is no product with a matrix and no convolution in two dimensions",
        ),
        (
            lambda x, w: w @ x.t(),
            {"w": rand(5, 12)},
            "it is no product with a matrix and no convolution in two dimensions",
        ),
    ],
)
def test_refusals(function, weights: dict[str, torch.Tensor], why: str) -> None:
    result = chosen(rounded(program(function, DATA[0], **weights)))
    assert not result.passes[0].changed
    assert reasons(result) == [why]


def test_a_weight_that_is_read_elsewhere() -> None:
    def net(x, w, s, z):
        q = fake_quantize(w, s, z, -128, 127)
        return F.linear(x, q) + q.sum()

    before = program(net, DATA[0], w=rand(5, 12), s=torch.tensor(0.1), z=torch.tensor(0))
    before.properties |= {"quantized"}
    result = chosen(before)
    assert not result.passes[0].changed
    assert reasons(result) == ["its weight is read elsewhere too"]


def test_a_weight_that_is_rounded_twice() -> None:
    result = chosen(
        rounded(program(lambda x, w: F.linear(x, w) + F.linear(x + 1, w), DATA[0], w=rand(5, 12)))
    )
    assert not result.passes[0].changed
    assert reasons(result) == ["its weight is read elsewhere too"] * 2


def test_ignored() -> None:
    result = chosen(rounded(program(F.linear, DATA[0], weight=rand(5, 12))), ignore=("linear",))
    assert not result.passes[0].changed
    assert reasons(result) == ["it matches ignore=linear"]


def test_no_data_for_a_layer() -> None:
    before = program(F.linear, DATA[0], dynamic=True, weight=rand(5, 12))
    result = chosen(rounded(before), [DATA[0][:0]])
    assert not result.passes[0].changed
    assert reasons(result) == ["calibration never ran it"]


def test_nan_names_the_batch_and_the_layer() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(12, 4))
    bad = DATA[1].clone()
    bad[0, 0] = math.nan
    with pytest.raises(
        InputError, match="batch 1 of the calibration data: the result of 0: a value is NaN or infinite"
    ):
        chosen(rounded(program(model, DATA[0])), [DATA[0], bad])


@pytest.mark.parametrize("damping", [0.0, -1.0, math.nan])
def test_damping_is_positive(damping: float) -> None:
    with pytest.raises(PipelineError, match="expected a number above 0"):
        Gptq(damping=damping)


def test_it_comes_after_rounding() -> None:
    with pytest.raises(PipelineError, match="requires a program that is 'quantized'"):
        chosen(program(F.linear, DATA[0], weight=rand(5, 12)))


def test_drawn_programs() -> None:
    check_pass(Gptq(), examples=25)
