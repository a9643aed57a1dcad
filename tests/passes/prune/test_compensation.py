"""What reads pruned channels is refit, and channels are ranked by what that leaves."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fxopt
from fxopt.errors import InputError
from fxopt.passes.prune import Prune
from fxopt.pipeline import PassManager
from fxopt.program import Program
from tests.passes.helpers import reasons

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR)


def run(program: Program, data: list[object], **options: object) -> Program:
    passes = [Prune(**options)]  # type: ignore[arg-type]  # as the tests need them
    return PassManager.of(passes).run(program, calibration=data).program


def difference(
    one: Callable[..., torch.Tensor], other: Callable[..., torch.Tensor], x: torch.Tensor
) -> float:
    with torch.no_grad():
        expected, got = one(x), other(x)
    return float((expected - got).square().mean() / expected.var())


class Twins(nn.Module):
    """Each channel is there twice, the second time of twice the size, so that half of them can be made up for."""

    def __init__(self, layer: Callable[[int, int], nn.Module], dim: int = 0, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = layer(4, 8), layer(8, 6)
        first = self.first.weight.data.movedim(dim, 0)
        first[4:] = 2 * first[:4]
        self.first.bias.data[4:] = 2 * self.first.bias.data[:4]
        if not bias:
            self.second.bias = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


KINDS: dict[str, tuple[Callable[[int, int], nn.Module], tuple[int, ...], int]] = {
    "linear": (nn.Linear, (64, 4), 0),
    "conv1d": (lambda i, o: nn.Conv1d(i, o, 3, padding=1), (16, 4, 12), 0),
    "conv2d": (lambda i, o: nn.Conv2d(i, o, 3, padding=1, stride=2), (16, 4, 9, 9), 0),
    "conv3d": (lambda i, o: nn.Conv3d(i, o, 2), (8, 4, 4, 4, 4), 0),
    "transposed": (lambda i, o: nn.ConvTranspose2d(i, o, 3, stride=2), (8, 4, 5, 5), 1),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_channels_that_others_repeat_are_made_up_for(kind: str, bias: bool):
    layer, shape, dim = KINDS[kind]
    model = Twins(layer, dim, bias=bias).eval()
    program = fxopt.trace(model, (normal(*shape),))
    data: list[object] = [normal(*shape) for _ in range(8)]
    before = {n: w.clone() for n, w in program.weights.items()}
    plain = run(program, data, ratio=0.5)
    refit = run(program, data, ratio=0.5, compensate=True)
    x = normal(*shape)
    assert difference(program, plain, x) > 0.01
    assert difference(program, refit, x) < 1e-4
    assert all(torch.equal(w, program.weights[n]) for n, w in before.items())
    zeros = {n: w == 0 for n, w in plain.weights.items()}
    assert all((refit.weights[n][z] == 0).all() for n, z in zeros.items() if n != "second.bias")
    small = fxopt.run_pipeline(refit, "eliminate-dead-weights")
    assert small.weights["first.weight"].numel() == program.weights["first.weight"].numel() // 2
    assert difference(refit, small, x) < 1e-10


def test_a_mean_goes_into_the_bias_and_parameters_stay_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias[0] = 0.1
    program = fxopt.trace(model, (normal(8, 3),))
    plan = fxopt.plan_pruning(program, ratio=0.25).with_removed("0.weight", [0])
    refit = run(program, [normal(8, 3) for _ in range(4)], plan=plan, compensate=True)
    assert difference(program, refit, normal(8, 3)) < 1e-10
    assert not torch.equal(refit.weights["2.bias"], program.weights["2.bias"])
    assert all(isinstance(w, nn.Parameter) and w.requires_grad for w in refit.weights.values())


class Attention(nn.Module):
    """Four heads, of which the last two repeat the first two."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        for layer in (self.q, self.k, self.v):
            layer.weight.data[8:] = layer.weight.data[:8]
            layer.bias.data[8:] = layer.bias.data[:8]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).reshape(x.shape[0], -1, 4, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).reshape(x.shape))


def test_obs_takes_what_others_repeat_and_nothing_else():
    program = fxopt.trace(Attention().eval(), (normal(4, 6, 16),))
    data: list[object] = [normal(4, 6, 16) for _ in range(4)]
    plan = fxopt.plan_pruning(program, criterion="obs", granularity="head", ratio=0.5, calibration=data)
    (layer,) = plan.layers
    assert {i % 2 for i in layer.removed} == {0, 1}
    refit = run(program, data, plan=plan, compensate=True)
    assert difference(program, refit, normal(4, 6, 16)) < 1e-4


