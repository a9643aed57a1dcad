"""`adaround`: whether weights are rounded up or down is learned."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.errors import InputError, PipelineError
from fxopt.ops import bind, fake_quantize
from fxopt.passes.quantize import adaround
from fxopt.passes.quantize._learned_rounding import Learning, Moments, learn_rounding
from fxopt.passes.quantize._optimal_rounding import Steps, round_optimally
from fxopt.passes.quantize.adaround import Adaround
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from fxopt.testing import check_pass
from tests.passes.helpers import calls, program, rand, reasons

MIXED = rand(12, 12, seed=9) + 2 * torch.eye(12)
DATA = [rand(64, 12, seed=s) @ MIXED for s in range(3)]
LEARNING = Learning(steps=400, learning_rate=0.01, penalty=10.0)


def rounded(before: Program, data: object = DATA, **options: object) -> Program:
    item = InsertFakeQuant(**{"scheme": "int8-weights", **options})
    return PassManager.of([item]).run(before, calibration=data).program


def learned(before: Program, data: object = DATA, **options: object) -> PipelineResult:
    return PassManager.of([Adaround(**{"steps": 200, **options})]).run(before, calibration=data)


def error(before: Program, after: Program, data: list[torch.Tensor] = DATA) -> float:
    return float(torch.cat([(before(x) - after(x)).flatten() for x in data]).double().square().sum())


def grid(weights: torch.Tensor, bits: int, zero_point: int = 0) -> Steps:
    high = 2 ** (bits - 1) - 1
    scale = (weights.abs().amax(-1, keepdim=True) / high).expand_as(weights)
    return Steps(scale, torch.full_like(scale, zero_point), zero_point - high - 1, zero_point + high)


def layer(out: int, inputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and rows that it reads, whose elements hang together."""
    mixed = rand(inputs, inputs, seed=seed, dtype=torch.float64) / inputs**0.5
    x = (rand(300, inputs, seed=seed + 1, dtype=torch.float64) @ mixed).relu()
    return rand(1, out, inputs, seed=seed + 2, dtype=torch.float64), x


def moments(read: torch.Tensor, plain: torch.Tensor | None = None) -> Moments:
    return Moments((read.T @ read)[None], ((read if plain is None else plain).T @ read)[None])


def off(weights: torch.Tensor, w: torch.Tensor, read: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """The squared error of each result."""
    return (plain @ w[0].T - read @ weights[0].T).square().sum(0)


# The algorithm


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("zero_point", [0, 5])
def test_results_come_nearer_than_by_gptq(bits: int, zero_point: int) -> None:
    w, x = layer(16, 24)
    steps = grid(w, bits, zero_point)
    one = Steps(steps.scale[0], steps.zero_point[0], steps.low, steps.high)
    gptq = round_optimally(w[0], x.T @ x, one, damping=0.01, by_activation=True)[None]
    got = learn_rounding(w, moments(x), steps, Learning(1000, 0.01, 10.0))
    nearest, greedy, after = (float(off(v, w, x, x).sum()) for v in (steps.nearest(w), gptq, got))
    assert after < greedy < nearest
    q = got / steps.scale + steps.zero_point
    assert torch.allclose(q, q.round(), atol=1e-9)
    assert steps.low <= float(q.round().min())
    assert float(q.round().max()) <= steps.high
    assert bool(((got - w).abs() < steps.scale * (1 + 1e-9)).all()), "one of the two beside each weight"


def test_most_of_what_the_best_of_all_choices_gains() -> None:
    gained, could = 0.0, 0.0
    for seed in range(8):
        w, x = layer(1, 6, seed)
        steps = grid(w, 4)
        down = torch.floor(w / steps.scale)
        choices = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6)
        all_of_them = (down[0] + choices).clamp(-8, 7) * steps.scale[0, :1]
        best = float((x @ (all_of_them - w[0]).T).square().sum(0).min())
        got = float(off(learn_rounding(w, moments(x), steps, LEARNING), w, x, x).sum())
        nearest = float(off(steps.nearest(w), w, x, x).sum())
        assert got <= nearest * (1 + 1e-9)
        gained, could = gained + (nearest - got) / nearest, could + (nearest - best) / nearest
    assert gained > 0.8 * could


def test_what_is_off_before_is_made_up_for() -> None:
    w, plain = layer(8, 12)
    read = torch.round(4 * plain) / 4 + 0.1 * rand(300, 12, seed=7, dtype=torch.float64)
    steps = grid(w, 4)
    blind = learn_rounding(w, moments(read), steps, LEARNING)
    told = learn_rounding(w, moments(read, plain), steps, LEARNING)
    assert float(off(told, w, read, plain).sum()) < float(off(blind, w, read, plain).sum())
    nearest = off(steps.nearest(w), w, read, plain)
    assert bool((off(told, w, read, plain) <= nearest * (1 + 1e-9)).all()), "no row is further off"


