"""Ranges of streams of values, and the numbers that cover them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxopt.analysis.ranges import METHODS, Grid, Histogram, affine, symmetric
from fxopt.errors import InputError

BYTES, SIGNED = Grid(8, signed=False), Grid(8, signed=True, narrow=True)
finite = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)


def normal(count: int = 50_000, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def seen(*batches: torch.Tensor) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def error(x: torch.Tensor, low: float, high: float, grid: Grid = BYTES) -> float:
    scale, zero_point = affine(low, high, grid)
    q = torch.clamp(torch.round(x / scale) + zero_point, grid.low, grid.high)
    return float(((q - zero_point) * scale - x).square().mean())


@pytest.mark.parametrize(
    ("grid", "low", "high"),
    [(BYTES, 0, 255), (SIGNED, -127, 127), (Grid(8, signed=True), -128, 127), (Grid(4, signed=False), 0, 15)],
)
def test_a_grid_s_integers(grid: Grid, low: int, high: int) -> None:
    assert (grid.low, grid.high) == (low, high)


@given(finite, finite)
def test_a_range_is_covered_and_zero_is_exact(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    scale, zero_point = affine(low, high, BYTES)
    assert scale > 0 and math.isfinite(1 / scale)
    assert 0 <= zero_point <= 255
    slack = scale * (0.5 + 1e-4)
    assert (0 - zero_point) * scale <= min(low, 0) + slack
    assert (255 - zero_point) * scale >= max(high, 0) - slack


@given(st.floats(0, 2.0**99, width=32, allow_subnormal=False))
def test_an_even_range_is_covered(bound: float) -> None:
    scale = symmetric(bound, SIGNED)
    assert scale > 0
    assert scale * 127 >= bound * (1 - 1e-6)


def test_numbers_are_float32() -> None:
    for scale in (affine(-1, 2.2, BYTES)[0], symmetric(0.3, SIGNED)):
        assert float(torch.tensor(scale, dtype=torch.float32)) == scale


@pytest.mark.parametrize("method", METHODS)
def test_memory_and_result_do_not_depend_on_batches(method: str) -> None:
    x = normal(6000) * 3
    parts = [*(x[i::7] for i in range(7))]
    if method == "moving-average":  # which weighs the batches
        return
    expected = seen(x).range(method, BYTES)
    assert seen(*parts).range(method, BYTES) == expected
    assert seen(*reversed(parts)).range(method, BYTES) == expected


def test_the_least_squared_error_is_no_worse_than_all_of_the_range() -> None:
    outlier = torch.cat([normal(), torch.tensor([40.0])])
    for x in (normal(), normal().relu(), normal() ** 3, outlier):
        histogram = seen(x)
        assert error(x, *histogram.range("mse", BYTES)) <= error(x, *histogram.range("minmax", BYTES)) * 1.001
    clipped = seen(outlier).range("mse", BYTES)
    assert clipped[1] < 40, "an outlier is worth clipping"


def test_four_bits_clip_more_than_eight() -> None:
    x = normal()
    eight, four = (seen(x).range("mse", Grid(bits, signed=False)) for bits in (8, 4))
    assert four[1] < eight[1]
    assert four[0] > eight[0]


def test_minmax_and_moving_average() -> None:
    histogram = seen(torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 1.0]))
    assert histogram.range("minmax", BYTES) == (-3.0, 2.0)
    low, high = histogram.range("moving-average", BYTES)
    assert (low, high) == pytest.approx((-1.02, 1.99))


def test_a_percentile_leaves_one_in_ten_thousand_out() -> None:
    x = torch.cat([torch.linspace(-1, 1, 100_001), torch.tensor([100.0, -90.0])])
    low, high = seen(x).range("percentile", BYTES)
    assert -1.1 < low < -0.9
    assert 0.9 < high < 1.1
    even = seen(x).range("percentile", SIGNED, even=True)
    assert even[0] == -even[1]
    assert 0.9 < even[1] < 1.1


def test_entropy_clips_a_long_tail() -> None:
    x = torch.cat([normal(), torch.full((5,), 30.0)])
    assert seen(x).range("entropy", BYTES)[1] < 25


@pytest.mark.parametrize("method", METHODS)
def test_an_even_range_is_even(method: str) -> None:
    low, high = seen(normal() + 1).range(method, SIGNED, even=True)
    assert low == -high


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-42])
def test_a_constant_input(method: str, value: float) -> None:
    low, high = seen(torch.full((100,), value)).range(method, BYTES)
    assert low <= 0 <= high
    scale, zero_point = affine(low, high, BYTES)
    rounded = (min(max(round(value / scale) + zero_point, 0), 255) - zero_point) * scale
    assert rounded == pytest.approx(value, rel=0.2, abs=1e-12)


def test_empty_batches_are_nothing() -> None:
    histogram = seen(torch.zeros(0), torch.ones(2))
    assert (histogram.count, histogram.minimum) == (2, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="1 of 3 values are NaN or infinite"):
        Histogram().update(torch.tensor([1.0, value, 2.0]))


def test_nothing_seen_and_unknown_methods_are_refused() -> None:
    with pytest.raises(InputError, match="no values were seen"):
        Histogram().range("mse", BYTES)
    with pytest.raises(InputError, match=r"no method 'l2' .* mse, minmax"):
        seen(torch.ones(1)).range("l2", BYTES)


def masked(*values: float, seed: int = 0) -> Histogram:
    seen = Histogram()
    drawn = torch.randn(100, generator=torch.Generator().manual_seed(seed))
    seen.update_hidden(torch.cat([torch.tensor(values), drawn]))
    return seen


@pytest.mark.parametrize("hidden", [-1e4, -65504.0, -1e9, float(torch.finfo(torch.float32).min), -math.inf])
def test_a_mask_is_known_by_its_values(hidden: float) -> None:
    """Also where several sums of it are there."""
    assert masked(hidden).masks
    assert masked(hidden, hidden / 1.5, hidden + 3).masks


def test_what_hides_nothing_is_no_mask() -> None:
    assert not masked().masks
    assert not masked(-9000.0).masks, "that is no value of a mask"
    assert not masked(1e9).masks, "nor is a large one above"
    assert not masked(-1e9, 1e8).masks, "nor is what is as large on both sides"
    assert not masked(-1e6, -1e5).masks, "nor is a tail"
    assert not masked(-1e4, 200.0).masks
    assert masked(-1e4, 150.0, -100.0).masks, "scores have some size"
    assert not masked(-1e4, -200.0).masks
    assert not Histogram().masks


def test_hidden_values_are_no_part_of_a_range() -> None:
    seen = masked(-math.inf, 7.0)
    assert seen.range("minmax", Grid(8, signed=False))[1] == 7.0
    assert seen.count == 101
    with pytest.raises(InputError, match="1 of 101 values are NaN or infinite"):
        masked(-math.inf, math.inf)
    with pytest.raises(InputError, match="1 of 101 values are NaN or infinite"):
        masked(math.nan)


def test_a_mask_that_comes_later() -> None:
    """Bins are merged as values grow."""
    seen = masked()
    assert not seen.masks
    seen.update_hidden(torch.tensor([-1e9, -1.0]))
    assert seen.masks