def test_the_cost_of_obs_is_what_refitting_leaves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fxopt.passes.prune._obs._RIDGE", 1e-9)
    monkeypatch.setattr("fxopt.passes.prune._compensation._RIDGES", (1e-9,))
    program = fxopt.trace(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).eval(), (normal(64, 3),))
    data: list[object] = [normal(64, 3) for _ in range(8)]
    plan = fxopt.plan_pruning(program, criterion="obs", ratio=0.2, calibration=data)
    importance = torch.tensor(plan.layers[0].importance)
    order = importance.argsort().tolist()
    gone, before = [], 0.0
    for unit in order[:-1]:
        gone.append(unit)
        left = run(program, data, plan=plan.with_removed("0.weight", gone), compensate=True)
        with torch.no_grad():
            change = [(program(x) - left(x)).square().sum(1).mean() for x in data]  # type: ignore[operator]
        now = float(torch.stack(change).mean())
        assert now - before == pytest.approx(float(importance[unit]), rel=1e-3)
        before = now


def test_what_can_not_be_refit_is_only_masked():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.b(self.a(x)).relu()).relu())

    program = fxopt.trace(Shared().eval(), (normal(8, 4),))
    data: list[object] = [normal(8, 4) for _ in range(4)]
    plain, refit = (run(program, data, ratio=0.5, compensate=c) for c in (False, True))
    assert torch.equal(plain.weights["b.weight"], refit.weights["b.weight"])
    assert not torch.equal(plain.weights["c.weight"], refit.weights["c.weight"])


def test_a_plan_by_a_loss_of_ones_own_is_applied_without_it():
    program = fxopt.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), (normal(8, 4),))
    plan = fxopt.plan_pruning(
        program,
        criterion="taylor",
        loss=lambda y, t: (y * t).sum(),
        calibration=[(normal(8, 4), normal(8, 2))],
    )
    assert (PassManager.of([Prune(plan=plan)]).run(program).program.weights["0.weight"] == 0).any()


@pytest.mark.parametrize("option", ["compensate", "obs"])
def test_bad_data_is_told(option: str):
    program = fxopt.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), (normal(8, 4),))
    options: dict[str, object] = {"criterion": "obs"} if option == "obs" else {"compensate": True}
    with pytest.raises(InputError, match=f"calibration data is empty: {option} needs"):
        run(program, [], **options)
    with pytest.raises(InputError, match=r"2\.weight sees values that are NaN or infinite"):
        run(program, [torch.full((8, 4), torch.nan)], **options)


def test_elements_are_not_refit():
    with pytest.raises(InputError, match="compensate refits what reads channels"):
        Prune(granularity="weight", compensate=True)
    with pytest.raises(InputError, match="criterion=obs is one of channels"):
        Prune(granularity="weight", criterion="obs")


class Recurrent(nn.Module):
    """Units that the layer itself and a linear layer read, then units that a linear layer alone reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.rnn, self.hidden, self.last = nn.GRU(5, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.hidden(self.rnn(x)[0]).relu())


def test_obs_leaves_recurrent_units_alone_and_says_so():
    program = fxopt.trace(Recurrent().eval(), (normal(6, 3, 5),))
    data: list[object] = [normal(6, 3, 5) for _ in range(2)]
    plan = fxopt.plan_pruning(program, criterion="obs", ratio=0.5, calibration=data)
    assert [x.name for x in plan.layers] == ["hidden.weight"]
    (reason,) = (x.reason for x in plan.left_out if x.weight.startswith("rnn.weight_ih"))
    assert reason == "obs can't tell what the recurrent rnn.weight_hh_l0 loses; taylor can"
    with pytest.raises(InputError, match="criterion obs finds nothing to judge by"):
        fxopt.plan_pruning(program, criterion="obs", ignore=("hidden",), calibration=data)


def test_what_is_not_refit_is_told():
    program = fxopt.trace(Recurrent().eval(), (normal(6, 3, 5),))
    data: list[object] = [normal(6, 3, 5) for _ in range(2)]
    result = PassManager.of([Prune(compensate=True, ratio=0.5)]).run(program, calibration=data)
    said = [r for r in reasons(result) if "refit" in r]
    why = "it is shared, in groups or recurrent: its zeros stand, nothing makes up for them"
    assert said == [f"rnn.weight_hh_l0 is not refit: {why}"]
    plan = fxopt.plan_pruning(program, ratio=0.5).with_removed("rnn.weight_ih_l0", [])
    result = PassManager.of([Prune(compensate=True, plan=plan)]).run(program, calibration=data)
    assert not [r for r in reasons(result) if "refit" in r]
