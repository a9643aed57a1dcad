"""`center-channels`: the means of what layers make are moved into the biases of those that read it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.errors import InputError, PipelineError
from fxopt.passes.quantize.center_channels import CenterChannels
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from fxopt.testing import check_once, check_pass
from tests.passes.helpers import calls, program, rand, reasons

DATA = [rand(4, 3, 8, 8, seed=s) for s in range(3)]
ROWS = [rand(32, 16, seed=s) for s in range(3)]
APART = torch.tensor([9.0, -7.0, 0.0, 4.0, -5.0, 8.0])
"""A bias that sets channels apart."""
READ = "not only layers that see all of its channels read it"


def centered(before: Program, data: object = ROWS, **options: object) -> PipelineResult:
    check_once(CenterChannels(**options), before)
    return PassManager.of([CenterChannels(**options)]).run(before, calibration=data)


def sqnr(before: Program, after: Program, data: list[torch.Tensor]) -> float:
    wanted, got = (torch.cat([p(x) for x in data]).double() for p in (before, after))
    return 10 * math.log10(float(wanted.square().sum() / (wanted - got).square().sum()))


def of_rows(function: object, **weights: torch.Tensor) -> Program:
    """A program whose first layer sets its channels apart."""
    return program(function, ROWS[0], **{"w": 0.3 * rand(6, 16, seed=9), "b": APART, **weights})


def means(result: PipelineResult, before: Program) -> None:
    """Asserts that the first layer's channels have means of 0 over the data, which they had not."""
    x = torch.cat(ROWS)
    old, new = (F.linear(x, p.weights["w"], p.weights["b"]).mean(0) for p in (before, result.program))
    assert old.abs().max() > 5 and new.abs().max() < 0.3


def test_what_the_means_of_all_batches_have_in_common_moves() -> None:
    """Of one sign the smallest, of two signs nothing: channels 0 and 1 are always on one side, 2 is not."""
    batches = [
        torch.diag(torch.tensor(row)) for row in ([12.0, -9.0, 3.0], [6.0, -15.0, -3.0], [9.0, -12.0, 6.0])
    ]
    before = program(
        lambda x, w, v, b: F.linear(F.linear(x, w, b), v),
        batches[0],
        w=torch.eye(3),
        v=torch.eye(3),
        b=torch.zeros(3),
    )
    after = centered(before, batches, share=9.0).program
    assert torch.allclose(after.weights["b"], torch.tensor([-2.0, 3.0, 0.0]))


def test_a_value_of_one_axis() -> None:
    before = program(
        lambda x, w, b, v: F.linear(F.linear(x, w, b), v), ROWS[0][0], w=rand(6, 16), b=APART, v=rand(5, 6)
    )
    assert centered(before, [ROWS[0][0]]).passes[0].changed


def test_means_move_into_the_bias_of_the_layer_that_reads() -> None:
    before = of_rows(
        lambda x, w, b, v, c: F.linear(F.linear(x, w, b), v, c), v=rand(5, 6, seed=1), c=rand(5, seed=2)
    )
    result = centered(before)
    means(result, before)
    assert torch.equal(result.program.weights["v"], before.weights["v"])
    assert calls(result.program) == ["linear", "linear"]
    assert sqnr(before, result.program, ROWS) > 110
    assert reasons(result) == []


def test_biases_are_made_where_there_are_none() -> None:
    before = of_rows(lambda x, w, b, v: F.linear(F.linear(x, w, b), v), v=rand(5, 6, seed=1))
    result = centered(before)
    means(result, before)
    assert sqnr(before, result.program, ROWS) > 110


def test_rounding_loses_less() -> None:
    before = of_rows(lambda x, w, b, v: F.linear(F.linear(x, w, b), v), v=rand(5, 6, seed=1))
    after = centered(before).program
    plain, equal = (fxopt.run_pipeline(p, "insert-fake-quant", calibration=ROWS) for p in (before, after))
    assert sqnr(before, equal, ROWS) > sqnr(before, plain, ROWS) + 3