def test_a_row_that_would_not_come_nearer_stays() -> None:
    w, x = layer(16, 12)
    steps = grid(w, 3)
    hasty = learn_rounding(w, moments(x, 1.01 * x), steps, Learning(1, 100.0, 1e-9))  # one leap, far too long
    assert torch.equal(hasty, steps.nearest(w))


def test_matrices_side_by_side_are_as_alone() -> None:
    both = [layer(5, 9, seed) for seed in (0, 20)]
    alone = [learn_rounding(w, moments(x), grid(w, 4), LEARNING) for w, x in both]
    w = torch.cat([w for w, _ in both])
    read = torch.cat([moments(x).read for _, x in both])
    assert torch.equal(learn_rounding(w, Moments(read, read), grid(w, 4), LEARNING), torch.cat(alone))


def test_sizes_of_inputs_and_of_weights_do_not_count() -> None:
    w, x = layer(8, 12)
    plain = learn_rounding(w, moments(x), grid(w, 4), LEARNING)
    assert torch.equal(learn_rounding(w, moments(1024 * x), grid(w, 4), LEARNING), plain)
    assert torch.equal(learn_rounding(w / 1024, moments(x), grid(w / 1024, 4), LEARNING), plain / 1024)


def test_the_number_of_rows_does_not_count() -> None:
    w, x = layer(4, 24)
    once = learn_rounding(w, moments(x), grid(w, 3), Learning(100, 0.01, 1.0))
    often = w.repeat(1, 50, 1)
    assert torch.equal(
        learn_rounding(often, moments(x), grid(often, 3), Learning(100, 0.01, 1.0)), once.repeat(1, 50, 1)
    )


def test_nothing_read_gives_the_nearest() -> None:
    w, x = layer(4, 6)
    assert torch.equal(learn_rounding(w, moments(0 * x), grid(w, 4), LEARNING), grid(w, 4).nearest(w))
    x[:, 2] = 0.0
    got = learn_rounding(w, moments(x), grid(w, 4), LEARNING)
    assert torch.equal(got[..., 2], grid(w, 4).nearest(w)[..., 2]), "a dead input"


def test_what_lies_beyond_the_integers_is_clipped() -> None:
    w, x = layer(4, 6)
    steps = Steps(torch.full_like(w, float(w.abs().max()) / 4), torch.zeros_like(w), -2, 1)
    got = learn_rounding(w, moments(x), steps, LEARNING)
    assert float((got / steps.scale).min()) >= -2
    assert float((got / steps.scale).max()) <= 1
    assert float(off(got, w, x, x).sum()) < float(off(steps.nearest(w), w, x, x).sum())


# The pass


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("function", "weights", "shape"),
    [
        (lambda x, w: F.linear(x, w), {"w": rand(5, 12)}, None),
        (lambda x, w, b: torch.addmm(b, x, w), {"w": rand(12, 5), "b": rand(5)}, None),
        (lambda x, w: F.conv2d(x, w, padding=1, stride=2), {"w": rand(6, 4, 3, 3)}, (4, 4, 7, 7)),
        (lambda x, w: F.conv2d(x, w, groups=2, dilation=2), {"w": rand(6, 2, 3, 2)}, (4, 4, 7, 7)),
        (lambda x, w: F.conv2d(x, w, groups=4), {"w": rand(8, 1, 3, 3)}, (4, 4, 7, 7)),
        (lambda x, w: F.conv2d(x[0], w, padding=1), {"w": rand(6, 4, 3, 3)}, (4, 4, 7, 7)),
    ],
)
def test_results_are_off_by_less(
    function, weights: dict[str, torch.Tensor], shape: tuple[int, ...] | None, bits: int
) -> None:
    data = DATA if shape is None else [rand(*shape, seed=s).cumsum(-1) for s in range(3)]
    before = program(function, data[0], **weights)
    first = rounded(before, data, bits=bits)
    result = learned(first, data)
    after = result.program
    assert calls(after) == calls(first)
    assert result.passes[0].rewrites == 1
    assert error(before, after, data) < 0.95 * error(before, first, data)
    (rounding,) = (n for n in after.calls() if n.target is fake_quantize)
    bound = bind(rounding)
    new, scale, zero_point = (after.weights[str(bound[name].target)] for name in ("x", "scale", "zero_point"))
    low, high = bound["quant_min"], bound["quant_max"]
    assert torch.equal(fake_quantize(new, scale, zero_point, low, high), new), "values of the same integers"
    assert torch.equal(after.weights["w_scale"], first.weights["w_scale"])


