"""`correct-bias`: the means of layers' results without rounding, by biases."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.ops import bind, fake_quantize
from fxopt.passes.quantize._calibration import last_uses
from fxopt.passes.quantize._placement import Placement, register_placement
from fxopt.passes.quantize.correct_bias import CorrectBias, _Beside, _Three
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from fxopt.testing import check_pass
from tests.passes.helpers import calls, program, rand, reasons

DATA = [rand(16, 6, seed=s).abs() for s in range(4)]


@pytest.fixture(autouse=True)
def coarse(monkeypatch) -> None:
    """A placement with one scale for a whole weight: small channels are rounded badly, and shift."""
    from fxopt.passes.quantize import _placement

    monkeypatch.setattr(_placement, "_PLACEMENTS", dict(_placement._PLACEMENTS))
    register_placement(Placement(name="coarse", per_channel=False))


def rounded(before: Program, data: object = DATA, **options: object) -> Program:
    item = InsertFakeQuant(placement="coarse", **options)
    return PassManager.of([item]).run(before, calibration=data).program


def corrected(before: Program, data: object = DATA) -> PipelineResult:
    before = before.copy()
    before.properties |= {"quantized"}
    return PassManager.of([CorrectBias()]).run(before, calibration=data)


def skewed(*shape: int, seed: int = 1) -> torch.Tensor:
    """A weight whose first output channel has all the range."""
    w = rand(*shape, seed=seed)
    w[0] *= 60
    return w


def means(p: Program, data: list[torch.Tensor]) -> torch.Tensor:
    """The mean of each channel of the result, which is dimension 1."""
    y = torch.cat([p(x) for x in data])
    return y.mean([d for d in range(y.dim()) if d != 1])


def error(before: Program, after: Program, data: list[torch.Tensor]) -> float:
    return float(torch.cat([before(x) - after(x) for x in data]).square().sum())


def test_means_are_those_without_rounding() -> None:
    before = program(F.linear, DATA[0], weight=skewed(5, 6), bias=rand(5, seed=2))
    first = rounded(before)
    result = corrected(first)
    off = (means(first, DATA) - means(before, DATA)).abs().max()
    left = (means(result.program, DATA) - means(before, DATA)).abs().max()
    units = first.weights["weight_scale"] * first.weights["args_0_scale"]
    assert off > 10 * units
    assert left <= 0.51 * units, "a bias is a multiple of them"
    assert calls(result.program) == calls(first)


def test_a_second_layer_is_corrected_for_what_the_first_gives_then() -> None:
    def layers(x, w, b, v, c):
        return F.linear(F.linear(x, w, b).relu(), v, c)

    before = program(layers, DATA[0], w=skewed(8, 6), b=rand(8), v=skewed(5, 8, seed=3), c=rand(5, seed=4))
    first = rounded(before)
    after = corrected(first, DATA[:1]).program
    off, left = ((means(p, DATA[:1]) - means(before, DATA[:1])).abs().max() for p in (first, after))
    assert left < 0.1 * off
    assert error(before, after, DATA) < error(before, first, DATA)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv2d(3, 4, 3, padding=1), (4, 3, 3, 3)),
        (lambda: nn.Conv2d(4, 4, 3, groups=4), (4, 1, 3, 3)),
        (lambda: nn.Conv2d(4, 4, 3, groups=2, bias=False), (4, 2, 3, 3)),
    ],
)  # fmt: skip
def test_convolutions(make, shape: tuple[int, ...]) -> None:
    model = make()
    model.weight = nn.Parameter(skewed(*shape))
    data = [rand(4, 3 if shape[1] == 3 else 4, 6, 6, seed=s).abs() for s in range(2)]
    before = program(model, data[0])
    first = rounded(before, data)
    after = corrected(first, data).program
    assert error(before, after, data) < error(before, first, data)
    assert (means(after, data) - means(before, data)).abs().max() < 0.02


def test_a_layer_without_a_bias_gets_one_of_32_bits() -> None:
    before = program(F.linear, DATA[0], weight=skewed(5, 6))
    after = corrected(rounded(before)).program
    (layer,) = (n for n in after.calls() if n.target is torch.ops.aten.linear.default)
    bias = bind(layer)["bias"]
    assert bias.target is fake_quantize
    assert bind(bias)["quant_max"] == 2**31 - 1
    units = after.weights[str(bind(bias)["scale"].target)]
    assert units.shape == (5,)
    assert torch.allclose(units, after.weights["args_0_scale"] * after.weights["weight_scale"])


def test_batches_count_by_their_records() -> None:
    before = program(F.linear, DATA[0], dynamic=True, weight=skewed(5, 6), bias=rand(5))
    first = rounded(before)
    whole = torch.cat(DATA)
    once, streamed = (corrected(first, d).program for d in ([whole], [whole[:7], whole[:0], whole[7:]]))
    assert torch.allclose(once(whole), streamed(whole), atol=1e-4)


def test_a_bias_that_two_layers_share_becomes_two() -> None:
    def net(x, w, v, b):
        return F.linear(x, w, b) + F.linear(x, v, b)

    before = program(net, DATA[0], w=skewed(5, 6), v=skewed(5, 6, seed=3), b=rand(5))
    first = rounded(before)
    after = corrected(first).program
    assert error(before, after, DATA) < error(before, first, DATA)
    layers = [n for n in after.calls() if n.target is torch.ops.aten.linear.default]
    assert len({str(bind(bind(n)["bias"])["x"].target) for n in layers}) == 2


def test_names_of_biases() -> None:
    before = program(
        lambda x, w, v, b: (F.linear(x, w), F.linear(x, v, b)),
        DATA[0],
        w=skewed(5, 6),
        v=skewed(5, 6),
        b=rand(5),
    )
    after = corrected(rounded(before)).program
    named = {n.lstrip("linear_0123456789") for n in after.weights if n.startswith("linear")}
    assert named == {"bias", "bias_scale"} and "b" in after.weights
    assert not torch.equal(after.weights["b"], before.weights["b"])


def test_a_layer_that_is_off_by_nothing_stays() -> None:
    before = program(
        lambda x, w, b, v, c: (F.linear(x, w, b), F.linear(x, v, c)), DATA[0], w=skewed(5, 6), b=rand(5),
        v=torch.zeros(5, 6), c=torch.zeros(5),
    )  # fmt: skip
    result = corrected(rounded(before))
    assert [p.rewrites for p in result.passes] == [1]


class TestWhetherItHelps:
    """Errors of outputs count relative to each one's size; what is no floating-point tensor does not count."""

    @pytest.mark.parametrize(("large", "small", "helps"), [(1e-4, 0.1, False), (0.1, 1e-4, True)])
    def test_each_output_counts_by_its_size(self, large: float, small: float, helps: bool) -> None:
        before = program(lambda x, w: (F.linear(x, w), x.argmax(), x), DATA[0], w=rand(5, 6))
        beside = _Beside(before, {})
        first, index, last = before.output_nodes()
        two, one, third = torch.full((4,), 1e3), torch.ones(4), torch.tensor(3)
        beside._compare(
            {
                first: _Three(two, two * (1 + large), two),
                index: _Three(third, third, third),
                last: _Three(one, one, one * (1 + small)),
            }
        )
        assert beside.helps == helps
        assert beside._error == pytest.approx(large**2, rel=1e-3)
        assert beside._error_corrected == pytest.approx(small**2, rel=1e-3)

    def test_an_output_of_zeros_counts_by_one(self) -> None:
        before = program(lambda x, w: F.linear(x, w), DATA[0], w=rand(5, 6))
        beside, (node,) = _Beside(before, {}), before.output_nodes()
        assert not beside.helps
        zero = torch.zeros(4)
        beside._compare({node: _Three(zero, zero + 3, zero + 2)})
        assert (beside._error, beside._error_corrected, beside.helps) == (36.0, 16.0, True)


