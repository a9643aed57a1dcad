import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt.errors import InputError, TraceError
from fxopt.frontend import trace
from tests.frontend.good_models import Function, noise, traced

x = noise(4, 6)


def test_a_model_that_refuses_larger_sizes_is_checked_at_smaller_ones():
    table = noise(4, 6)
    program = traced(lambda x: x + table[torch.arange(x.shape[0])], {"x": {0: "n"}}, x)
    assert program(noise(3, 6)).shape == (3, 6)


def test_half_a_size_is_no_guard():
    program = traced(lambda x: x[: x.shape[0] // 2], {"x": {0: "n"}}, x)
    assert str(program.signature.outputs[0]) == "output: f32[n // 2, 6]"
    assert [len(program(noise(k, 6))) for k in (1, 2, 3, 9)] == [0, 1, 1, 4]


def test_a_size_that_must_divide_is_accepted():
    program = traced(lambda x: x.reshape(-1, 2, 6), {"x": {0: "n"}}, x)
    assert program(noise(8, 6)).shape == (4, 2, 6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[: int(x.shape[0] * 0.5)],
        lambda x: x[: int(x.shape[0] * 0.1) + 1],
        lambda x: x + 1 if x.shape[0] % 2 == 0 else x,
        lambda x: x * (2 if round(x.shape[0] / 3) == 1 else 3),
        lambda x: x * (2 if x.shape[0] ** 2 < 30 else 3),
    ],
)
def test_a_number_made_of_a_size_is_found_at_another_size(function):
    with pytest.raises(TraceError) as caught:
        traced(function, {"x": {0: "n"}}, x)
    line = function.__code__.co_firstlineno
    assert f"fixes a number that depends on a size at {__file__}:{line} (lambda x:" in str(caught.value)
    assert "traced with n = 4, at n = " in str(caught.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / x.shape[0],
        lambda x: x * (x.shape[0] ** -0.5),
        lambda x: x * torch.sym_float(x.shape[0]),
        lambda x: torch.full((x.shape[0],), x.shape[0] * 0.5),
        lambda x: x.repeat(x.shape[0] * 2 + 1, 1),
        lambda x: torch.arange(x.shape[0]).float() / max(x.shape[0] - 1, 1),
        lambda x: nn.functional.interpolate(x[None], scale_factor=1.5),
        lambda x: nn.functional.adaptive_avg_pool1d(x.t(), 3),
    ],
)
def test_computing_with_sizes_is_fine(function):
    program = traced(function, {"x": {0: "n"}}, x)
    for size in (1, 2, 7):
        torch.testing.assert_close(program(noise(size, 6)), function(noise(size, 6)))


def test_a_model_that_treats_one_apart_takes_sizes_from_two():
    def forward(x):
        return x[0] if x.shape[0] == 1 else x

    with pytest.warns(UserWarning, match="the model treats n = 1 apart") as caught:
        program = traced(forward, {"x": {0: "n"}}, x)
    assert Path(caught[0].filename).name == "good_models.py"  # which calls trace
    assert program.signature.symbols["n"].min == 2
    with pytest.raises(InputError, match="size n is 1, the model takes it from 2"):
        program(noise(1, 6))


def test_of_several_sizes_only_that_which_is_treated_apart():
    def forward(x):
        return x.sum(1) if x.shape[1] == 1 else x

    with pytest.warns(UserWarning, match="treats k = 1 apart"):
        program = traced(forward, {"x": {0: "n", 1: "k"}}, x)
    assert {n: s.min for n, s in program.signature.symbols.items()} == {"n": 0, "k": 2}


class Counting(nn.Module):
    """Counts its runs on values (torch.export runs it on stand-ins)."""

    def __init__(self, function):
        super().__init__()
        self.function, self.sizes = function, None

    def forward(self, x):
        if type(x) is torch.Tensor and not isinstance(x, torch._subclasses.FakeTensor):
            RUNS.append(tuple(x.shape))
        return self.function(x)


RUNS: list[tuple[int, ...]] = []


