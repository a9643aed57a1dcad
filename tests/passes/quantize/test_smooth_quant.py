"""`smooth-quant`: outlying channels of norms move into the weights that read them; the function stays."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.errors import InputError, PipelineError
from fxopt.passes.quantize import _smoothing
from fxopt.passes.quantize._smoothing import Channels, best_scale, rounding_error, smoothing_scale
from fxopt.passes.quantize.smooth_quant import SmoothQuant
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from fxopt.testing import check_once, check_pass
from tests.passes.helpers import calls, program, rand, reasons

DATA = [rand(32, 16, seed=s) for s in range(3)]


def outlying(size: int = 16, channel: int = 3, by: float = 50.0) -> torch.Tensor:
    """Weights of a norm, one of them large."""
    g = torch.ones(size)
    g[channel] = by
    return g


def block(x, g, b, w, v):
    y = F.layer_norm(x, x.shape[-1:], g, b)
    return F.linear(F.linear(y, w).relu(), v) + y


def a_block() -> Program:
    weights = {"g": outlying(), "b": rand(16, seed=4), "w": rand(24, 16, seed=5), "v": rand(16, 24, seed=6)}
    return program(block, DATA[0], **weights)


def smoothed(before: Program, data: object = DATA, **options: object) -> PipelineResult:
    check_once(SmoothQuant(**options), before)
    return PassManager.of([SmoothQuant(**options)]).run(before, calibration=data)


def test_a_scale_has_a_number_a_channel() -> None:
    channels = Channels()
    channels.update(rand(64, 4) * torch.tensor([1.0, 1.0, 1.0, 100.0]))
    found = best_scale(channels, rand(4, 6))
    assert found is not None and found.shape == (4,)
    assert best_scale(channels, torch.zeros(4, 6)) is None


def test_ranges_of_large_doubles() -> None:
    channels = Channels()
    channels.update(torch.tensor([[1.7e308], [-1.7e308]], dtype=torch.float64))
    assert (float(channels.low), float(channels.high)) == (-1.7e308, 1.7e308)
    for bad in (math.inf, -math.inf, math.nan):
        with pytest.raises(InputError, match="1 of 2 values are NaN or infinite"):
            channels.update(torch.tensor([[1.0], [bad]]))


def sqnr(before: Program, after: Program, data: list[torch.Tensor] = DATA) -> float:
    wanted, got = (torch.cat([p(x) for x in data]).double() for p in (before, after))
    return 10 * math.log10(float(wanted.square().sum() / (wanted - got).square().sum()))


def test_the_norm_shrinks_and_weights_grow() -> None:
    before = a_block()
    after = smoothed(before, alpha=0.5).program
    assert calls(after) == ["layer_norm", "mul", "linear", "relu", "linear", "add"]
    s = after.weights["layer_norm_smoothing"]
    assert torch.allclose(after.weights["g"] * s, before.weights["g"])
    assert torch.allclose(after.weights["b"] * s, before.weights["b"])
    assert torch.allclose(after.weights["w"] / s, before.weights["w"])
    assert after.weights["v"] is before.weights["v"]
    assert sqnr(before, after) > 100


def test_the_scale_is_that_of_the_paper() -> None:
    before = a_block()
    after = smoothed(before, alpha=0.75).program
    y = torch.cat([F.layer_norm(x, (16,), before.weights["g"], before.weights["b"]) for x in DATA])
    s = y.abs().amax(0) ** 0.75 / before.weights["w"].abs().amax(0) ** 0.25
    assert torch.allclose(after.weights["layer_norm_smoothing"], s / s.log().mean().exp(), rtol=1e-5)


@pytest.mark.parametrize("pipeline", ["insert-fake-quant", "insert-fake-quant{scheme=int8-dynamic}"])
def test_rounding_loses_less(pipeline: str) -> None:
    before = a_block()
    data = DATA if pipeline == "insert-fake-quant" else None
    plain, smooth = (
        fxopt.run_pipeline(p, pipeline, calibration=data) for p in (before, smoothed(before).program)
    )

    def of_small_channels(p: Program) -> float:
        """What the residual carries aside: its large channel hides what the layers lose."""
        wanted, got = (
            (p(DATA[0]) - F.layer_norm(DATA[0], (16,), before.weights["g"], before.weights["b"]))
            for p in (before, p)
        )
        return 10 * math.log10(float(wanted.square().sum() / (wanted - got).square().sum()))

    assert of_small_channels(smooth) > of_small_channels(plain) + 1


def test_the_best_alpha_is_that_of_least_error() -> None:
    before = a_block()
    errors = {}
    chosen = smoothed(before).program.weights["w"]
    for tenth in range(1, 11):
        after = smoothed(before, alpha=tenth / 10).program
        if torch.equal(after.weights["w"], chosen):
            errors[tenth] = after
    assert len(errors) == 1, "one of the alphas that are tried"


def channels_of(*batches: torch.Tensor) -> Channels:
    found = Channels()
    for values in batches:
        found.update(values)
    return found


def test_the_error_is_that_of_rounding_both_factors() -> None:
    x, w = rand(4000, 8) * torch.linspace(0.1, 3, 8), rand(8, 5, seed=1)
    channels, scale = channels_of(x), torch.linspace(0.5, 2, 8, dtype=torch.float64)
    low, high = float((x / scale).min()), float((x / scale).max())
    step = (high - low) / 255
    q = ((x / scale.float()) / step).round() * step
    v = w * scale.float()[:, None]
    steps = v.abs().amax(0) / 127
    of_inputs = (q @ v - x @ w).square().sum(1).mean()
    of_weights = ((x / scale.float()) @ ((v / steps).round() * steps) - x @ w).square().sum(1).mean()
    assert rounding_error(channels, w, scale) == pytest.approx(float(of_inputs + of_weights), rel=0.25)
    no_inputs = channels_of(x)
    no_inputs.low = no_inputs.high = torch.zeros(8)
    assert rounding_error(no_inputs, w, scale) == pytest.approx(float(of_weights), rel=0.5)


def test_values_of_one_sign_are_rounded_from_zero() -> None:
    w, ones = torch.ones(1, 1), torch.ones(1, dtype=torch.float64)
    above = rounding_error(channels_of(torch.tensor([[255.0], [254.0]])), w, ones)
    below = rounding_error(channels_of(torch.tensor([[-255.0], [-254.0]])), w, ones)
    power = (255**2 + 254**2) / 2
    assert above == below == pytest.approx((1 + power / 127**2) / 12)


def test_statistics_over_batches() -> None:
    found = channels_of(
        *(torch.tensor(v) for v in ([[1.0, -2.0]], [[-3.0, 5.0], [1.0, 1.0]])), torch.zeros(0, 2)
    )
    assert (found.low.tolist(), found.high.tolist()) == ([-3, -2], [1, 5])
    assert found.power.tolist() == [11 / 3, 10]


def test_a_scale_must_take_a_tenth_off_the_error(monkeypatch) -> None:
    errors = iter([1.0, *[0.95] * 9, 0.91, 1.0, *[0.95] * 9, 0.89, 0.0, *[0.0] * 10])
    monkeypatch.setattr(_smoothing, "rounding_error", lambda *_: next(errors))
    channels, w = channels_of(rand(4, 2)), rand(2, 2)
    assert best_scale(channels, w) is None
    assert torch.equal(best_scale(channels, w), smoothing_scale(channels, w, 1.0))
    assert best_scale(channels, w) is None


def test_a_channel_that_is_never_seen_moves_by_a_bounded_share() -> None:
    channels = channels_of(torch.tensor([[1.0, 0.0]]))
    s = smoothing_scale(channels, torch.tensor([[1.0], [0.0]]), 0.5)
    assert float(s[0] / s[1]) == pytest.approx(1.0), "both ranges count as the same share of the largest"
    alone = smoothing_scale(channels, torch.ones(2, 1), 1.0)
    assert float(alone[0] / alone[1]) == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("reads", "weights"), [(torch.zeros(1, 2), torch.ones(2, 1)), (torch.ones(1, 2), torch.zeros(2, 1))]
)
def test_no_scale_of_zeros(reads: torch.Tensor, weights: torch.Tensor) -> None:
    assert smoothing_scale(channels_of(reads), weights, 0.5) is None
    assert best_scale(channels_of(reads), weights) is None
    assert smoothing_scale(Channels(), weights, 0.5) is None


# Norms and products of other forms


@pytest.mark.parametrize(
    ("function", "weights", "expected"),
    [
        (lambda x, g, w: F.linear(F.rms_norm(x, (16,), g), w), {"g": outlying(), "w": rand(5, 16)}, ["rms_norm", "linear"]),
        (lambda x, g, w: F.layer_norm(x, (16,), g) @ w, {"g": outlying(), "w": rand(16, 5)}, ["layer_norm", "matmul"]),
        (lambda x, w: F.linear(F.layer_norm(x, (16,)) , w), {"w": outlying() * rand(5, 16)}, ["layer_norm", "linear"]),
        (
            lambda x, g, b, w, v: F.linear(y := F.layer_norm(x, (16,), g, b), w) + y @ v,
            {"g": outlying(), "b": rand(16), "w": rand(5, 16), "v": rand(16, 5)},
            ["layer_norm", "linear", "matmul", "add"],
        ),
    ],
)  # fmt: skip
def test_forms(function, weights: dict[str, torch.Tensor], expected: list[str]) -> None:
    before = program(function, DATA[0], **weights)
    result = smoothed(before, alpha=0.6)
    assert result.passes[0].rewrites == 1
    assert calls(result.program) == expected
    assert sqnr(before, result.program) > 100


def test_a_norm_that_is_an_output_keeps_its_value() -> None:
    before = program(
        lambda x, g, w: (F.linear(y := F.rms_norm(x, (16,), g), w), y), DATA[0], g=outlying(), w=rand(5, 16)
    )
    after = smoothed(before).program
    for wanted, got in zip(before(DATA[0]), after(DATA[0]), strict=True):
        assert torch.allclose(wanted, got, rtol=1e-4, atol=1e-4)


def test_leading_dimensions_are_rows() -> None:
    data = [rand(2, 3, 16, seed=s) for s in range(2)]
    before = program(
        lambda x, g, w: F.linear(F.rms_norm(x, (16,), g), w), data[0], g=outlying(), w=rand(5, 16)
    )
    assert smoothed(before, data).passes[0].rewrites == 1


# What it leaves alone


def test_what_has_no_outliers() -> None:
    before = program(lambda x, w: F.linear(F.layer_norm(x, (16,)), w), torch.ones(4, 16), w=torch.ones(5, 16))
    x = torch.tensor([1.0, -1.0] * 8).repeat(4, 1)
    result = smoothed(before, [x])
    assert not result.passes[0].changed
    assert reasons(result) == ["calibration shows no gain"]


@pytest.mark.parametrize(
    ("function", "weights", "why"),
    [
        (
            lambda x, w: F.linear(F.layer_norm(x, (16,)), w) + (w.sum()),
            {"w": rand(5, 16)},
            "a layer's weight is read elsewhere too",
        ),
        (
            lambda x, w: F.linear(F.layer_norm(x, (16,), x[0]), w),
            {"w": rand(5, 16)},
            "its scale is computed at run time",
        ),
        (
            lambda x, w: F.linear(F.layer_norm(x, (16,), None, x[0]), w),
            {"w": rand(5, 16)},
            "its scale is computed at run time",
        ),
        (
            lambda x, w: F.linear(F.layer_norm(x, (16,)), w),
            {"w": torch.zeros(5, 16)},
            "calibration shows no gain",
        ),
    ],
)
def test_refusals(function, weights: dict[str, torch.Tensor], why: str) -> None:
    result = smoothed(program(function, DATA[0], **weights))
    assert not result.passes[0].changed
    assert reasons(result) == [why]


@pytest.mark.parametrize(
    ("function", "weights"),
    [
        (lambda x, w: w @ F.layer_norm(x, (16,)), {"w": rand(5, 32)}),  # sums over rows
        (lambda x: F.layer_norm(x, (16,)) @ F.layer_norm(x, (16,)).t(), {}),
        (lambda x, w: F.conv1d(F.layer_norm(x, (16,)), w), {"w": rand(5, 32, 1)}),
        (lambda x, w: F.linear(x.relu(), w), {"w": rand(5, 16)}),
        (lambda x, w: F.linear(F.layer_norm(x, (16,)), w * x.sum()), {"w": rand(5, 16)}),
    ],
)
def test_what_is_no_norm_before_a_layer(function, weights: dict[str, torch.Tensor]) -> None:
    result = smoothed(program(function, DATA[0], **weights))
    assert not result.passes[0].changed
    assert reasons(result) == []


@pytest.mark.parametrize("ignore", ["layer_norm", "linear"])
def test_ignored(ignore: str) -> None:
    result = smoothed(a_block(), ignore=(ignore,))
    assert not result.passes[0].changed
    assert reasons(result) == [f"it matches ignore={ignore}"]


def test_no_data_is_read_where_there_is_nothing_to_do() -> None:
    before = program(F.linear, DATA[0], weight=rand(5, 16))
    assert not PassManager.of([SmoothQuant()]).run(before, calibration=[]).passes[0].changed


def test_a_value_that_is_nan_names_the_batch_and_the_layer() -> None:
    model = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4))
    bad = DATA[1].clone()
    bad[3, 2] = math.nan
    with pytest.raises(
        InputError, match=r"batch 1 of the calibration data: the result of 0: 16 of 512 values are NaN"
    ):
        PassManager.of([SmoothQuant()]).run(program(model, DATA[0]), calibration=[DATA[0], bad])


def test_an_empty_batch_adds_nothing() -> None:
    before = program(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4)), DATA[0], dynamic=True)
    result = PassManager.of([SmoothQuant()]).run(before, calibration=[DATA[0][:0]])
    assert reasons(result) == ["calibration shows no gain"]


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(PipelineError, match="expected 0 to 1"):
        SmoothQuant(alpha=alpha)


def test_it_comes_before_rounding_and_once() -> None:
    before = smoothed(a_block()).program
    for text in ("smooth-quant", "insert-fake-quant{scheme=int8-weights},smooth-quant"):
        with pytest.raises(PipelineError, match="can't run on a program that is"):
            fxopt.run_pipeline(before, text, calibration=DATA)


def test_drawn_programs() -> None:
    check_pass(SmoothQuant(), examples=40)


def test_a_given_alpha_is_taken_without_comparison() -> None:
    x = torch.tensor([1.0, -1.0] * 8).repeat(4, 1)
    before = program(lambda x, w: F.linear(F.layer_norm(x, (16,)), w), x, w=torch.ones(5, 16))
    assert smoothed(before, [x], alpha=0.5).passes[0].changed


def test_the_error_of_a_grouped_layer_is_that_of_its_dense_matrices() -> None:
    """Two groups of two channels, three taps: rows of six numbers, of which each output reads its group's."""
    x, weight = rand(50, 4), rand(2, 2, 3, 3, seed=1)
    scale = torch.linspace(0.5, 2, 4, dtype=torch.float64)
    found = rounding_error(channels_of(x), [weight], scale)
    low, high = float((x / scale).min()), float((x / scale).max())
    moved = weight.double() * scale.reshape(2, 2, 1, 1)
    power = (x / scale).square().mean(0).reshape(2, 2).sum(1)
    of_inputs = ((high - low) / 255) ** 2 * float(moved.square().sum())
    of_weights = sum(
        float((moved[g, :, o].abs().max() / 127) ** 2 * power[g] * 3) for g in range(2) for o in range(3)
    )
    assert found == pytest.approx((of_inputs + of_weights) / 12, rel=1e-6)