def test_values_go_after_their_last_use() -> None:
    before = program(lambda x, w: F.linear(x, w).relu() + x, DATA[0], w=rand(6, 6))
    last = last_uses(before.graph.nodes)
    names = {n.name: [u.name for u in used] for n, used in last.items() if used}
    assert names == {"linear": ["w"], "relu": ["linear"], "add": ["relu", "args_0"], "output": ["add"]}


# What it leaves alone


def test_a_program_without_rounding() -> None:
    before = program(F.linear, DATA[0], weight=rand(5, 6), bias=rand(5))
    assert str(corrected(before).program) == str(before)


def test_a_product_without_a_place_for_a_bias() -> None:
    result = corrected(rounded(program(lambda x, w: x @ w, DATA[0], w=skewed(6, 5))))
    assert not result.passes[0].changed
    assert reasons(result) == ["it has no place for a bias"]


def test_a_layer_that_reads_floats() -> None:
    def net(x, w, b, s, z):
        return F.linear(x, fake_quantize(w, s, z, -128, 127), b)

    before = program(net, DATA[0], w=rand(5, 6), b=rand(5), s=torch.tensor(0.02), z=torch.tensor(0))
    assert reasons(corrected(before)) == ["what it reads is not rounded"]


def test_nothing_is_corrected_that_does_not_help() -> None:
    """One large value in ten thousand is clipped: its mean error is no error of the others."""
    x = rand(4000, 6)
    x[0] = 1e5
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)).eval()
    before = program(model, x)
    first = rounded(before, [x], observer="percentile")
    result = corrected(first, [x])
    assert not result.passes[0].changed
    assert reasons(result) == ["the outputs would not come nearer"]
    assert error(before, first, [x]) <= error(before, result.program, [x])


