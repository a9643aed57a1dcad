"""Special functions against torch's float64 ones."""

import math

import pytest
import torch
from torch.nn import functional as F

from fxopt import LoweringError, lower, trace
from tests.lowering.onnx.harness import Apply
from tests.lowering.onnx.recipes.harness import agrees, lowers

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


@pytest.mark.parametrize("name", ["erf", "erfc", "special_erf", "special_erfc"])
def test_the_error_function_of_float64(name: str) -> None:
    at = torch.cat([X, torch.linspace(-30, 30, 601, dtype=torch.float64), torch.tensor([0.5, -0.5])])
    # exp(-x^2) has x^2 times the rounding of its argument
    agrees(getattr(aten, name).default, at, rtol=1e-13 if name.endswith("erf") else 2e-12)
    agrees(getattr(aten, name).default, torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.float64))


ROWS = torch.linspace(-8, 8, 34, dtype=torch.float64).reshape(2, 17)
DOUBLE = {
    "gelu": lambda x: F.gelu(x), "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"), "erf": torch.erf,
    "erfc": torch.erfc, "elu": lambda x: F.elu(x, 0.7), "selu": F.selu, "celu": lambda x: F.celu(x, 1.3),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1), "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid,
    "mish": F.mish, "softplus": F.softplus, "softsign": F.softsign, "hardshrink": lambda x: F.hardshrink(x, 0.3),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.2], dtype=x.dtype)),
    "interpolate": lambda x: F.interpolate(x[:, None], scale_factor=2.0, mode="linear"),
    "avg_pool": lambda x: F.avg_pool1d(x, 3), "adaptive": lambda x: F.adaptive_avg_pool1d(x, 5),
    "nonzero": lambda x: torch.nonzero(x > 1) + torch.nonzero(x.floor())[:1],
    "addmm": lambda x: torch.addmm(x[:1], x[:, :2], x[:2], alpha=0.3, beta=1 / 3),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBLE)
def test_float64_where_onnxruntime_has_no_kernel_for_the_op(name: str) -> None:
    lowers(DOUBLE[name], ROWS)


@pytest.mark.parametrize("name", ["asin", "sinh", "atan2"])
def test_float64_without_a_kernel_or_parts_is_refused_early(name: str) -> None:
    function = getattr(torch, name)
    call = Apply((lambda x: function(x, x)) if name == "atan2" else function)
    with pytest.raises(
        LoweringError, match=r"aten.a?.* of float64: lower the float32 model \(model.float\(\)\) \("
    ):
        lower(trace(call, (ROWS,)), "onnx")
