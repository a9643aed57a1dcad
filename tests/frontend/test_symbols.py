import pytest
import torch
from torch.export import Dim

from fxopt.errors import InputError, TraceError
from fxopt.program import Program, Symbol
from tests.frontend.good_models import noise, traced


def shapes(program: Program) -> list[str]:
    return [str(s) for s in (*program.signature.inputs, *program.signature.outputs)]


x, y = noise(4, 6), noise(8, 6)


def products(x, y):
    return x @ y.t()


@pytest.mark.parametrize(
    ("dynamic", "expected"),
    [
        ({"x": {0: "n"}}, ["x: f32[n, 6]", "y: f32[8, 6]", "output: f32[n, 8]"]),
        ({"x": {0: "m", 1: "k"}, "y": {0: "n", 1: "k"}}, ["x: f32[m, k]", "y: f32[n, k]", "output: f32[m, n]"]),
        (({0: Dim("b", max=9)}, None), ["x: f32[b, 6]", "y: f32[8, 6]", "output: f32[b, 8]"]),
        ({"x": {0: Dim.AUTO, 1: Dim.AUTO}, "y": {1: Dim.AUTO}}, ["x: f32[x_0, x_1]", "y: f32[8, x_1]", "output: f32[x_0, 8]"]),
        ({"x": {1: Dim.AUTO}}, ["x: f32[4, 6]", "y: f32[8, 6]", "output: f32[4, 8]"]),
        ({"x": {0: "b"}, "y": {0: "2*b"}}, ["x: f32[b, 6]", "y: f32[2*b, 6]", "output: f32[b, 2*b]"]),
        ({"x": {0: Dim("b")}, "y": {0: 2 * Dim("b")}}, ["x: f32[b, 6]", "y: f32[2*b, 6]", "output: f32[b, 2*b]"]),
        ({"x": {0: "len"}}, ["x: f32[len, 6]", "y: f32[8, 6]", "output: f32[len, 8]"]),
        ({"x": {0: Dim.DYNAMIC}, "y": {0: "x_0"}}, ["x: f32[x_0_2, 6]", "y: f32[x_0, 6]", "output: f32[x_0_2, x_0]"]),
    ],
)  # fmt: skip
def test_sizes_by_name(dynamic: object, expected: list[str]):
    assert shapes(traced(products, dynamic, x, y)) == expected


def test_one_name_in_two_inputs_is_one_size_though_the_model_does_not_join_them():
    program = traced(lambda x, y: (x + 1, y + 1), {"x": {0: "n"}, "y": {0: "n"}}, x, x)
    assert [len(t) for t in program(noise(3, 6), noise(3, 6))] == [3, 3]
    with pytest.raises(InputError, match=r"input y: f32\[n, 6\] has size 4 at axis 0, expected n = 3"):
        program(noise(3, 6), noise(4, 6))


@pytest.mark.parametrize(
    ("dynamic", "symbol"),
    [
        ({"x": {0: "n"}}, Symbol("n", 0, None)),
        ({"x": {0: Dim("n", min=2, max=64)}}, Symbol("n", 0, 64)),
        ({"x": {0: Dim("n", min=3)}}, Symbol("n", 3, None)),
        ({"x": {0: Dim.DYNAMIC(min=4, max=5)}}, Symbol("x_0", 4, 5)),
    ],
)
def test_ranges_as_given(dynamic: object, symbol: Symbol):
    program = traced(lambda x: x * 2, dynamic, x)
    assert list(program.signature.symbols.values()) == [symbol]
    if symbol.max is not None:
        with pytest.raises(
            InputError, match=f"size {symbol.name} is 99, the model takes it from {symbol.min} to"
        ):
            program(noise(99, 6))


def test_a_range_that_the_model_narrows_is_read_back():
    with pytest.warns(UserWarning, match="another way"):
        program = traced(lambda x: x + 1 if x.shape[0] > 3 else x, {"x": {0: "n"}}, x)
    assert program.signature.symbols["n"] == Symbol("n", 4, None)


def test_a_range_that_was_given_and_is_narrowed_is_refused():
    with pytest.raises(
        TraceError,
        match=r"takes the dynamic size 'n' from 4 upwards only at .*test_symbols.py:\d+ \(.*says 2 to 9",
    ):
        traced(lambda x: x + 1 if x.shape[0] > 3 else x, {"x": {0: Dim("n", min=2, max=9)}}, x)


def test_the_models_own_limit_is_the_range():
    table = noise(16, 6)
    program = traced(lambda x: x + table[: x.shape[0]], {"x": {0: "n"}}, x)
    assert program.signature.symbols["n"].max == 16


def test_a_batch_of_one_in_the_example_is_dynamic():
    program = traced(lambda x: x.flatten(1), {"x": {0: "batch"}}, noise(1, 2, 3))
    assert [program(noise(k, 2, 3)).shape for k in (1, 4)] == [(1, 6), (4, 6)]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.reshape(4, 3, 2),
        lambda x: x + torch.ones(4, 1),
        lambda x: sum(x[i] for i in range(x.shape[0])),
        lambda x: x * float(x.shape[0]),
        lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None],
    ],
)
def test_a_fixed_size_names_itself_and_the_line(function):
    with pytest.raises(TraceError) as caught:
        traced(function, {"x": {0: "n"}}, x)
    line = function.__code__.co_firstlineno
    assert f"the dynamic size 'n' (axis 0 of 'x') is fixed at 4 by the model at {__file__}:{line}" in str(
        caught.value
    )


def test_a_fixed_size_without_a_name():
    with pytest.raises(TraceError, match=r"axis 0 of 'x' is fixed at 4 by the model at .*test_symbols.py"):
        traced(lambda x: x + torch.ones(4, 1), {"x": {0: Dim.DYNAMIC}}, x)


def test_two_names_for_one_size():
    with pytest.raises(
        TraceError, match=r"sizes 'm' and 'n' are always equal in this model at .*: give them one name"
    ):
        traced(lambda x, y: x + y, {"x": {0: "m"}, "y": {0: "n"}}, x, x)


def test_a_name_for_what_follows_from_another():
    with pytest.raises(TraceError, match=r"size 'm' is always 2\*n in this model: write '2\*n' in its place"):
        traced(lambda x, y: torch.cat([x, x]) + y, {"x": {0: "n"}, "y": {0: "m"}}, x, y)


def test_a_relation_that_the_model_contradicts():
    with pytest.raises(TraceError, match=r"must always be related .* b \+ 4 = 2\*b"):
        traced(lambda x, y: torch.cat([x, x]) + y, {"x": {0: "b"}, "y": {0: "b + 4"}}, x, y)


def test_a_relation_that_the_model_needs():
    program = traced(
        lambda x, y: torch.cat([x, x]) + y, {"x": {0: "b"}, "y": {0: "2*b"}}, noise(1, 6), noise(2, 6)
    )
    assert program(noise(3, 6), noise(6, 6)).shape == (6, 6)
    with pytest.raises(InputError, match=r"input y: f32\[2\*b, 6\] has size 5 at axis 0, expected 2\*b = 6"):
        program(noise(3, 6), noise(5, 6))
