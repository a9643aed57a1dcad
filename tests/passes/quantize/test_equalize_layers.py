"""`equalize-layers`: what one layer's channels are divided by, the weights that read them are multiplied by."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.errors import InputError, PipelineError
from fxopt.passes.quantize.equalize_layers import EqualizeLayers
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from fxopt.testing import check_once, check_pass
from tests.passes.helpers import calls, program, rand, reasons

DATA = [rand(4, 3, 8, 8, seed=s) for s in range(3)]
ROWS = [rand(32, 16, seed=s) for s in range(3)]


def skewed(*shape: int, seed: int = 0, by: float = 50.0) -> torch.Tensor:
    """A weight of which one output channel outlies the others."""
    w = rand(*shape, seed=seed)
    w[1] *= by
    return w


def equalized(before: Program, data: object = DATA, **options: object) -> PipelineResult:
    check_once(EqualizeLayers(**options), before)
    return PassManager.of([EqualizeLayers(**options)]).run(before, calibration=data)


def sqnr(before: Program, after: Program, data: list[torch.Tensor]) -> float:
    wanted, got = (torch.cat([p(x) for x in data]).double() for p in (before, after))
    return 10 * math.log10(float(wanted.square().sum() / (wanted - got).square().sum()))


def reach(weight: torch.Tensor, dim: int) -> torch.Tensor:
    return weight.abs().amax([d for d in range(weight.dim()) if d != dim])


def two_layers() -> Program:
    weights = {"w": skewed(24, 16), "b": rand(24, seed=1), "v": rand(5, 24, seed=2), "c": rand(5, seed=3)}
    return program(lambda x, w, b, v, c: F.linear(F.linear(x, w, b).relu(), v, c), ROWS[0], **weights)


def test_ranges_become_alike_without_data() -> None:
    before = two_layers()
    result = equalized(before, None, observe=False)
    after = result.program
    assert calls(after) == ["linear", "relu", "linear"]
    assert torch.allclose(reach(after.weights["w"], 0), reach(after.weights["v"], 1), rtol=1e-3)
    s = reach(before.weights["w"], 0) / reach(after.weights["w"], 0)
    assert torch.allclose(
        s, (reach(before.weights["w"], 0) / reach(before.weights["v"], 1)).sqrt(), rtol=1e-3
    )
    assert torch.allclose(after.weights["b"] * s, before.weights["b"], rtol=1e-4)
    assert after.weights["c"] is before.weights["c"] or torch.equal(after.weights["c"], before.weights["c"])
    assert sqnr(before, after, ROWS) > 110


def test_with_data_channels_become_alike_where_that_halves_the_error() -> None:
    before = two_layers()
    result = equalized(before, ROWS)
    assert result.passes[0].rewrites == 1
    old, new = (
        torch.cat([F.linear(x, p.weights["w"], p.weights["b"]).relu() for x in ROWS]).amax(0)
        for p in (before, result.program)
    )
    assert new.max() / new.median() < 0.2 * old.max() / old.median()
    assert sqnr(before, result.program, ROWS) > 110


@pytest.mark.parametrize("observe", [True, False])
@pytest.mark.parametrize("weights", ["signed", "unsigned"])
def test_rounding_loses_less(weights: str, observe: bool) -> None:
    before = two_layers()
    after = equalized(before, ROWS, observe=observe).program
    text = f"insert-fake-quant{{weights={weights}}}"
    plain, equal = (fxopt.run_pipeline(p, text, calibration=ROWS) for p in (before, after))
    assert sqnr(before, equal, ROWS) > sqnr(before, plain, ROWS) + 3


def depthwise() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False),
        nn.LeakyReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 1, groups=2),
        nn.PReLU(12),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 5),
    )
    with torch.no_grad():
        made[0].weight[3] *= 100
        made[2].weight[5] *= 30
        made[5].weight[7] *= 70
    return made.eval()


@pytest.mark.parametrize("observe", [True, False])
def test_a_chain_of_convolutions(observe: bool) -> None:
    before = program(depthwise(), DATA[0])
    result = equalized(before, observe=observe)
    assert result.passes[0].rewrites == 3
    assert reasons(result) == []
    assert calls(result.program) == calls(before)
    assert "bias" not in {n.split(".")[-1] for n in result.program.weights if n.startswith("2.")}
    assert sqnr(before, result.program, DATA) > 110


def test_all_ranges_of_a_chain_become_alike() -> None:
    after = equalized(program(depthwise(), DATA[0]), None, observe=False).program
    w, d, p, v = (after.weights[f"{i}.weight"] for i in (0, 2, 5, 9))
    assert torch.allclose(reach(w, 0), reach(d, 0), rtol=2e-3)
    grouped = p.reshape(2, 6, 4, 1).abs().amax((1, 3)).flatten()
    assert torch.allclose(reach(d, 0), grouped, rtol=2e-3)
    assert torch.allclose(reach(p, 0), reach(v.reshape(5, 12, 4), 1), rtol=2e-3)


def test_several_layers_read_the_channels() -> None:
    def function(x, w, u, v):
        y = F.linear(x, w).relu()
        return F.linear(y, u) + F.linear(y, v)

    weights = {"w": skewed(8, 16), "u": rand(4, 8, seed=1), "v": 9 * rand(4, 8, seed=2)}
    before = program(function, ROWS[0], **weights)
    after = equalized(before, None, observe=False).program
    both = torch.maximum(reach(after.weights["u"], 1), reach(after.weights["v"], 1))
    assert torch.allclose(reach(after.weights["w"], 0), both, rtol=2e-3)
    assert sqnr(before, after, ROWS) > 110
    assert equalized(before, ROWS).passes[0].rewrites == 1


def test_a_dead_channel_stays() -> None:
    w, v = skewed(6, 16), rand(4, 6, seed=1)
    w[2], v[:, 4] = 0, 0
    before = program(lambda x, w, v: F.linear(F.linear(x, w).relu(), v), ROWS[0], w=w, v=v)
    after = equalized(before, None, observe=False).program
    assert torch.equal(after.weights["v"][:, 2], v[:, 2]) and torch.equal(after.weights["w"][4], w[4])
    assert not torch.equal(after.weights["w"][1], w[1])


@pytest.mark.parametrize("weight", [1e-40, 1e-6])
def test_a_bias_beside_next_to_no_weights_is_not_made_loud(weight: float) -> None:
    """Such channels are what folding leaves of a BatchNorm whose factor is about zero."""
    w, v = rand(24, 16), rand(5, 24, seed=2)
    w[1] *= weight
    before = program(
        lambda x, w, b, v: F.linear(F.linear(x, w, b).relu(), v), ROWS[0], w=w, b=torch.ones(24), v=v
    )
    after = equalized(before, None, observe=False).program
    assert float(after.weights["b"].abs().max()) < float(w.abs().max()) + 1.01
    rounded = PassManager.parse("insert-fake-quant{weights=unsigned}").run(after, calibration=ROWS).program
    assert sqnr(before, rounded, ROWS) > 30


@pytest.mark.parametrize("bias", [-torch.ones(24), -torch.ones(1)], ids=["negative", "one for all"])
def test_a_negative_bias_counts_by_its_magnitude(bias: torch.Tensor) -> None:
    w, v = rand(24, 16), rand(5, 24, seed=2)
    w[1] *= 1e-6
    before = program(lambda x, w, b, v: F.linear(F.linear(x, w, b), v), ROWS[0], w=w, b=bias, v=v)
    after = equalized(before, None, observe=False).program
    assert float(after.weights["b"].abs().max()) < float(w.abs().max()) + 1.01


def test_a_layer_of_zeros_does_not_keep_the_next_two_apart() -> None:
    w, v = rand(24, 16) * torch.logspace(-3, 0, 24)[:, None], rand(5, 24, seed=2)
    before = program(
        lambda x, z, c, w, b, v: F.linear(F.linear(F.linear(x, z, c), w, b), v),
        ROWS[0], z=torch.zeros(16, 16), c=torch.zeros(16), w=w, b=torch.zeros(24), v=v,
    )  # fmt: skip
    after = equalized(before, None, observe=False).program
    assert all(t.isfinite().all() for t in after.weights.values())
    assert not torch.equal(after.weights["v"], v)


def test_a_bias_of_rows_counts_by_its_largest_and_a_layer_of_zeros_stays() -> None:
    function, v = (lambda x, w, b, v: F.linear(F.linear(x, w, b).relu(), v)), rand(5, 24, seed=2)
    w, b = rand(24, 16), torch.zeros(32, 24)
    w[1] *= 1e-6
    b[3, 1] = 1.0
    after = equalized(program(function, ROWS[0], w=w, b=b, v=v), None, observe=False).program
    assert float(after.weights["b"].abs().max()) < float(w.abs().max()) + 1.01
    silent = program(function, ROWS[0], w=torch.zeros(24, 16), b=torch.zeros(24), v=v)
    assert torch.equal(equalized(silent, None, observe=False).program.weights["v"], v)


def test_a_relu_that_calibration_never_woke_is_not_made_loud() -> None:
    """Its channel would be far beyond the range once it speaks."""
    w, b, v = rand(6, 16), torch.zeros(6), rand(4, 6, seed=1)
    w[1], b[1], b[2] = 40 * w[1], 0.0, -30.0
    before = program(lambda x, w, b, v: F.linear(F.linear(x, w, b).relu(), v), ROWS[0], w=w, b=b, v=v)
    result = equalized(before, ROWS)
    assert result.passes[0].rewrites == 1
    grown = reach(result.program.weights["w"], 0) / reach(w, 0)
    assert grown[2] < 2 * grown[[0, 3, 4, 5]].max()


def test_a_dynamic_batch_that_a_reshape_reads() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 6, 3), nn.Linear(6 * 36, 4)
            self.conv.weight.data[2] *= 60

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x).relu()
            return self.out(y.view(y.size(0), -1))

    before = program(Head(), DATA[0], dynamic=True)
    result = equalized(before)
    assert result.passes[0].rewrites == 1
    assert sqnr(before, result.program, DATA) > 110


# What it leaves alone


def layered(between, *, w: torch.Tensor | None = None, v: torch.Tensor | None = None, **more: torch.Tensor):
    """A layer, something, and a layer."""
    w, v = skewed(8, 16) if w is None else w, rand(4, 8, seed=1) if v is None else v
    return program(lambda x, w, v, **m: between(F.linear(x, w), v, **m), ROWS[0], w=w, v=v, **more)


@pytest.mark.parametrize(
    "between",
    [
        lambda y, v: F.linear(F.relu6(y), v),
        lambda y, v: F.linear(y.clamp(0, 6), v),
        lambda y, v: F.linear(F.gelu(y), v),
        lambda y, v: F.linear(y + 1, v),
        lambda y, v: F.linear(y.softmax(1), v),
        lambda y, v: F.linear(y.cumsum(1), v),
        lambda y, v: F.linear(y.sum(1, keepdim=True).expand(-1, 8), v),
        lambda y, v: F.linear(y.flip(1), v),
        lambda y, v: F.linear(y * y, v),
        lambda y, v: F.linear(y.double(), v.double()),
        lambda y, v: (y.relu() * 2).relu(),
    ],
)
@pytest.mark.parametrize("observe", [True, False])
def test_what_is_no_pair(between, observe: bool) -> None:
    result = equalized(layered(between), ROWS, observe=observe)
    assert not result.passes[0].changed
    assert reasons(result) == []


ALONE = "what reads its channels is not layers alone"
SUMS = "its channels are not what a layer that reads it sums over"


@pytest.mark.parametrize(
    ("between", "v", "why"),
    [
        (lambda y, v: (F.linear(y, v), y), rand(4, 8), ALONE),
        (lambda y, v: F.linear(z := y.relu(), v).sum() + z.sum(), rand(4, 8), ALONE),
        (lambda y, v: F.linear(y.relu().t(), v), rand(4, 32), SUMS),
        (lambda y, v: F.conv1d(y.relu().reshape(32, 2, 4), v, groups=2), rand(6, 1, 3), ""),
        (lambda y, v: F.conv1d(y.relu()[:, :6].reshape(32, 6, 1), v, groups=3), rand(3, 2, 1), ""),
    ],
)
def test_refusals(between, v: torch.Tensor, why: str) -> None:
    result = equalized(layered(between, v=v), ROWS)
    assert not result.passes[0].changed
    assert reasons(result) == ([why] if why else [])


def test_a_layer_of_another_precision() -> None:
    before = layered(lambda y, v: F.linear(y.double(), v), v=rand(4, 8, seed=1).double())
    assert not equalized(before, ROWS).passes[0].changed


def test_groups_that_a_channel_is_spread_over() -> None:
    """Three channels are twelve, of which four groups read three each."""

    def function(x, w, v):
        y = F.conv1d(x.unsqueeze(2), w).relu()
        return F.conv1d(y.expand(-1, -1, 4).reshape(32, 12, 1), v, groups=4)

    before = program(function, ROWS[0], w=skewed(3, 16, 1), v=rand(4, 3, 1, seed=1))
    result = equalized(before, ROWS)
    assert not result.passes[0].changed
    assert reasons(result) == [SUMS]


def test_layers_that_share_a_weight() -> None:
    before = layered(lambda y, v: F.linear(F.linear(y.relu(), v).relu(), v), v=rand(8, 8, seed=1))
    assert not equalized(before, ROWS).passes[0].changed


def test_no_gain() -> None:
    x = torch.tensor([1.0, -1.0] * 8).repeat(4, 1)
    before = program(
        lambda x, w, v: F.linear(F.linear(x, w).relu(), v), x, w=torch.eye(16), v=torch.ones(4, 16)
    )
    result = equalized(before, [x])
    assert not result.passes[0].changed
    assert reasons(result) == ["calibration shows no gain"]
    assert not equalized(before, None, observe=False).passes[0].changed


def test_a_weight_that_would_be_infinite() -> None:
    before = layered(
        lambda y, v: F.linear(y.relu(), v), w=torch.full((8, 16), 3e38), v=torch.full((4, 8), 1e-30)
    )
    before.weights["w"][0] = 1e-38
    before.weights["v"][:, 0] = 3e38
    result = PassManager.of([EqualizeLayers(observe=False)]).run(before)
    assert result.passes[0].changed or reasons(result) == ["a weight would not be finite"]
    assert all(bool(w.isfinite().all()) for w in result.program.weights.values())


@pytest.mark.parametrize("ignore", ["linear", "0", "2"])
def test_ignored(ignore: str) -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    model[0].weight.data[1] *= 50
    result = equalized(program(model, ROWS[0]), ROWS, ignore=(ignore,))
    assert not result.passes[0].changed
    assert reasons(result) == [f"it matches ignore={ignore}"]


def test_no_data_is_read_where_there_is_nothing_to_do() -> None:
    before = program(F.linear, ROWS[0], weight=rand(5, 16))
    assert not PassManager.of([EqualizeLayers()]).run(before, calibration=[]).passes[0].changed


def test_an_empty_batch_adds_nothing() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    before = program(model, ROWS[0], dynamic=True)
    result = PassManager.of([EqualizeLayers()]).run(before, calibration=[ROWS[0][:0]])
    assert reasons(result) == ["calibration shows no gain"]


def test_a_value_that_is_nan_names_the_batch_and_the_layer() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    bad = ROWS[1].clone()
    bad[3, 2] = math.nan
    with pytest.raises(
        InputError, match=r"batch 1 of the calibration data: the result of 0: 8 of 256 values are NaN"
    ):
        PassManager.of([EqualizeLayers()]).run(program(model, ROWS[0]), calibration=[ROWS[0], bad])


def test_it_comes_before_rounding_and_once() -> None:
    before = equalized(two_layers(), ROWS).program
    for text in ("equalize-layers", "insert-fake-quant{scheme=int8-weights},equalize-layers"):
        with pytest.raises(PipelineError, match="can't run on a program that is"):
            fxopt.run_pipeline(before, text, calibration=ROWS)


def test_the_share_of_the_error_that_may_be_left() -> None:
    weights = {"w": rand(24, 16), "v": rand(5, 24, seed=2)}
    before = program(lambda x, w, v: F.linear(F.linear(x, w).relu(), v), ROWS[0], **weights)
    assert equalized(before, ROWS).passes[0].changed, "0.35 of it is left"
    assert not equalized(before, ROWS, share=0.3).passes[0].changed


@pytest.mark.parametrize("options", [{"share": 1.0}, {"observe": False}])
def test_drawn_programs(options: dict[str, object]) -> None:
    check_pass(EqualizeLayers(**options), examples=40)
