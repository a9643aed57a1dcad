"""Pooling by recipes against torch's: windows of unequal length, windows that reach beyond the image, integers."""

import pytest
import torch

from tests.lowering.onnx.recipes.harness import agrees

aten = torch.ops.aten
IMAGE = torch.randn(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
WINDOWS = [([2, 3], [], [0], [1]), ([3], [2], [1], [1]), ([2], [3], [1], [1]), ([3, 2], [2, 1], [1, 1], [2])]


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_largest(window: tuple[list[int], ...], ceil: bool) -> None:
    for x in (IMAGE, (IMAGE * 3).round(), (IMAGE * 9).long(), torch.full_like(IMAGE, float("-inf"))):
        agrees(aten.max_pool2d_with_indices.default, x, *window, ceil)
        agrees(aten.max_pool2d.default, x, *window, ceil)


@pytest.mark.parametrize("divisor", [None, 4, -3])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window", WINDOWS[:3])
def test_averages_of_integers(
    window: tuple[list[int], ...], ceil: bool, counted: bool, divisor: int | None
) -> None:
    agrees(aten.avg_pool2d.default, (IMAGE * 50).long(), *window[:3], ceil, counted, divisor)


@pytest.mark.parametrize(
    ("shape", "out"),
    [((2, 3, 10), [4]), ((3, 7, 9), [3, 4]), ((3, 7, 9), [9, 11]), ((2, 3, 5, 6, 7), [2, 3, 7])],
    ids=str,
)
def test_adaptive_pools(shape: tuple[int, ...], out: list[int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for kind in ("max", "avg"):
        agrees(getattr(aten, f"adaptive_{kind}_pool{len(out)}d").default, x, out)