def test_a_layer_makes_up_for_those_before() -> None:
    before = program(
        lambda x, w, v: F.linear(F.linear(x, w).relu(), v), DATA[0], w=rand(8, 12), v=rand(5, 8, seed=1)
    )
    first = rounded(before, bits=3)
    whole = learned(first).program
    # The second layer's weights hang on those of the first, which it reads the results of.
    w, v = rand(8, 12), rand(5, 8, seed=1)
    read, crossed = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    for x in DATA:
        p, r = (F.linear(x, used).relu().double() for used in (w, whole.weights["w"]))
        read, crossed = read + r.mT @ r, crossed + p.mT @ r
    scale = first.weights["v_scale"].double().expand(5, 8)[None]
    steps = Steps(scale, torch.zeros_like(scale), -4, 3)
    wanted = learn_rounding(v[None].double(), Moments(read, crossed), steps, Learning(200, 0.01, 10.0))
    assert torch.allclose(whole.weights["v"].double(), wanted[0])
    assert error(before, whole) < error(before, first)


def test_the_moments_are_those_of_all_data() -> None:
    before = program(F.linear, DATA[0], dynamic=True, weight=rand(5, 12))
    first = rounded(before, bits=4)
    whole = torch.cat(DATA)
    once, streamed = (learned(first, d).program for d in ([whole], [whole[:7], whole[:0], whole[7:]]))
    assert torch.equal(once.weights["weight"], streamed.weights["weight"])
    assert not torch.equal(once.weights["weight"], learned(first, [whole[:7]]).program.weights["weight"])


def test_one_pass_over_the_data_for_layers_that_do_not_depend_on_another(monkeypatch) -> None:
    def net(x, w, v, u):
        return F.linear(F.linear(x, w).relu() + F.linear(x, v), u)

    weights = {"w": rand(8, 12), "v": rand(8, 12, seed=1), "u": rand(5, 8, seed=2)}
    before = program(net, DATA[0], **weights)
    first = rounded(before, bits=4)
    seen: list[list[str]] = []
    usual = adaround._Beside.__init__

    def told(self, rewriter, layers, learned) -> None:
        seen.append([str(bind(one.rounding)["x"].target) for one in layers])
        usual(self, rewriter, layers, learned)

    monkeypatch.setattr(adaround._Beside, "__init__", told)
    whole = learned(first).program
    assert seen == [["w", "v"], ["u"]]
    seen.clear()
    monkeypatch.setattr(adaround, "_AT_ONCE", 2 * 12**2 - 1)
    assert torch.equal(learned(first).program.weights["u"], whole.weights["u"])
    assert seen == [["w"], ["v"], ["u"]]


def test_nothing_is_computed_beyond_what_is_read(monkeypatch) -> None:
    before = program(lambda x, w: F.linear(x.relu(), w).exp().tanh(), DATA[0], w=rand(8, 12))
    first = rounded(before, bits=4)
    ran: list[str] = []
    usual = adaround.called
    monkeypatch.setattr(
        adaround, "called", lambda node, *a, **k: ran.append(node.name) or usual(node, *a, **k)
    )
    learned(first, [DATA[0]])
    assert set(ran) == {"relu"}


def test_values_are_freed_after_their_last_use() -> None:
    before = program(lambda x, w: F.linear(x.relu().exp().tanh(), w), DATA[0], w=rand(8, 12))
    first = rounded(before, bits=4)
    layers = [n for n in first.calls() if n.target is torch.ops.aten.tanh.default]
    found = adaround.last_uses(adaround._needed(first, layers))
    assert {n.name for used in found.values() for n in used} == {"args_0", "relu", "exp"}


def test_layers_that_share_a_rounding() -> None:
    def net(x, w, s, z):
        q = fake_quantize(w, s, z, -8, 7)
        return F.linear(x, q) + F.linear(x.flip(1), q)

    w = rand(12, 12)
    first = program(net, DATA[0], w=w, s=w.abs().amax(1, keepdim=True) / 7, z=torch.tensor(0))
    first.properties |= {"quantized"}
    before = program(lambda x, w: F.linear(x, w) + F.linear(x.flip(1), w), DATA[0], w=w)
    result = learned(first)
    assert result.passes[0].rewrites == 1
    assert error(before, result.program) < error(before, first)


