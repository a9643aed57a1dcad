"""The reference evaluator: right values, contiguous tensors, memory given back, perturbed runs."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.errors import FxoptError
from fxopt.frontend import trace
from fxopt.verification import (
    NoFloat64Error,
    double_program,
    evaluate,
    evaluate_double,
    evaluate_perturbed,
)
from tests.verification.models import block, conv_bn


def test_it_computes_what_the_program_computes():
    for _, program in (conv_bn(), block()):
        inputs = (
            [torch.randn(3, 3, 8, 8)]
            if len(program.placeholders()) == 1
            else [torch.randn(2, 4, 16), torch.ones(2, 4).long()]
        )
        for a, b in zip(evaluate(program, inputs), program.run_flat(inputs), strict=True):
            torch.testing.assert_close(a, b)


def test_float64_agrees_with_the_module_in_float64():
    module, program = conv_bn()
    x = torch.randn(3, 3, 8, 8)
    (y,) = evaluate(program, [x], double=True)
    torch.testing.assert_close(y, module.double()(x.double()), rtol=1e-14, atol=1e-14)
    assert program.weights["conv.weight"].dtype is torch.float32


class Views(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x[1:], x.t(), x.expand(2, *x.shape), *x.split(1)


def test_tensors_are_contiguous_and_start_at_their_storage():
    program = trace(Views().eval(), (torch.randn(3, 4),))
    x = torch.randn(4, 3).t()
    for a, b in zip(evaluate(program, [x]), Views()(x), strict=True):
        assert a.is_contiguous()
        assert a.storage_offset() == 0
        assert torch.equal(a, b)


class RowsOnce(nn.Module):
    """[n, k] as [1, n, k], by moving an axis of size one or by a reshape."""

    def __init__(self, moves: bool) -> None:
        super().__init__()
        self.moves = moves
        self.register_buffer("weight", torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.unsqueeze(1).permute(1, 0, 2) if self.moves else x.reshape(1, 2, 4)
        return nn.functional.linear(rows, self.weight)


def test_the_stride_of_an_axis_of_size_one_chooses_no_kernel():
    """Such a tensor is contiguous whatever that stride is, but matmul folds by it, and sums in another order."""
    moved, reshaped = RowsOnce(True).eval(), RowsOnce(False).eval()
    reshaped.load_state_dict(moved.state_dict())
    programs = [trace(module, (torch.randn(2, 4),)) for module in (moved, reshaped)]
    for seed in range(20):
        x = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))
        a, b = (evaluate(program, [x])[0] for program in programs)
        assert torch.equal(a, b)


class Chain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(6):
            x = torch.sin(x) + 1
        return x


def test_values_are_freed_after_their_last_use(monkeypatch: pytest.MonkeyPatch):
    """At no time do more than three intermediate tensors live."""
    program = trace(Chain().eval(), (torch.randn(4),))
    alive: list[weakref.ref[torch.Tensor]] = []
    peak = 0

    def counted(value: object) -> object:
        nonlocal peak
        alive.append(weakref.ref(value))
        peak = max(peak, sum(ref() is not None for ref in alive))
        return value

    monkeypatch.setattr("fxopt.verification.evaluator._plain", counted)
    evaluate(program, [torch.randn(4)])
    assert len(alive) == 13
    assert peak <= 3


def test_threads_and_gradients_are_as_before():
    _, program = conv_bn()
    torch.set_num_threads(2)
    try:
        with torch.enable_grad():
            (y,) = evaluate(program, [torch.randn(2, 3, 8, 8)])
            assert torch.is_grad_enabled()
        assert torch.get_num_threads() == 2
        assert not y.requires_grad
    finally:
        torch.set_num_threads(1)


def test_inputs_and_weights_are_not_written():
    _, program = block()
    x, mask = torch.randn(2, 4, 16), torch.ones(2, 4).long()
    before = [t.clone() for t in (x, mask, *program.weights.values())]
    evaluate(program, [x, mask])
    evaluate_perturbed(program, [x, mask], seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, mask, *program.weights.values()), strict=True))


def test_an_error_says_where():
    _, program = conv_bn()
    with pytest.raises(RuntimeError) as caught:
        evaluate(program, [torch.randn(2, 4, 8, 8)])
    assert "in aten.conv2d.default (conv" in caught.value.__notes__[0]
    with pytest.raises(FxoptError, match="takes 1 tensors, got 2"):
        evaluate(program, [torch.randn(2, 3, 8, 8)] * 2)


def test_weights_without_values():
    with torch.device("meta"):
        module = nn.Linear(3, 3).eval()
    program = trace(module, (torch.empty(2, 3, device="meta"),))
    with pytest.raises(FxoptError, match="'weight' is on the meta device"):
        evaluate(program, [torch.randn(2, 3)])


def test_no_float64_kernel():
    with torch.library._scoped_library("fxopt_tests", "FRAGMENT") as library:
        library.define("low(Tensor x) -> Tensor")

        def low(x: torch.Tensor) -> torch.Tensor:
            if x.dtype is torch.float64:
                raise NotImplementedError('"low" not implemented for Double')
            return x * 2

        library.impl("low", low, "CPU")
        library.impl("low", lambda x: torch.empty_like(x), "Meta")

        class Low(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.ops.fxopt_tests.low(x).relu()

        program = trace(Low().eval(), (torch.randn(3),))
        assert torch.equal(evaluate(program, [torch.ones(3)])[0], torch.full((3,), 2.0))
        with pytest.raises(NoFloat64Error, match=r"no float64 kernel in fxopt_tests\.low\.default"):
            evaluate(program, [torch.ones(3)], double=True)


class Gates(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.sigmoid(x), torch.tanh(x)


def test_sigmoids_move_by_half_an_eps_of_one_and_what_is_exact_at_any_scale_by_its_own():
    program = trace(Gates().eval(), (torch.zeros(64),))
    small = torch.full((64,), -40.0)
    moved = torch.stack([evaluate_perturbed(program, [small], seed=s)[0] for s in range(4)])
    assert 1e-8 < moved.abs().max() <= torch.finfo(torch.float32).eps / 2
    tiny = torch.full((64,), 1e-20)
    _, moved = evaluate_perturbed(program, [tiny], seed=0)
    assert relative(moved, tiny) <= torch.finfo(torch.float32).eps


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_perturbed_runs_move_by_rounding(dtype: torch.dtype):
    module, _ = conv_bn()
    program = trace(module.to(dtype), (torch.randn(2, 3, 8, 8).to(dtype),))
    x = [torch.randn(2, 3, 8, 8).to(dtype)]
    (y,) = evaluate(program, x)
    first, again, second = (evaluate_perturbed(program, x, seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    eps = torch.finfo(dtype).eps
    assert 0.05 * eps < relative(first, y) < 10 * eps
    assert first.dtype is dtype


def test_perturbed_runs_show_bad_conditioning():
    """An instance norm of a constant is exact by luck: rounding moves it by far more than eps."""
    program = trace(
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2)).eval(), (torch.randn(2, 1, 8, 8),)
    )
    x = [torch.zeros(2, 1, 8, 8)]
    (y,) = evaluate(program, x)
    moved = evaluate_perturbed(program, x, seed=0)[0] - y
    assert float(y.abs().max()) < 1e-4
    assert float(moved.abs().max()) > 1e-6


class Spread(nn.Module):
    """Statistics along an axis that holds each element several times, and along one that does not."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.norm = nn.GroupNorm(1, times, affine=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        alike = x.expand(self.times, -1)
        spread = torch.var_mean(alike, 0)
        return alike.var(0, correction=0), alike.std(0), *spread, self.norm(alike.t()), x.var(0), x.std(0)


