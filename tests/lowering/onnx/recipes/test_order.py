"""Order statistics against torch's."""

import math

import pytest
import torch

from tests.lowering.onnx.recipes.harness import agrees, lowers

aten = torch.ops.aten
X = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
HOLES = torch.where(X > 1, math.nan, X)
EMPTY = HOLES.clone()
EMPTY[0, 0] = math.nan


@pytest.mark.parametrize("interpolation", ["linear", "lower", "higher", "midpoint", "nearest"])
@pytest.mark.parametrize("dim", [None, 0, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_quantiles(interpolation: str, dim: int | None, keepdim: bool) -> None:
    for x in (X, EMPTY):
        for q in (0.3, 1.0):
            agrees(aten.quantile.scalar, x, q, dim, keepdim, interpolation=interpolation)
            agrees(aten.nanquantile.scalar, x, q, dim, keepdim, interpolation=interpolation)
        several = torch.tensor([0.1, 0.5, 0.77])
        agrees(aten.quantile.default, x, several, dim, keepdim, interpolation=interpolation)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_medians_modes_and_means(dim: int, keepdim: bool) -> None:
    agrees(aten.nanmedian.dim, HOLES, dim, keepdim)
    agrees(aten.mode.default, X.round(), dim, keepdim)
    agrees(aten.mode.default, (X * 2).int(), dim, keepdim)
    agrees(aten.nanmean.default, EMPTY, [dim], keepdim)


def test_all_elements_and_numbers() -> None:
    agrees(aten.nanmedian.default, EMPTY)
    agrees(aten.nanmean.default, EMPTY)
    for op in (aten.nanmedian.default, aten.mode.default):
        agrees(op, torch.tensor(2.0))


def test_files() -> None:
    lowers(lambda x: (x.quantile(0.3, 1), x.nanquantile(0.7), x.nanmedian(1)), HOLES)
    lowers(lambda x: x.mode(1), X.round())


def test_histograms() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat(
        [torch.randn(500, generator=generator), torch.linspace(-2, 2, 33), torch.tensor([-1e-38, 1e-38])]
    )
    for options in ((4, -2, 2), (7, -1.3, 2.1), (10, 0, 1), (5,)):
        agrees(aten.histc.default, x, *options)
    agrees(aten.histc.default, torch.full((4,), 2.5), 6)
    lowers(lambda x: torch.histc(x, 4, -2, 2), x)
