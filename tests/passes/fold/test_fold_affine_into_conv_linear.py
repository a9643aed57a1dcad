"""fold-affine-into-conv-linear: what stands beside a layer goes into its weights; each reason to leave it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.fold.fold_affine_into_conv_linear import FoldAffineIntoConvLinear
from fxopt.pipeline import PassManager
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, unchanged

FOLD = FoldAffineIntoConvLinear()
Fn = Callable[..., torch.Tensor]

X, IMAGE = rand(2, 4), rand(2, 4, 6, 6)
LINEAR = {"w": rand(3, 4), "b": rand(3)}
CONV = {"w": rand(6, 4, 3, 3), "b": rand(6)}
S, COLUMN = rand(3, seed=1) + 3, rand(6, 1, 1, seed=1) + 3
INPUT, INPUT_COLUMN = rand(4, seed=2) + 3, rand(4, 1, 1, seed=2) + 3

LINEARS: dict[str, Fn] = {
    "times a number": lambda x, w, b, s: F.linear(x, w, b) * 0.5,
    "times a vector": lambda x, w, b, s: F.linear(x, w, b) * s,
    "a vector times": lambda x, w, b, s: s * F.linear(x, w, b),
    "over a vector": lambda x, w, b, s: F.linear(x, w, b) / s,
    "plus a vector": lambda x, w, b, s: s + F.linear(x, w, b),
    "minus a number": lambda x, w, b, s: F.linear(x, w, b) - 2,
    "a chain": lambda x, w, b, s: (F.linear(x, w, b) / s + s) * 2 - 1,
    "without a bias": lambda x, w, b, s: F.linear(x, w) * s + b,
    "in rows of rows": lambda x, w, b, s: F.linear(x.unsqueeze(1), w, b) * s,
    "through a reshape": lambda x, w, b, s: F.linear(x, w, b).reshape(1, -1) * 0.5,
    "a row of one": lambda x, w, b, s: F.linear(x, w, b) * s.reshape(1, 3),
}

BEFORE: dict[str, Fn] = {
    "times a vector": lambda x, w, b, s: F.linear(x * s, w, b),
    "minus a vector": lambda x, w, b, s: F.linear(x - s, w, b),
    "over a number": lambda x, w, b, s: F.linear(x / 3, w, b),
    "a chain": lambda x, w, b, s: F.linear((x - s) / s * 2, w, b),
    "plus, without a bias": lambda x, w, b, s: F.linear(x + s, w) * b,
}


@pytest.mark.parametrize("name", LINEARS)
def test_after_a_linear_layer(name: str):
    before = program(LINEARS[name], X, s=S, **LINEAR, dynamic=name != "through a reshape")
    after = applied(FOLD, PassManager.parse("fold-constants").run(before).program).program
    assert [c for c in calls(after) if c not in ("reshape", "unsqueeze")] == ["linear"]


@pytest.mark.parametrize("name", BEFORE)
def test_before_a_linear_layer(name: str):
    after = applied(FOLD, program(BEFORE[name], X, s=INPUT, **LINEAR, dynamic=True)).program
    assert calls(after) == ["linear"]


def test_the_fold_is_rounded_once():
    after = applied(FOLD, program(lambda x, w, b, s: F.linear(x, w, b) * s + 1, X, s=S, **LINEAR)).program
    w, b, s = (t.double() for t in (LINEAR["w"], LINEAR["b"], S))
    weight, bias = after.weights["w"], after.weights["b"]
    assert torch.equal(weight, (w * s[:, None]).float())
    torch.testing.assert_close(bias, (b * s + 1).float())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
def test_around_a_convolution(groups: int, padding: int):
    """Zeros stay zeros when they are multiplied: before a convolution that pads a scale folds."""
    weights = {"w": rand(6, 4 // groups, 3, 3), "b": rand(6)}

    def function(x, w, b, s, t):
        return F.conv2d(x * t, w, b, padding=padding, groups=groups) * s + s

    before = program(function, IMAGE, s=COLUMN, t=INPUT_COLUMN, **weights, dynamic=True)
    assert calls(applied(FOLD, before).program) == ["conv2d"]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shift", ["vector", "number"])
def test_what_is_added_before_a_convolution_without_padding(groups: int, shift: str):
    weights = {"w": rand(6, 4 // groups, 3, 3), "b": rand(6)}

    def function(x, w, b, t):
        return F.conv2d(x + (t if shift == "vector" else 2), w, b, groups=groups)

    before = program(function, IMAGE, t=INPUT_COLUMN, **weights)
    assert calls(applied(FOLD, before).program) == ["conv2d"]


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_other_ranks(rank: int):
    conv = {1: F.conv1d, 3: F.conv3d}[rank]
    s = rand(6, *[1] * rank)
    before = program(lambda x, w, s: conv(x, w) * s, rand(2, 4, *[4] * rank), w=rand(6, 4, *[3] * rank), s=s)
    assert calls(applied(FOLD, before).program) == [f"conv{rank}d"]


def test_one_number_goes_through_an_average_pool_and_a_reshape():
    before = program(lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, b), 2).flatten(1) * 0.5, IMAGE, **CONV)
    assert calls(applied(FOLD, before).program) == ["conv2d", "avg_pool2d", "flatten"]


# What must not fire.


def test_what_is_added_before_a_convolution_that_pads():
    before = program(lambda x, w, b: F.conv2d(x + 1, w, b, padding=1), IMAGE, **CONV)
    assert unchanged(FOLD, before) == ["the convolution pads: its border would not see what is added"]


OTHERS: dict[str, Fn] = {
    "a vector along another axis": lambda x, w, b, s: F.linear(x, w, b) * s.reshape(3, 1),
    "a matrix": lambda x, w, b, s: F.linear(x, w, b) * torch.outer(s, s),
    "a constant over the result": lambda x, w, b, s: s / F.linear(x, w, b),
    "a constant minus the result": lambda x, w, b, s: s - F.linear(x, w, b),
    "a sum with a factor": lambda x, w, b, s: torch.add(F.linear(x, w, b), s, alpha=2),
    "a quotient that rounds": lambda x, w, b, s: torch.div(F.linear(x, w, b), s, rounding_mode="floor"),
    "a broadcast": lambda x, w, b, s: F.linear(x, w, b) * s.reshape(1, 1, 3),
    "a vector through a reshape": lambda x, w, b, s: F.linear(x, w, b).reshape(1, 9) * 1 * s.repeat(3),
    "a sum through a reshape": lambda x, w, b, s: F.linear(x, w, b).reshape(1, 9) + 1,
    "another dtype": lambda x, w, b, s: F.linear(x, w, b) * s.double(),
    "an activation between": lambda x, w, b, s: F.linear(x, w, b).relu() * s,
    "an activation between, a number": lambda x, w, b, s: F.linear(x, w, b).relu() * 0.5,
    "an operand": lambda x, w, b, s: F.linear(x, w, b) * x[:, :3],
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_fold(name: str):
    before = program(OTHERS[name], rand(3, 4), s=S, **LINEAR)
    before = PassManager.parse("eliminate-identities,fold-constants").run(before).program
    assert unchanged(FOLD, before) == []


def test_another_user_of_the_result():
    def function(x, w, b):
        y = F.linear(x, w, b)
        return y, y * 2

    assert unchanged(FOLD, program(function, X, **LINEAR)) == ["linear has another user"]


def test_another_user_of_the_operand():
    def function(x, w, b):
        y = x * 2
        return y, F.linear(y, w, b)

    assert unchanged(FOLD, program(function, X, **LINEAR)) == ["mul has another user"]


def test_a_weight_with_another_user_is_not_stored_twice():
    def function(x, ids, w):
        return F.linear(x, w) * 2, F.embedding(ids, w)

    assert unchanged(FOLD, program(function, X, torch.tensor([0, 1]), w=rand(3, 4))) == []


def test_a_weight_that_would_be_infinite():
    before = program(lambda x, w: F.linear(x, w) * 1e10, X * 1e-30, w=rand(3, 4) * 1e30)
    assert unchanged(FOLD, before) == ["a weight would not be finite"]


def test_a_division_by_zero_stays():
    before = program(lambda x, w, b: F.linear(x, w, b) / 0, X, **LINEAR)
    assert unchanged(FOLD, before) == ["a weight would not be finite"]


def test_a_convolution_without_a_batch_axis():
    before = program(lambda x, w, b, s: F.conv2d(x, w, b) * s, rand(4, 6, 6), s=COLUMN[:1], **CONV)
    assert unchanged(FOLD, before) == []


def test_weights_that_are_inputs():
    assert unchanged(FOLD, program(lambda x, w: F.linear(x, w) * 2, X, rand(3, 4))) == []
    assert unchanged(FOLD, program(lambda x, b, w: F.linear(x, w, b) * 2, X, rand(3), w=rand(3, 4))) == []


def test_half_precision():
    weights = {n: t.half() for n, t in LINEAR.items()}
    after = applied(FOLD, program(lambda x, w, b: F.linear(x, w, b) * 0.5, X.half(), **weights)).program
    assert {w.dtype for w in after.weights.values()} == {torch.float16}


def test_drawn_programs():
    check_pass(FOLD, examples=25, targets=())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_around_a_transposed_convolution(groups: int, rank: int):
    conv = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[rank]
    ones = [1] * rank

    def function(x, w, b, s, t):
        return conv(x * t, w, b, 2, 1, groups=groups) * s + s

    before = program(
        function, rand(2, 4, *[3] * rank), dynamic=True, w=rand(4, 6 // groups, *[3] * rank), b=rand(6),
        s=rand(6, *ones, seed=1) + 3, t=rand(4, *ones, seed=2) + 3,
    )  # fmt: skip
    assert calls(applied(FOLD, before).program) == [f"conv_transpose{rank}d"]


def test_what_is_added_before_a_transposed_convolution_stays():
    before = program(lambda x, w: F.conv_transpose2d(x + 1, w), IMAGE, w=rand(4, 6, 3, 3))
    assert unchanged(FOLD, before) == ["the convolution pads: its border would not see what is added"]


WIDE = {"w": rand(3, 4 * 36), "b": rand(3)}
THROUGH: dict[str, tuple[Fn, dict[str, torch.Tensor]]] = {
    "a flattening": (lambda x, w, b, s: F.linear((x * s + s).flatten(1), w, b), WIDE),
    "a reshape": (lambda x, w, b, s: F.linear((x - s).reshape(x.shape[0], -1), w, b), WIDE),
    "an average": (lambda x, w, b, s: F.linear(F.adaptive_avg_pool2d(x * s + s, 1).flatten(1), w, b), LINEAR),
    "windows": (lambda x, w, b, s: F.linear(F.avg_pool2d(x / s + s, 3).flatten(1), w, b), {"w": rand(3, 16), "b": rand(3)}),
    "windows before a convolution": (lambda x, w, b, s: F.conv2d(F.avg_pool2d(x * s + s, 2), w, b), CONV),
    "two averages": (
        lambda x, w, b, s: F.conv2d(F.adaptive_avg_pool2d(F.avg_pool2d(x * s, 2), (3, 4)), w, b), CONV,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", THROUGH)
def test_by_channel_through_averages_and_flattenings(name: str):
    function, weights = THROUGH[name]
    before = program(function, IMAGE, s=INPUT_COLUMN, **weights, dynamic=True)
    after = PassManager.parse("eliminate-dead-code").run(applied(FOLD, before).program).program
    assert not {"mul", "div", "add", "sub"} & set(calls(after))


def test_two_channels_of_rows_through_a_flattening():
    before = program(
        lambda x, w, b, s: F.linear((x * s + s).flatten(1), w, b),
        rand(3, 2, 5), w=rand(3, 10), b=rand(3), s=rand(2, 1, seed=1), dynamic=True,
    )  # fmt: skip
    assert calls(applied(FOLD, before).program) == ["flatten", "linear"]


STAYS: dict[str, tuple[Fn, dict[str, torch.Tensor]]] = {
    "an average of padding": (lambda x, w, b, s: F.conv2d(F.avg_pool2d(x * s, 2, 2, 1), w, b), CONV),
    "another divisor": (lambda x, w, b, s: F.conv2d(F.avg_pool2d(x * s, 2, divisor_override=3), w, b), CONV),
    "windows rounded up": (
        lambda x, w, b, s: F.conv2d(F.avg_pool2d(x * s, 5, 3, ceil_mode=True), w[..., :1, :1].contiguous(), b), CONV,
    ),
    "the largest of windows": (lambda x, w, b, s: F.conv2d(F.max_pool2d(x * s, 2), w, b), CONV),
    "a reshape to other rows": (
        lambda x, w, b, s: F.linear((x * s).reshape(2 * x.shape[0], 2 * 36), w[:, :72].contiguous(), b), WIDE,
    ),
    "a reshape of rows": (lambda x, w, b, s: F.linear((x * s).flatten(2), w[:, :36].contiguous(), b), WIDE),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_by_channel_through_other_calls_it_stays(name: str):
    function, weights = STAYS[name]
    before = (
        PassManager.parse("fold-constants").run(program(function, IMAGE, s=INPUT_COLUMN, **weights)).program
    )
    assert unchanged(FOLD, before) == []


def test_an_average_of_one_without_a_batch_stays():
    """It is taken over axis 1 too."""

    def function(x, w, s):
        return F.conv1d(F.adaptive_avg_pool2d(x * s, (3, 6)), w)

    assert unchanged(FOLD, program(function, IMAGE[0], w=rand(5, 3, 2), s=rand(6, 1))) == []
    function = lambda x, w, s: F.conv1d(F.avg_pool2d(x * s, (2, 1)), w)  # noqa: E731
    assert unchanged(FOLD, program(function, IMAGE[0], w=rand(5, 3, 2), s=rand(6, 1))) == []


def test_an_average_with_another_user_stays():
    def function(x, w, b, s):
        y = F.avg_pool2d(x * s, 2)
        return F.conv2d(y, w, b), y

    assert unchanged(FOLD, program(function, IMAGE, s=INPUT_COLUMN, **CONV)) == []


def test_what_is_averaged_with_another_user_stays():
    def function(x, w, b, s):
        y = x * s
        return F.conv2d(F.avg_pool2d(y, 2), w, b), y

    assert unchanged(FOLD, program(function, IMAGE, s=INPUT_COLUMN, **CONV)) == ["mul has another user"]
