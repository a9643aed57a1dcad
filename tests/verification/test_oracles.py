"""The oracles alone: thresholds, floors, non-finite values, ties, empty and tiny outputs."""

import math

import pytest
import torch

from fxopt.report import Verdict
from fxopt.verification import compare_algebra, compare_exact, compare_noise, compare_rounding

COUNT = 4096
EPS = 2.0**-23


def direction(count: int = COUNT, seed: int = 0) -> torch.Tensor:
    """Signs at random: an error of which every element has the same size."""
    return torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def outputs(own: float, error: float, count: int = COUNT) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(candidate, original, truth): the truth is one everywhere; errors are relative."""
    truth = torch.ones(count, dtype=torch.float64)
    return (truth + error * direction(count)).float(), (truth + own * direction(count, 1)).float(), truth


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.1, "equivalent"), (4.9, "equivalent"), (5.2, "different"), (1e4, "different")]
)
def test_the_ratio_decides(ratio: float, verdict: str):
    own = 1e-4  # so large that float32 holds errors of all ratios exactly enough
    result = compare_rounding(*outputs(own, own * ratio))
    assert result.verdict == verdict
    assert result.ratio == pytest.approx(ratio, rel=0.01)
    assert result.tolerance == 5


@pytest.mark.parametrize(("error", "verdict"), [(4 * EPS, "equivalent"), (6 * EPS, "different")])
def test_the_floor_is_one_eps(error: float, verdict: str):
    """An original that is exact does not ask for exactness."""
    assert compare_rounding(*outputs(0.0, error)).verdict == verdict


@pytest.mark.parametrize(
    ("count", "ratio", "verdict"),
    [(63, 14.0, "equivalent"), (64, 14.0, "different"), (63, 16.0, "different")],
)
def test_few_elements_have_wider_bounds(count: int, ratio: float, verdict: str):
    assert compare_rounding(*outputs(1e-4, ratio * 1e-4, count)).verdict == verdict


@pytest.mark.parametrize(("ratio", "verdict"), [(7.8, "equivalent"), (8.3, "different")])
def test_one_bad_element_shows_in_the_maximum_norm(ratio: float, verdict: str):
    candidate, original, truth = outputs(1e-4, 1e-4)
    candidate[17] = 1 + ratio * 1e-4
    result = compare_rounding(candidate, original, truth)
    assert result.verdict == verdict
    assert result.ratio < 2
    assert result.max_norm_ratio == pytest.approx(ratio, rel=0.01)
    assert result.index == (17,)
    assert result.actual == pytest.approx(1 + ratio * 1e-4)
    assert result.expected == float(original[17])
    assert ("the largest error is" in result.reason) == (verdict == "different")


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float16, 2.0**-10), (torch.bfloat16, 2.0**-7)])
def test_half_precision_has_its_own_floor_and_bound(dtype: torch.dtype, eps: float):
    truth = torch.ones(COUNT, dtype=torch.float64)
    original = truth.to(dtype)
    for steps, verdict in ((2, "equivalent"), (4, "different")):
        result = compare_rounding((truth + steps * eps * direction()).to(dtype), original, truth)
        assert result.verdict == verdict
        assert result.tolerance == 3


def test_float64_has_the_floor_of_float64_and_the_bound_of_the_algebra():
    """What a float64 original is judged against is no better than itself."""
    truth = torch.ones(COUNT, dtype=torch.float64)
    for steps, verdict in ((31, "equivalent"), (33, "different")):
        assert compare_rounding(truth + steps * 2.0**-52 * direction(), truth, truth).verdict == verdict


def test_lucky_exactness_is_known_by_perturbed_runs():
    candidate, original, truth = outputs(0.0, 1e-4)
    noise = [(truth + 1e-4 * direction(seed=s)).float() for s in (3, 4)]
    assert compare_rounding(candidate, original, truth).verdict is Verdict.DIFFERENT
    assert compare_rounding(candidate, original, truth, perturbed=noise).verdict is Verdict.EQUIVALENT
    assert compare_rounding(2 * candidate, original, truth, perturbed=noise).verdict is Verdict.DIFFERENT


def test_an_original_of_noise_only_says_nothing():
    """An error ratio of one by the side of an original that is a third off is no proof of anything."""
    candidate, original, truth = outputs(0.3, 0.3)
    result = compare_rounding(candidate, original, truth)
    assert result.verdict is Verdict.UNDECIDED
    assert "30% of its norm" in result.reason
    assert compare_rounding(original, original, truth).verdict is Verdict.EQUIVALENT
    assert compare_rounding(*outputs(0.3, 1e-7)).verdict is Verdict.EQUIVALENT


def test_constant_inputs_are_doubted_within_reason():
    for ratio, verdict in ((4, "equivalent"), (50, "undecided"), (1e5, "different")):
        result = compare_rounding(*outputs(0.0, ratio * EPS), constant=True)
        assert result.verdict == verdict
    assert compare_rounding(*outputs(0.0, 50 * EPS)).verdict is Verdict.DIFFERENT


def test_all_zero_outputs():
    zero, wide = torch.zeros(COUNT), torch.zeros(COUNT, dtype=torch.float64)
    assert compare_rounding(zero, zero, wide).verdict is Verdict.EQUIVALENT
    assert compare_rounding(-zero, zero, wide).verdict is Verdict.EQUIVALENT
    assert compare_rounding(zero + 1e-40, zero, wide).verdict is Verdict.EQUIVALENT  # flushed to zero or not
    assert compare_rounding(zero + 1e-7, zero, wide).verdict is Verdict.DIFFERENT


def test_tiny_outputs_are_judged_like_others():
    candidate, original, truth = outputs(1e-4, 1e-3)
    for scale in (1e-30, 1.0, 1e30):
        result = compare_rounding(candidate * scale, original * scale, truth * scale)
        assert result.verdict is Verdict.DIFFERENT
        assert result.ratio == pytest.approx(10, rel=0.01)
    huge = compare_rounding(candidate.double() * 1e300, original.double() * 1e300, truth * 1e300)
    assert huge.ratio == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("shape", [(0,), (0, 3), ()])
def test_empty_and_single_outputs(shape: tuple[int, ...]):
    x = torch.ones(shape)
    for result in (
        compare_rounding(x, x, x.double()),
        compare_exact(x, x),
        compare_algebra(x.double(), x.double(), x),
    ):
        assert result.verdict is Verdict.EQUIVALENT
    if shape == ():
        result = compare_rounding(x + 1, x, x.double())
        assert (result.verdict, result.actual, result.expected) == (Verdict.DIFFERENT, 2, 1)


def test_shapes_and_dtypes_come_first():
    x = torch.ones(2, 3)
    nan = torch.full((3, 2), math.nan)
    assert "shape (3, 2), not (2, 3)" in compare_rounding(nan, x, x.double()).reason
    assert "dtype f16, not f32" in compare_rounding(x.half(), x, x.double()).reason
    assert "it is a int, not a tensor" in compare_rounding(3, x, x.double()).reason
    assert "not a number" in compare_rounding("3", 3, 3).reason
    assert compare_rounding(x, x, torch.ones(3, dtype=torch.float64)).verdict is Verdict.UNDECIDED


def spoiled(value: float, at: int = 5) -> torch.Tensor:
    x = torch.ones(COUNT)
    x[at] = value
    return x


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_equal_non_finite_values_are_equal(value: float):
    x = spoiled(value)
    for result in (
        compare_rounding(x, x, x.double()),
        compare_exact(x, x),
        compare_algebra(x.double(), x.double(), x),
    ):
        assert result.verdict is Verdict.EQUIVALENT
    assert compare_rounding(x * 1.001, x, x.double()).verdict is Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("candidate", "original"),
    [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (math.inf, -math.inf), (math.nan, math.inf)],
)
def test_other_non_finite_values_are_different(candidate: float, original: float):
    result = compare_rounding(spoiled(candidate), spoiled(original), spoiled(original).double())
    assert result.verdict is Verdict.DIFFERENT
    assert (result.ratio, result.max_abs_error, result.index) == (math.inf, math.inf, (5,))


def test_overflow_in_the_original_is_the_measure():
    """Finite in float64, infinite in float32: the candidate must overflow too, and the reason says so."""
    original, truth = spoiled(math.inf), spoiled(1.0).double()
    truth[5] = 1e39
    result = compare_rounding(original, original, truth)
    assert result.verdict is Verdict.EQUIVALENT
    assert "1 values are finite in float64 only" in result.reason
    assert compare_rounding(spoiled(3e38), original, truth).verdict is Verdict.DIFFERENT


def test_a_reference_without_finite_values_decides_nothing():
    original, truth = spoiled(1.0), spoiled(math.nan).double()
    result = compare_rounding(original, original, truth)
    assert result.verdict is Verdict.EQUIVALENT
    assert "1 values without a finite float64 reference are not judged" in result.reason
    assert compare_rounding(original, original, truth * math.nan).verdict is Verdict.UNDECIDED


def test_non_finite_values_that_rounding_decides():
    """Where a perturbed run of the original has another kind of value there, the candidate may have too."""
    original = spoiled(1.0)
    assert (
        compare_rounding(
            spoiled(math.inf), original, original.double(), perturbed=[spoiled(math.inf)]
        ).verdict
        is Verdict.EQUIVALENT
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integers_must_be_equal(dtype: torch.dtype):
    a = torch.tensor([0, 1, 1, 0]).to(dtype)
    b = torch.tensor([0, 1, 0, 0]).to(dtype)
    assert compare_rounding(a, a, a).verdict is Verdict.EQUIVALENT
    result = compare_rounding(b, a, a)
    assert (result.verdict, result.index, result.max_abs_error) == (Verdict.DIFFERENT, (2,), 1.0)
    assert compare_algebra(b, a, a).verdict is Verdict.DIFFERENT


def test_ties_that_rounding_decides():
    original, truth = torch.tensor([3, 7, 2]), torch.tensor([3, 8, 2])
    tie = compare_rounding(torch.tensor([3, 8, 2]), original, truth)
    assert tie.verdict is Verdict.EQUIVALENT
    assert "1 of 3 integers differ, all where rounding decides" in tie.reason
    assert compare_rounding(torch.tensor([3, 9, 2]), original, truth).verdict is Verdict.DIFFERENT
    assert compare_rounding(torch.tensor([4, 8, 2]), original, truth).verdict is Verdict.DIFFERENT
    perturbed = [torch.tensor([4, 7, 2])]
    assert (
        compare_rounding(torch.tensor([4, 7, 2]), original, original, perturbed=perturbed).verdict
        is Verdict.EQUIVALENT
    )


@pytest.mark.parametrize(
    ("candidate", "original", "same"),
    [
        (3, 3, True),
        (3, 4, False),
        (math.nan, math.nan, True),
        (True, False, False),
        (torch.tensor(3), 3, True),
        (2.5, 2.5, True),
    ],
)
def test_numbers(candidate: object, original: object, same: bool):
    for result in (compare_rounding(candidate, original, original), compare_exact(candidate, original)):
        assert (result.verdict is Verdict.EQUIVALENT) is same


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(1e-15, "equivalent"), (6e-15, "equivalent"), (1e-14, "different"), (6e-13, "different")],
)
def test_algebra(error: float, verdict: str):
    """32 eps of float64; the least wrong rewrite that was measured had an error of 6e-13."""
    truth = torch.ones(COUNT, dtype=torch.float64)
    result = compare_algebra(truth + error * direction(), truth, truth.float())
    assert result.verdict == verdict
    assert result.tolerance == 32
    assert result.ratio == pytest.approx(error * 2**52, rel=0.2)


def test_algebra_grants_what_conditioning_takes():
    truth = torch.ones(COUNT, dtype=torch.float64)
    ill = (truth + 1e-4 * direction(seed=1)).float()
    assert compare_algebra(truth + 1e-13 * direction(), truth, ill).verdict is Verdict.EQUIVALENT
    assert compare_algebra(truth + 1e-10 * direction(), truth, ill).verdict is Verdict.DIFFERENT
    assert compare_algebra(truth + 1e-13 * direction(), truth, truth.float()).verdict is Verdict.DIFFERENT
    lucky = compare_algebra(truth + 1e-13 * direction(), truth, truth.float(), perturbed=[ill])
    assert lucky.verdict is Verdict.EQUIVALENT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_algebra_of_half_precision(dtype: torch.dtype):
    """The original's error in half precision, brought down to float64, not float32's share of it."""
    truth = torch.linspace(1, 2, COUNT, dtype=torch.float64).sqrt()
    original = truth.to(dtype)
    assert compare_algebra(truth + 1e-15 * direction(), truth, original).verdict is Verdict.EQUIVALENT
    assert compare_algebra(truth + 1e-12 * direction(), truth, original).verdict is Verdict.DIFFERENT


def test_algebra_at_the_edge_of_a_step():
    """A `round` of one half: float64's own rounding decides the element, in the original too."""
    truth = torch.ones(4, dtype=torch.float64)
    other = torch.tensor([1.0, 0.0, 1.0, 1.0]).double()
    assert (
        compare_algebra(other, truth, truth.float(), perturbed=[other.float()]).verdict is Verdict.DIFFERENT
    )
    edge = compare_algebra(other, truth, truth.float(), perturbed64=[truth, other])
    assert (edge.verdict, edge.ratio) == (Verdict.EQUIVALENT, 1.0)
    moved = [truth * (1 + 2.0**-52)]
    assert compare_algebra(other, truth, truth.float(), perturbed64=moved).verdict is Verdict.DIFFERENT
    ints = [t.long() for t in (other, truth, truth)]
    assert compare_algebra(*ints).verdict is Verdict.DIFFERENT
    assert compare_algebra(*ints, perturbed64=[other.long()]).verdict is Verdict.EQUIVALENT


