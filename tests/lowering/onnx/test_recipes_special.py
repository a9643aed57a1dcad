"""Special functions against torch's float64 ones."""

import math

import pytest
import torch

from tests.lowering.onnx.recipes import agrees, lowers

aten = torch.ops.aten
X = torch.cat([
    torch.linspace(-9.7, 9.7, 401, dtype=torch.float64),
    torch.tensor([0.0, -0.0, 1, 2, -1, -2, 64, -64, 1e-30, 1e-12, 30, 49, 51, 200], dtype=torch.float64),
])  # fmt: skip
UNIT = torch.cat(
    [torch.linspace(-1, 1, 201, dtype=torch.float64), torch.tensor([1e-7, 1 - 1e-7, -1.5, 2, 1e-30])]
)


@pytest.mark.parametrize("name", ["lgamma", "digamma", "i0", "special_i0e", "special_i1", "special_i1e",
                                  "special_spherical_bessel_j0", "special_erfcx", "special_log_ndtr"])  # fmt: skip
def test_functions_of_a_real_number(name: str) -> None:
    agrees(getattr(aten, name).default, X, rtol=1e-11)


@pytest.mark.parametrize("name", ["special_bessel_j0", "special_bessel_j1"])
def test_bessel_functions_as_far_as_torch_knows_them(name: str) -> None:
    agrees(getattr(aten, name).default, X, rtol=1e-6)


@pytest.mark.parametrize("name", ["erfinv", "special_ndtri"])
def test_inverses(name: str) -> None:
    agrees(getattr(aten, name).default, UNIT, rtol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_polygamma(n: int) -> None:
    at = X[X.floor() != X] if n == 1 else X
    agrees(aten.polygamma.default, n, at[at.abs() > 1e-9], rtol=1e-8)


@pytest.mark.parametrize("p", [1, 3])
def test_mvlgamma(p: int) -> None:
    agrees(aten.mvlgamma.default, torch.linspace(1.6, 30, 50), p)


def test_infinities_and_nan() -> None:
    odd = torch.tensor([math.inf, math.nan])
    for name in ("lgamma", "digamma", "special_i0e", "special_erfcx", "special_log_ndtr"):
        agrees(getattr(aten, name).default, odd)


@pytest.mark.parametrize("function", [torch.lgamma, torch.digamma, torch.special.i1e, torch.erfinv, torch.special.erfcx,
                                      torch.special.bessel_j1, lambda x: torch.polygamma(2, x)])  # fmt: skip
def test_files(function: object) -> None:
    lowers(function, torch.linspace(-0.95, 0.9, 24).reshape(4, 6), fixed=False)
