"""Modules run with every op looked at: moved by rounding, in order, in float64."""

import pytest
import torch
from torch import nn

from fxopt.verification import NoFloat64Error
from fxopt.verification.interception import Moving, Ordering, Widening, default_float64

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "function", [torch.exp, lambda x: x.clone().exp_(), lambda x: x @ x.t(), torch.softmax]
)
def test_what_rounds_is_moved_by_half_an_eps(function):
    args = (X, 1) if function is torch.softmax else (X,)
    exact = function(*args)
    with Moving(seed=0):
        moved = function(*args)
    with Moving(seed=1):
        other = function(*args)
    assert not torch.equal(moved, exact)
    assert not torch.equal(moved, other)
    torch.testing.assert_close(moved, exact, rtol=2e-6, atol=0)


def test_what_does_not_round_is_not_moved():
    def function(x: torch.Tensor) -> list[torch.Tensor]:
        y = x.clone()
        y[:, 0] = 1
        return [x.view(-1), x.relu(), x.max(1)[0], torch.full((3,), 0.1), torch.arange(3), *x.split(2), y > 0]

    with Moving(seed=0):
        moved = function(X)
    assert all(map(torch.equal, moved, function(X)))


def test_the_spread_of_equal_elements_is_rounding_alone():
    with Moving(seed=0):
        var = X.flatten().expand(5, -1).var(0, correction=0)
    assert 0 < var.max() < 1e-10


def test_infinite_values_stay_infinite():
    with Moving(seed=0):
        moved = torch.tensor([torch.inf, -torch.inf, torch.nan]).repeat(9) + 1
    assert torch.isposinf(moved[::3]).all()
    assert torch.isneginf(moved[1::3]).all()


def test_a_view_of_what_is_written_sees_the_moved_values():
    with Moving(seed=0):
        x = X.clone()
        row = x[0]
        x.exp_()
        assert torch.equal(row, x[0])


def test_ties_are_settled_by_index():
    x = torch.zeros(500)
    with Ordering() as ordering:
        assert torch.equal(x.topk(5).indices, torch.arange(5))
        assert torch.equal(x.argsort(), torch.arange(500))
    assert ordering.used
    with Ordering() as ordering:
        x.exp()
    assert not ordering.used


def test_dtypes_and_constants_of_the_code_are_widened():
    constant, half = torch.full((6,), 0.1), torch.full((6,), 0.1, dtype=torch.float16)
    with default_float64(), Widening():
        y = X.double().to(torch.float32).mul(constant).half() + torch.tensor(0.1, dtype=torch.float32) + half
        z = torch.arange(3) / 3 + torch.zeros(3, dtype=torch.float32)
        i = X.double().argmax(1).to(torch.int32)
    assert (y.dtype, z.dtype, i.dtype) == (torch.float64, torch.float64, torch.int32)
    expected = X.double() * constant.double() + torch.tensor(0.1).double() + half.double()
    assert torch.equal(y, expected)
    assert torch.get_default_dtype() is torch.float32


def test_what_is_written_to_a_constant_is_read_again_and_the_constant_stays():
    constant = torch.zeros(6)
    with default_float64(), Widening():
        constant.add_(0.1)
        constant[0] = 5
        y = constant * 2
    assert torch.equal(constant, torch.zeros(6))
    assert y.tolist() == [10.0] + [0.2] * 5


def test_bits_have_no_float64_form():
    with Widening(), pytest.raises(NoFloat64Error, match="reinterprets"):
        X.view(torch.int32)


def test_a_module_with_casts_runs_in_float64():
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(6, 6), torch.full((6,), 0.3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.float()
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
            return self.linear(y.to(torch.float32)) * self.scale

    module = Norm().eval()
    wide = module.double()
    with torch.no_grad(), default_float64(), Widening():
        y = wide(X.double())
        exact = X.double() * torch.rsqrt(X.double().pow(2).mean(-1, keepdim=True) + 1e-6)
        exact = wide.linear(exact) * wide.scale.double()
    assert float((y - exact).abs().max()) < 1e-14