def test_noise():
    candidate, original, truth = outputs(0.0, 1e-5)
    moved = [(truth + 4e-6 * direction(seed=s)).float() for s in (3, 4)]
    assert compare_noise(candidate, original, moved).verdict is Verdict.EQUIVALENT
    assert compare_noise(10 * candidate - 9, original, moved).verdict is Verdict.DIFFERENT
    assert compare_noise(candidate, original, [original]).verdict is Verdict.UNDECIDED
    assert compare_noise(candidate, original, []).verdict is Verdict.UNDECIDED
    assert compare_noise(original, original, []).verdict is Verdict.EQUIVALENT
    assert compare_noise(2 * candidate, original, []).verdict is Verdict.DIFFERENT
    assert compare_noise(spoiled(math.nan), original, []).verdict is Verdict.DIFFERENT


def test_exact():
    x = torch.tensor([1.0, 0.0, math.nan, math.inf])
    assert compare_exact(x.clone(), x).verdict is Verdict.EQUIVALENT
    for i, value in ((0, 1 + EPS), (0, math.nan), (1, -0.0), (2, 1.0), (3, 3e38)):
        other = x.clone()
        other[i] = value
        result = compare_exact(other, x)
        assert (result.verdict, result.index) == (Verdict.DIFFERENT, (i,))
    other_nan = x.clone()
    other_nan.view(torch.int32)[2] += 1
    assert torch.isnan(other_nan[2])
    assert compare_exact(other_nan, x).verdict is Verdict.EQUIVALENT


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64]
)
def test_exact_on_other_dtypes(dtype: torch.dtype):
    x = torch.tensor([1, 0, 1]).to(dtype)
    assert compare_exact(x.clone(), x).verdict is Verdict.EQUIVALENT
    assert compare_exact(torch.tensor([1, 0, 0]).to(dtype), x).verdict is Verdict.DIFFERENT


def test_strides_are_no_difference():
    x = torch.randn(6, 4)
    assert compare_exact(x.t().contiguous().t(), x).verdict is Verdict.EQUIVALENT