def test_a_bias_that_32_bits_would_not_hold() -> None:
    def net(x, w, b, s, t, z):
        q = fake_quantize(x, s, z, 0, 255)
        return F.linear(q, fake_quantize(w, t, z, -128, 127), b)

    x = torch.full((4, 6), 1e-3)  # it is clipped to 0.0255 * 1e-3, and the sum of 6 products of 1e3 shows it
    before = program(
        net, x, w=torch.full((5, 6), 1e3), b=torch.zeros(5), s=torch.tensor(1e-7), t=torch.tensor(1e-3),
        z=torch.tensor(0),
    )  # fmt: skip
    result = corrected(before, [x])
    assert not result.passes[0].changed
    assert reasons(result) == ["its bias would not fit into 32 bits"]


# The contract


def test_drawn_programs() -> None:
    """Rounded by insert-fake-quant first, which establishes what is required."""
    check_pass(CorrectBias(), examples=25)


def test_int8_corrects_biases_and_stays_integer(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()
    data = [rand(4, 3, 12, 12, seed=s) for s in range(3)]
    before = fxopt.trace(model, (data[0],), dynamic_shapes=({0: "batch"},))
    after = fxopt.run_pipeline(before, "int8", calibration=data, target="onnx")
    plain = fxopt.run_pipeline(before, "O1,insert-fake-quant", calibration=data, target="onnx")
    assert calls(after) == calls(plain)
    assert error(before, after, data) < error(before, plain, data)
    assert fxopt.lower(after, "onnx").report.ok


@pytest.mark.parametrize(("placement", "kinds"), [("generic", 3), ("onnx:tensorrt", 2)])
def test_a_new_bias_is_rounded_where_kernels_want_it(placement: str, kinds: int) -> None:
    x = rand(16, 6)
    before = program(nn.Linear(6, 4, bias=False), x)
    after = fxopt.run_pipeline(before, f"int8{{placement={placement}}}", calibration=[x])
    assert calls(after).count("fake_quantize") == kinds
    assert len(next(n for n in after.calls() if n.target.__name__.startswith("linear")).args) == 3
    targeted = PassManager.parse("int8").placed(placement).expand()
    assert targeted.endswith("correct-bias" if kinds == 3 else "correct-bias{placement=onnx:tensorrt}")