def test_rounded_activations_are_read() -> None:
    before = program(F.linear, DATA[0], weight=rand(5, 12), bias=rand(5))
    first = rounded(before, scheme="int8")
    after = learned(first).program
    assert calls(after) == calls(first)
    assert error(before, after) < error(before, first)


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int4-weights"])
def test_other_schemes(scheme: str) -> None:
    data = [rand(16, 32, seed=s) @ rand(32, 32, seed=9) for s in range(3)]
    before = program(F.linear, data[0], weight=rand(5, 32))
    first = rounded(before, data, scheme=scheme)
    assert error(before, learned(first, data).program, data) < error(before, first, data)


def test_the_same_data_give_the_same_weights() -> None:
    first = rounded(program(F.linear, DATA[0], weight=rand(5, 12)), bits=4)
    one = learned(first).program.weights["weight"]
    torch.manual_seed(5)
    assert torch.equal(learned(first).program.weights["weight"], one)


def test_what_the_options_do() -> None:
    first = rounded(program(F.linear, DATA[0], weight=rand(40, 12)), bits=3)
    options = ({}, {"steps": 20}, {"learning_rate": 0.5}, {"penalty": 0.01})
    found = [learned(first, **o).program.weights["weight"] for o in options]
    assert all(not torch.equal(found[0], other) for other in found[1:])
    usual = Adaround()
    assert (usual.steps, usual.learning_rate, usual.penalty) == (1000, 0.01, 10.0)


def test_progress_is_told(caplog) -> None:
    net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    with caplog.at_level(logging.INFO, logger="fxopt"):
        learned(rounded(program(net, DATA[0]), bits=4))
    told = [r.getMessage() for r in caplog.records if r.name.endswith("adaround")]
    assert told == ["adaround: layer 1 of 2", "adaround: layer 2 of 2"]


def test_files_hold_the_learned_integers() -> None:
    before = program(F.linear, DATA[0], weight=rand(5, 12))
    after = learned(rounded(before, bits=4)).program
    assert torch.allclose(fxopt.lower(after, "eager")(DATA[0]), after(DATA[0]), atol=1e-5)


# What it leaves alone


def test_a_second_run_changes_nothing() -> None:
    result = learned(learned(rounded(program(F.linear, DATA[0], weight=rand(5, 12)), bits=4)).program)
    assert not result.passes[0].changed
    assert reasons(result) == ["its weights are values of its integers already"]


def test_refusals() -> None:
    result = learned(rounded(program(lambda x, w: F.conv1d(x[:, None], w), DATA[0], w=rand(5, 1, 3))))
    assert not result.passes[0].changed
    assert reasons(result) == ["it is no product with a matrix and no convolution in two dimensions"]


def test_a_weight_that_is_rounded_twice() -> None:
    before = program(lambda x, w: F.linear(x, w) + F.linear(x + 1, w), DATA[0], w=rand(5, 12))
    result = learned(rounded(before))
    assert not result.passes[0].changed
    assert reasons(result) == ["its weight is read elsewhere too"] * 2


def test_ignored() -> None:
    result = learned(rounded(program(F.linear, DATA[0], weight=rand(5, 12))), ignore=("linear",))
    assert not result.passes[0].changed
    assert reasons(result) == ["it matches ignore=linear"]


def test_no_data_for_a_layer() -> None:
    before = program(F.linear, DATA[0], dynamic=True, weight=rand(5, 12))
    result = learned(rounded(before), [DATA[0][:0]])
    assert not result.passes[0].changed
    assert reasons(result) == ["calibration never ran it"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_names_the_batch_and_the_layer(value: float) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(12, 4))
    bad = DATA[1].clone()
    bad[0, 0] = value
    with pytest.raises(
        InputError, match="batch 1 of the calibration data: the result of 0: a value is NaN or infinite"
    ):
        learned(rounded(program(model, DATA[0])), [DATA[0], bad])


@pytest.mark.parametrize("name", ["steps", "learning_rate", "penalty"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_numbers_are_positive(name: str, value: float) -> None:
    with pytest.raises(PipelineError, match=f"{name} is .*; expected a number above 0"):
        Adaround(**{name: value})


def test_it_comes_after_rounding_and_before_biases_are_corrected() -> None:
    plain = program(F.linear, DATA[0], weight=rand(5, 12), bias=rand(5))
    with pytest.raises(PipelineError, match="requires a program that is 'quantized'"):
        learned(plain)
    with pytest.raises(PipelineError, match="bias-corrected"):
        fxopt.run_pipeline(plain, "int8,adaround", calibration=DATA)


def test_drawn_programs() -> None:
    check_pass(Adaround(steps=50), examples=25)
