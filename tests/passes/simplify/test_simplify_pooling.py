"""simplify-pooling: pools of nothing, pools of pools, averages before a convolution of one element."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.frontend import trace
from fxopt.passes.simplify.simplify_pooling import SimplifyPooling
from fxopt.testing import check_pass
from tests.passes.helpers import Function, applied, calls, program, rand, structure, unchanged

POOLS = SimplifyPooling()
X, W, B = rand(2, 4, 12, 12), rand(6, 4, 1, 1, seed=1), rand(6, seed=2)
FLAT, SOLID = rand(2, 4, 12), rand(1, 2, 6, 6, 6)

NOTHING = {
    "max": lambda x: F.max_pool2d(x, 1),
    "average": lambda x: F.avg_pool2d(x, (1, 1)),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (12, 12)),
    "adaptive to what is there": lambda x: F.adaptive_avg_pool2d(x, (None, 12)),
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_pool_of_nothing_goes(name: str, dynamic: bool):
    assert calls(applied(POOLS, program(NOTHING[name], X, dynamic=dynamic)).program) == []


SOMETHING = {
    "a stride": lambda x: F.max_pool2d(x, 1, 2),
    "a stride along one axis": lambda x: F.max_pool2d(x, 1, (1, 2)),
    "a window along one axis": lambda x: F.avg_pool2d(x, (1, 2), 1),
    "another divisor": lambda x: F.avg_pool2d(x, 1, divisor_override=2),
    "another size": lambda x: F.adaptive_avg_pool2d(x, (12, 6)),
}


@pytest.mark.parametrize("name", SOMETHING)
def test_a_pool_of_something_stays(name: str):
    assert unchanged(POOLS, program(SOMETHING[name], X)) == []


MERGED = {
    "max": (lambda x: F.max_pool2d(F.max_pool2d(x, 2), 2), lambda x: F.max_pool2d(x, 4), X),
    "three": (lambda x: F.max_pool2d(F.max_pool2d(F.max_pool2d(x, (2, 1)), (2, 1)), (1, 2)),
              lambda x: F.max_pool2d(x, (4, 2)), X),
    "with padding first": (lambda x: F.max_pool2d(F.max_pool2d(x, 2, 2, 1), 2), lambda x: F.max_pool2d(x, 4, 4, 1), X),
    "with a remainder": (lambda x: F.max_pool2d(F.max_pool2d(x, (5, 2)), (2, 5)), lambda x: F.max_pool2d(x, 10), X),
    "windows that overlap": (lambda x: F.max_pool1d(F.max_pool1d(x, 2, 1), 2, 1), lambda x: F.max_pool1d(x, 3, 1), FLAT),
    "padded twice": (
        lambda x: F.max_pool1d(F.max_pool1d(x, 3, 1, 1), 3, 1, 1), lambda x: F.max_pool1d(x, 5, 1, 2), FLAT,
    ),
    "solid": (lambda x: F.max_pool3d(F.max_pool3d(x, 2, 1), (1, 2, 2)), lambda x: F.max_pool3d(
        x, (2, 3, 3), (1, 2, 2)), SOLID),
    "averages": (lambda x: F.avg_pool2d(F.avg_pool2d(x, 2), 3), lambda x: F.avg_pool2d(x, 6), X),
    "averages that overlap later": (
        lambda x: F.avg_pool1d(F.avg_pool1d(x, 2), 3, 2), lambda x: F.avg_pool1d(x, 6, 4), FLAT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGED)
def test_pools_of_pools(name: str):
    function, expected, x = MERGED[name]
    after = applied(POOLS, program(function, x, dynamic=True)).program
    assert structure(after) == structure(program(expected, x, dynamic=True))


def padded_at_the_end(x):
    return F.max_pool1d(F.max_pool1d(x, 2, 2), 2, 2, 1)


APART = {
    "a stride beyond the window": (
        lambda x: F.max_pool1d(F.max_pool1d(x, 1, 2), 2, 1),
        "one window would read elements that lie between those of the first",
    ),
    "padded after a stride": (
        padded_at_the_end, "what the first leaves out at the end the second's padding would read",
    ),
    "a wide window": (
        lambda x: F.max_pool2d(F.max_pool2d(x.unsqueeze(1), 5, 1, 2), 5, 1, 2),
        "one window would read more elements than the two",
    ),
    "dilated": (
        lambda x: F.max_pool1d(F.max_pool1d(x, 2, 2, 0, 2), 2),
        "the windows are dilated, of another divisor, or rounded up",
    ),
    "dilated later": (
        lambda x: F.max_pool1d(F.max_pool1d(x, 2), 2, 2, 0, 2),
        "the windows are dilated, of another divisor, or rounded up",
    ),
    "rounded up": (
        lambda x: F.max_pool1d(F.max_pool1d(x, 5, ceil_mode=True), 2),
        "the windows are dilated, of another divisor, or rounded up",
    ),
    "a divisor": (
        lambda x: F.avg_pool2d(F.avg_pool2d(x.unsqueeze(1), (1, 2), divisor_override=3), (1, 2)),
        "the windows are dilated, of another divisor, or rounded up",
    ),
    "too much padding": (
        lambda x: F.max_pool1d(F.max_pool1d(x, 2, 1, 1), 2, 1, 1), "the padding would be more than half of the window",
    ),
    "averages that overlap": (
        lambda x: F.avg_pool1d(F.avg_pool1d(x, 2, 1), 2), "the windows of the averages overlap, or are padded",
    ),
    "averages of padding": (
        lambda x: F.avg_pool1d(F.avg_pool1d(x, 2, 2, 1), 2), "the windows of the averages overlap, or are padded",
    ),
    "averages of averages of padding": (
        lambda x: F.avg_pool1d(F.avg_pool1d(x, 1, 1, 0), 2, 2, 1).relu(), None,
    ),
    "another user": (
        lambda x: (y := F.max_pool1d(x, 2)).sum() + F.max_pool1d(y, 2), "max_pool1d has another user",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_pools_that_stay_apart(name: str):
    function, why = APART[name]
    if why is None:
        assert calls(applied(POOLS, program(function, FLAT)).program) == ["avg_pool1d", "relu"]
    else:
        assert unchanged(POOLS, program(function, FLAT)) == [why]


def test_two_kinds_stay_apart():
    assert unchanged(POOLS, program(lambda x: F.avg_pool2d(F.max_pool2d(x, 2), 2), X)) == []
    assert unchanged(POOLS, program(lambda x: F.max_pool2d(F.avg_pool2d(x, 2), 2), X)) == []


def test_an_average_over_all_is_adaptive():
    after = applied(POOLS, program(lambda x: F.avg_pool2d(x, 12), X, dynamic=True)).program
    assert structure(after) == structure(program(lambda x: F.adaptive_avg_pool2d(x, 1), X, dynamic=True))
    assert calls(applied(POOLS, program(lambda x: F.avg_pool1d(x, 12), FLAT)).program) == [
        "adaptive_avg_pool1d"
    ]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.avg_pool2d(x, (12, 6)),
        lambda x: F.avg_pool2d(x, 12, divisor_override=2),
        lambda x: F.avg_pool2d(x, 12, 12, 1),
        lambda x: F.max_pool2d(x, 12),
    ],
)
def test_another_pool_over_all_stays(function):
    assert unchanged(POOLS, program(function, X)) == []


def test_an_average_of_a_height_that_varies_stays():
    before = trace(Function(lambda x: F.avg_pool2d(x, 12), {}), (X,), dynamic_shapes=[{2: "height"}])
    assert unchanged(POOLS, before) == []


FIRST = {
    "a transition": lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, b), 2),
    "to one": lambda x, w, b: F.adaptive_avg_pool2d(F.conv2d(x, w, b), 1),
    "two": lambda x, w, b: F.avg_pool2d(F.conv2d(F.conv2d(x, w, b), w.new_ones(3, 6, 1, 1)), 2),
    "windows that overlap": lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, b), 3, 2),
}


@pytest.mark.parametrize("name", FIRST)
def test_averages_first(name: str):
    after = applied(POOLS, program(FIRST[name], X, dynamic=True, w=W, b=B)).program
    [pool] = (n for n in after.calls() if "pool" in str(n.target))
    assert pool.args[0].op == "placeholder"


def test_before_and_after():
    after = applied(POOLS, program(FIRST["a transition"], X, dynamic=True, w=W, b=B)).program
    expected = program(lambda x, w, b: F.conv2d(F.avg_pool2d(x, 2), w, b), X, dynamic=True, w=W, b=B)
    assert structure(after) == structure(expected)


AFTER = {
    "another kernel": lambda x, w, b: F.avg_pool2d(F.conv2d(x, w.expand(-1, -1, 1, 2)), 2),
    "a stride": lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, stride=2), 2),
    "padding": lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, padding=1), 2),
    "a largest value": lambda x, w, b: F.max_pool2d(F.conv2d(x, w), 2),
    "an average of padding": lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, b), 2, 2, 1),
    "a divisor": lambda x, w, b: F.avg_pool2d(F.conv2d(x, w, b), 2, divisor_override=3),
    "another size": lambda x, w, b: F.adaptive_avg_pool2d(F.conv2d(x, w, b), (1, 6)),
    "without a batch": lambda x, w, b: F.avg_pool2d(F.conv2d(x[0], w, b), 2),
}


@pytest.mark.parametrize("name", AFTER)
def test_pools_after_stay(name: str):
    assert unchanged(POOLS, program(AFTER[name], X, w=W, b=B)) == []


def test_of_a_size_that_varies_it_stays():
    before = trace(
        Function(lambda x, w, b: F.adaptive_avg_pool2d(F.conv2d(x, w, b), 1), {"w": W, "b": B}), (X,),
        dynamic_shapes=[{2: "height"}],
    )  # fmt: skip
    assert unchanged(POOLS, before) == []


def test_where_it_costs_no_less_it_stays():
    """Many channels in, one out: the pool would read more than the convolution saves."""

    def function(x, w):
        return F.avg_pool2d(F.conv2d(x, w), 5, (1, 2))

    w = rand(1, 4, 1, 1)
    assert unchanged(POOLS, program(function, X, w=w)) == ["it costs no less to pool first"]
    assert unchanged(POOLS, program(lambda x, w: F.avg_pool2d(F.conv2d(x, w), 2, 1), X, w=W[:4])) == [
        "it costs no less to pool first"
    ]


def test_a_convolution_with_another_user_stays():
    before = program(lambda x, w: (y := F.conv2d(x, w)).sum() + F.avg_pool2d(y, 2), X, w=W)
    assert unchanged(POOLS, before) == ["conv2d has another user"]


@pytest.mark.parametrize("size", [8, 9])
def test_padding_at_the_end_would_read_what_was_left_out(size: int):
    """Why such pools stay apart: at 9 the last element is in no window of the first."""
    x = torch.arange(float(size)).reshape(1, 1, size)
    assert bool(torch.equal(padded_at_the_end(x), F.max_pool1d(x, 4, 4, 2))) is (size % 2 == 0)


def test_drawn_programs():
    check_pass(POOLS, examples=12, min_fired=0.2, targets=())