def residual() -> nn.Module:
    """Two blocks as in MobileNetV2: sums of what layers without an activation make."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 6, 3, padding=1)
            self.up = nn.ModuleList(nn.Conv2d(6, 12, 1, groups=g, bias=g == 2) for g in (1, 2))
            self.down = nn.ModuleList(nn.Conv2d(12, 6, 1) for _ in range(2))
            self.last = nn.Conv2d(6, 4, 3, stride=2)
            with torch.no_grad():
                self.first.bias.copy_(APART)
                self.down[0].bias.copy_(APART.flip(0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for up, down in zip(self.up, self.down, strict=True):
                x = x + down(up(x).relu())
            return self.last(x).relu()

    return Net().eval()


def test_sums_of_blocks() -> None:
    before = program(residual(), DATA[0])
    result = centered(before, DATA)
    assert result.passes[0].rewrites == 1, "the sums are one group"
    assert calls(result.program) == calls(before)
    assert sqnr(before, result.program, DATA) > 110
    assert set(reasons(result)) == set()
    x = torch.cat(DATA)
    w = result.program.weights
    first = F.conv2d(x, w["first.weight"], w["first.bias"], padding=1)
    down = F.conv2d(
        F.conv2d(first, w["up.0.weight"], next(v for n, v in w.items() if v.shape == (12,))).relu(),
        w["down.0.weight"],
        w["down.0.bias"],
    )
    assert (first + down).mean((0, 2, 3)).abs().max() < 0.3
    plain, equal = (
        fxopt.run_pipeline(p, "insert-fake-quant", calibration=DATA) for p in (before, result.program)
    )
    assert sqnr(before, equal, DATA) > sqnr(before, plain, DATA) + 2


def test_a_value_added_to_itself() -> None:
    def function(x, w, b, v):
        y = F.linear(x, w, b)
        return F.linear(y + y, v)

    before = of_rows(function, v=rand(5, 6, seed=1))
    result = centered(before)
    means(result, before)
    assert sqnr(before, result.program, ROWS) > 110


def test_a_layer_that_reads_what_its_result_is_added_to() -> None:
    def function(x, w, b, u, c, v):
        y = F.linear(x, w, b)
        return F.linear(y + F.linear(y, u, c), v)

    before = of_rows(function, u=0.2 * rand(6, 6, seed=1), c=APART, v=rand(5, 6, seed=2))
    result = centered(before)
    means(result, before)
    assert sqnr(before, result.program, ROWS) > 110


def test_a_sum_with_what_stays() -> None:
    def function(x, w, b, v):
        return F.linear(F.linear(x, w, b) + x[:, :6], v)

    before = of_rows(function, v=rand(5, 6, seed=1))
    result = centered(before)
    means(result, before)
    assert sqnr(before, result.program, ROWS) > 110


def test_several_groups_and_a_layer_in_two() -> None:
    before = of_rows(
        lambda x, w, b, v, c, u: F.linear(F.linear(F.linear(x, w, b), v, c), u),
        v=0.1 * rand(6, 6, seed=1),
        c=5 * APART,
        u=rand(3, 6, seed=2),
    )
    result = centered(before)
    means(result, before)
    assert result.passes[0].rewrites == 2
    made = F.linear(
        F.linear(torch.cat(ROWS), *(result.program.weights[n] for n in "wb")), before.weights["v"]
    )
    assert (made + result.program.weights["c"]).mean(0).abs().max() < 0.3
    assert sqnr(before, result.program, ROWS) > 110


def _two(y, v):
    return F.linear(y, v), y.relu()


@pytest.mark.parametrize(
    ("reads", "why"),
    [
        (lambda y, v: F.linear(y.relu(), v), []),
        (lambda y, v: (F.linear(y, v), y), [READ]),
        (_two, [READ]),
        (lambda y, v: F.linear(y, v) + (y + 1.0).sum(), [READ]),
        (lambda y, v: F.linear(torch.add(y, y, alpha=2), v), []),
        (lambda y, v: F.linear(y + y[:1], v), []),
        (lambda y, v: F.linear(y + 1.0, v), []),
        (lambda y, v: F.linear(y.reshape(-1, 6), v), []),
        (lambda y, v: F.linear(v, y), []),
        (lambda y, v: F.linear((y + y).relu(), v), []),
    ],
)
def test_what_it_leaves_alone(reads: object, why: list[str]) -> None:
    before = of_rows(lambda x, w, b, v: reads(F.linear(x, w, b), v), v=rand(5, 6, seed=1))
    result = centered(before)
    assert not result.passes[0].changed
    assert reasons(result) == why


@pytest.mark.parametrize(
    ("last", "changed"),
    [
        (nn.Conv2d(6, 4, 3), True),
        (nn.Conv2d(6, 4, 3, stride=2, groups=2), True),
        (nn.Conv2d(6, 4, 1, padding=1), False),
        (nn.Conv2d(6, 4, 3, padding="same"), False),
        (nn.ConvTranspose2d(6, 4, 2), False),
        (nn.Linear(8, 4), False),
    ],
)
def test_a_border_that_sees_zeros(last: nn.Module, changed: bool) -> None:
    first = nn.Conv2d(3, 6, 3, padding=1)
    with torch.no_grad():
        first.bias.copy_(APART)
    before = program(nn.Sequential(first, last), DATA[0])
    result = centered(before, DATA)
    assert result.passes[0].changed is changed
    assert sqnr(before, result.program, DATA) > 110 if changed else True


def test_what_a_transposed_convolution_makes() -> None:
    first = nn.ConvTranspose2d(3, 6, 2)
    with torch.no_grad():
        first.bias.copy_(APART)
    before = program(nn.Sequential(first, nn.Conv2d(6, 4, 1)), DATA[0])
    result = centered(before, DATA)
    assert result.passes[0].changed
    assert sqnr(before, result.program, DATA) > 110


def test_a_sum_whose_terms_both_stay_is_no_value_of_its_own() -> None:
    def function(x, w, b, v):
        y = F.linear(x, w, b)
        return F.linear(y + y, v), y

    before = of_rows(function, v=rand(5, 6, seed=1))
    result = centered(before)
    assert not result.passes[0].changed


def test_two_streams_that_meet_are_one_group() -> None:
    weights = {"u": 0.3 * rand(6, 16, seed=4), "c": APART.flip(0)}
    before = of_rows(
        lambda x, w, b, u, c, v1, v2, v3: _meeting(x, w, b, u, c, (v1, v2, v3)),
        **weights,
        **{f"v{i}": rand(5, 6, seed=10 + i) for i in (1, 2, 3)},
    )
    result = centered(before)
    means(result, before)
    assert result.passes[0].rewrites == 1
    assert sqnr(before, result.program, ROWS) > 110


def _meeting(x, w, b, u, c, v):
    y, z = F.linear(x, w, b), F.linear(x, u, c)
    s, t = y + y, z + z
    return F.linear(s + t, v[0]) + F.linear(s, v[1]) + F.linear(t, v[2])


@pytest.mark.parametrize(("least", "changed"), [(0.0, False), (1.0, True)])
def test_it_wants_a_gain(least: float, changed: bool) -> None:
    """Channels that lie alike, and channels whose ranges lie beside each other."""
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    before = program(
        lambda x, w, b, v: F.linear(F.linear(x, w, b), v),
        x, w=torch.eye(2), b=least * torch.tensor([1.0, -1.0]), v=torch.ones(3, 2),
    )  # fmt: skip
    result = centered(before, [x])
    assert result.passes[0].changed is changed
    assert reasons(result) == ([] if changed else ["calibration shows no gain"])


@pytest.mark.parametrize(("apart", "changed"), [(0.06, True), (0.05, False)])
def test_a_tenth_of_the_squared_range(apart: float, changed: bool) -> None:
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    before = program(
        lambda x, w, b, v: F.linear(F.linear(x, w, b), v),
        x, w=torch.eye(2), b=apart * torch.tensor([1.0, -1.0]), v=torch.ones(3, 2),
    )  # fmt: skip
    assert centered(before, [x]).passes[0].changed is changed, f"1 of (1 + {apart})^2 is left"
    assert centered(before, [x], share=1.0).passes[0].changed


def test_only_what_layers_read_counts() -> None:
    """Two layers whose means are far off, and cancel in the sum, which is all that a layer reads."""
    before = program(
        lambda x, w, b, u, c, v: F.linear(F.linear(x, w, b) + F.linear(x, u, c), v),
        ROWS[0],
        **{"w": 0.3 * rand(6, 16), "u": 0.3 * rand(6, 16, seed=1), "v": rand(5, 6, seed=2)},
        **{"b": torch.full((6,), 50.0), "c": torch.full((6,), -50.0)},
    )
    result = centered(before)
    assert reasons(result) == ["calibration shows no gain"] and not result.passes[0].changed


@pytest.mark.parametrize("side", [9.0, -9.0])
def test_a_range_covers_zero(side: float) -> None:
    """Channels that lie together, on one side of zero: their mean alone makes the range wide."""
    before = of_rows(
        lambda x, w, b, v: F.linear(F.linear(x, w, b), v), b=torch.full((6,), side), v=rand(5, 6, seed=1)
    )
    assert centered(before).passes[0].changed


def test_a_bias_that_would_be_infinite() -> None:
    before = of_rows(
        lambda x, w, b, v: F.linear(F.linear(x, w, b), v), v=torch.full((5, 6), 3e38), b=1e-20 * APART,
        w=1e-21 * rand(6, 16, seed=9),
    )  # fmt: skip
    before.weights["v"][0, 0] = 0
    assert centered(before).passes[0].changed
    before = of_rows(
        lambda x, w, b, v: F.linear(F.linear(x, w, b), v), v=torch.tensor([3e38, 0, 0, 0, 0, 0])[None]
    )
    result = PassManager.of([CenterChannels()]).run(before, calibration=ROWS)
    assert reasons(result) == ["a bias would not be finite"]
    assert not result.passes[0].changed


@pytest.mark.parametrize("ignore", ["linear", "0", "1"])
def test_ignored(ignore: str) -> None:
    model = nn.Sequential(nn.Linear(16, 6), nn.Linear(6, 4))
    with torch.no_grad():
        model[0].bias.copy_(APART)
    before = program(model, ROWS[0])
    assert centered(before).passes[0].changed
    assert not centered(before, ignore=(ignore,)).passes[0].changed


def test_layers_that_share_a_weight() -> None:
    before = of_rows(
        lambda x, w, b, v: F.linear(F.linear(F.linear(x, w, b), v).relu(), v), v=rand(6, 6, seed=1)
    )
    assert not centered(before).passes[0].changed


def test_no_data_is_read_where_there_is_nothing_to_do() -> None:
    before = program(F.linear, ROWS[0], weight=rand(5, 16))
    assert not PassManager.of([CenterChannels()]).run(before, calibration=[]).passes[0].changed


def test_an_empty_batch_shows_nothing() -> None:
    before = program(nn.Sequential(nn.Linear(16, 6), nn.Linear(6, 4)), ROWS[0], dynamic=True)
    result = PassManager.of([CenterChannels()]).run(before, calibration=[ROWS[0][:0]])
    assert reasons(result) == ["calibration never ran it"]


def test_a_value_that_is_nan_names_the_batch_and_the_layer() -> None:
    before = program(nn.Sequential(nn.Linear(16, 6), nn.Linear(6, 4)), ROWS[0])
    bad = ROWS[1].clone()
    bad[3, 2] = math.nan
    with pytest.raises(
        InputError, match=r"batch 1 of the calibration data: the result of 0: 6 of 192 values are NaN"
    ):
        PassManager.of([CenterChannels()]).run(before, calibration=[ROWS[0], bad])


def test_it_comes_before_rounding_and_once() -> None:
    before = centered(program(nn.Sequential(nn.Linear(16, 6), nn.Linear(6, 4)), ROWS[0])).program
    for text in ("center-channels", "insert-fake-quant{scheme=int8-weights},center-channels"):
        with pytest.raises(PipelineError, match="can't run on a program that is"):
            fxopt.run_pipeline(before, text, calibration=ROWS)


def test_drawn_programs() -> None:
    check_pass(CenterChannels(share=9.0), examples=40)