@pytest.mark.parametrize(
    ("function", "dynamic", "runs"),
    [
        (lambda x: x + 1, None, [(4, 6)]),
        (lambda x: x + 1, {"x": {0: "n"}}, [(5, 6), (1, 6)]),
        (lambda x: x.sum(), {"x": {0: "n", 1: "k"}}, [(5, 8), (1, 1)]),
        (lambda x: x.reshape(-1, 2, 6), {"x": {0: "n"}}, [(6, 6), (2, 6), (3, 6), (5, 6), (1, 6)]),
    ],
)
def test_the_model_is_run_no_more_than_needed(function, dynamic: object, runs: list[tuple[int, ...]]):
    RUNS.clear()
    trace(Counting(function).eval(), (x,), dynamic_shapes=dynamic)
    assert runs == RUNS


def test_warnings_of_the_model_are_no_errors_of_the_trace():
    def forward(x):
        warnings.warn("look out", stacklevel=1)
        return x * 2

    assert traced(forward, {"x": {0: "n"}}, x)(noise(3, 6)).shape == (3, 6)


def test_a_model_that_goes_another_way_at_some_sizes_says_so():
    def branches(x):
        if x.shape[0] > 3:  # here
            return x + 1
        return x - 1

    with pytest.warns(
        UserWarning, match=r"another way at .*if x.shape\[0\] > 3.* where n is 3: n is at least 4"
    ):
        program = trace(Function(branches).eval(), noise(5, 3), dynamic_shapes={"x": {0: "n"}})
    assert program.signature.symbols["n"].min == 4


def test_a_model_that_takes_no_other_sizes_says_nothing():
    def positions(x):
        return x + torch.ones(8, 3)[: x.shape[0]]

    program = trace(Function(positions).eval(), noise(5, 3), dynamic_shapes={"x": {0: "n"}})
    assert program.signature.symbols["n"].max == 8


def test_a_model_without_a_result():
    with pytest.raises(TraceError, match="returns no tensor"):
        trace(Function(lambda x: None).eval(), noise(2, 3))


def padded_to_fours(x):
    n, pad = x.shape[1], -x.shape[1] % 4
    if pad > 0:
        x = F.pad(x, (0, pad))
    y = x.reshape(x.shape[0], -1, 4).flip(2).reshape(x.shape[0], -1)
    return y[:, :n] if pad > 0 else y


@pytest.mark.parametrize("size", [7, 8])
def test_a_branch_that_the_example_s_size_decided_is_tried_the_other_way(size: int):
    program = trace(Function(padded_to_fours), (noise(2, size),), dynamic_shapes={"x": {1: "n"}})
    for other in (1, 3, 4, 8, 9):
        x = noise(2, other)
        assert torch.equal(program(x), padded_to_fours(x))


def test_two_is_the_smallest_size_that_varies():
    def function(x):
        return x * 2 if x.shape[0] > 2 else x + 1

    with pytest.raises(TraceError, match=r"fixed at 2 .*test_check.py.*try a larger example"):
        trace(Function(function), (noise(2, 3),), dynamic_shapes={"x": {0: "n"}})
    with pytest.warns(UserWarning, match="goes another way"):
        program = trace(Function(function), (noise(3, 3),), dynamic_shapes={"x": {0: "n"}})
    assert program.signature.symbols["n"].min == 3


@pytest.mark.parametrize("effect", [1.0, 1e-4])
def test_a_size_that_hardly_matters_is_no_rounding(effect: float):
    def function(x):
        return x + effect * (1 if x.shape[0] < 8 else 2)

    with pytest.warns(UserWarning, match="goes another way"):
        trace(Function(function), (noise(5, 3),), dynamic_shapes={"x": {0: "n"}})

    def other(x):
        return x + effect * (1 if x.shape[0] % 4 else 2)

    with pytest.raises(TraceError, match=r"fixes a number that depends on a size at .*test_check.py"):
        trace(Function(other), (noise(5, 3),), dynamic_shapes={"x": {0: "n"}})


class Rounds(nn.Module):
    """A model that rounds otherwise than its trace, at the example's sizes or elsewhere."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def forward(self, x):
        if torch.compiler.is_exporting() or x.shape[0] < self.at:
            return x
        return x * (1 + 1e-4)


def test_what_rounds_as_much_at_the_example_is_rounding():
    sizes = {"x": {0: "n"}}
    trace(Rounds(0), (noise(5, 3),), dynamic_shapes=sizes)
    with pytest.raises(TraceError, match=r"relative error 1\.0e-04"):
        trace(Rounds(6), (noise(5, 3),), dynamic_shapes=sizes)
    trace(Rounds(0), (noise(5, 3),))
