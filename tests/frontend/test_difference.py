import pytest
import torch

from fxopt.frontend.difference import difference, rounding_of

x = torch.linspace(1, 2, 1000)
nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (3, 3),
        (None, None),
        (nan, nan),
        (x, x.clone()),
        (x, x * (1 + 1e-5)),
        (x.bfloat16(), (x * 1.004).bfloat16()),
        (torch.tensor([nan, inf, -inf, 1.0]), torch.tensor([nan, inf, -inf, 1.0 + 1e-6])),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (torch.arange(2000), torch.arange(2000).index_fill(0, torch.tensor([7]), 8)),
        (torch.zeros(3), torch.full((3,), 1e-5)),
    ],
)
def test_rounding_is_no_difference(a: object, b: object):
    assert difference(a, b) == ""


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (3, 4, "3 against 4"),
        (3, 3.0, "3 against 3.0"),
        (None, x, "None against tensor"),
        (x, x[:9], "torch.float32 (1000,) against torch.float32 (9,)"),
        (x, x.double(), "against torch.float64"),
        (x, x * 1.01, "relative error 1.0e-02"),
        (x.bfloat16(), (x * 1.1).bfloat16(), "relative error"),
        (torch.arange(9), torch.arange(9).flip(0), "8 of 9 values"),
        (torch.tensor([True, False]), torch.tensor([True, True]), "1 of 2 values"),
        (torch.tensor([nan, 1.0]), torch.tensor([1.0, 1.0]), "not finite at other places"),
        (torch.zeros(3), torch.ones(3), "relative error"),
    ],
)
def test_differences(a: object, b: object, says: str):
    assert says in difference(a, b)


def test_infinities_of_other_sign_differ():
    assert difference(torch.tensor([inf, 1.0]), torch.tensor([-inf, 1.0]))


def test_large_results_are_compared_in_pieces():
    large = torch.ones(3_000_000)
    other = large.clone()
    other[2_500_000:] = 2
    assert "relative error" in difference(large, other)


def test_how_much_is_rounding():
    assert difference(x, x * (1 + 1e-4), rounding=2e-4) == ""
    assert difference(x, x * (1 + 1e-4), rounding=5e-5) == "relative error 1.0e-04"
    assert difference(x.half(), (x * 1.001).half(), rounding=0.0) == ""
    assert abs(rounding_of(x, x * (1 + 1e-4)) - 1e-4) < 1e-6
    assert rounding_of(3, 4) == rounding_of(torch.tensor([1]), torch.tensor([2])) == 0.0
    assert rounding_of(torch.tensor([nan]), torch.tensor([1.0])) == inf