@pytest.mark.parametrize("double", [False, True])
def test_the_spread_of_equal_elements_is_rounding_alone(double: bool):
    """torch gives exactly 0 for some lengths, another kernel the square of its mean's error."""
    program = trace(Spread(5).eval(), (torch.randn(8),))
    program = double_program(program) if double else program
    x = torch.randn(8, dtype=torch.float64 if double else torch.float32)
    var, std, var2, mean, norm, apart, apart_std = evaluate_perturbed(program, [x], seed=0)
    eps = torch.finfo(x.dtype).eps
    assert 0 < var.max() < (100 * eps) ** 2
    assert 0 < std.max() < 100 * eps
    assert 0 < var2.max() < (100 * eps) ** 2
    assert 0 < norm.abs().max() < 1000 * 100 * eps
    assert relative(mean, x) < 2 * eps
    assert relative(apart, x.var(0)) < 2 * eps  # what is no rounding moves by no more than else
    assert relative(apart_std, x.std(0)) < 2 * eps


def test_a_mean_that_is_given_is_not_missed():
    """An instance norm by running statistics takes off what it is given: nothing is lost in it."""
    norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True).eval()
    norm.running_mean.fill_(1.0)
    program = trace(norm, (torch.ones(2, 3, 4),))
    (y,) = evaluate_perturbed(program, [torch.ones(2, 3, 4)], seed=0)
    assert y.abs().max() < 2 * torch.finfo(torch.float32).eps


class Sums(nn.Module):
    """Of one row of three terms, each time otherwise."""

    def forward(self, x: torch.Tensor, one: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            x.sum(1), x.mean(1), x @ one.t(), one @ x.t(), F.linear(x, one), F.avg_pool1d(x, 3),
            F.conv1d(x, one[None]), x.cumsum(1)[:, -1], torch.einsum("ij,kj->ik", x, one),
        )  # fmt: skip


def test_terms_that_cancel_move_their_sum():
    """By eps of the terms, as another order does: of the sum itself that is a hundred thousand times as much."""
    x, one = torch.tensor([[1e6, 1.0, -1e6]]), torch.ones(1, 3)
    program = trace(Sums().eval(), (x, one))
    runs = [evaluate_perturbed(program, [x, one], seed=s) for s in range(4)]
    for i, y in enumerate(evaluate(program, [x, one])):
        assert isinstance(y, torch.Tensor)
        off = max(float((run[i] - y).abs().max()) for run in runs)
        assert 1e-3 < off < 0.5
    apart = torch.tensor([[1.0, 2.0, 3.0]])
    for a, b in zip(evaluate_perturbed(program, [apart, one], seed=0), Sums()(apart, one), strict=True):
        assert relative(a, b) < 2 * torch.finfo(torch.float32).eps


def test_what_is_not_rounded_is_not_moved():
    class Moves(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x.relu(), x.t(), x.argmax(1), x[:, :1], torch.max_pool1d(x, 2)

    program = trace(Moves().eval(), (torch.randn(4, 4),))
    x = torch.randn(4, 4)
    for a, b in zip(evaluate_perturbed(program, [x], seed=0), Moves()(x), strict=True):
        assert torch.equal(a, b)


def test_the_twin_takes_inputs_of_the_original():
    _, program = block()
    twin = double_program(program)
    outputs = evaluate_double(twin, [torch.randn(2, 4, 16), torch.ones(2, 4).long()])
    assert all(y.dtype is torch.float64 for y in outputs)
