"""Ranks, dtypes and sizes of a pattern's arguments; what has no answer says so soon."""

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fxopt.errors import PassError
from fxopt.pipeline import PassManager, RewritePass
from fxopt.rewriting import Const, Rule
from fxopt.rewriting.ranks import _choices, _Lazy, _named_sizes, _sample_ranks, _Search, find_arguments
from fxopt.rewriting.template import rule_templates
from tests.passes.helpers import calls, program, rand

WIDTH = 12


def shapes(function: Callable[..., object], *names: str, **literals: object) -> dict[str, list[int]] | str:
    found = find_arguments(function, names, literals, [*names, *literals])
    return found if isinstance(found, str) else {n: list(t.shape) for n, t in found.items()}


def test_the_first_use_of_an_argument_says_its_rank() -> None:
    assert shapes(lambda x, w, b: F.conv1d(x, w, b), "x", "w", "b") == {
        "x": [4, 4, 4],
        "w": [4, 4, 4],
        "b": [4],
    }
    assert shapes(lambda x, y: x + y, "x", "y") == {"x": [4, 4], "y": [4, 4]}


def test_a_later_use_turns_the_first_down() -> None:
    assert shapes(lambda x, w: F.conv2d(x.relu(), w), "x", "w") == {"x": [4, 4, 4, 4], "w": [4, 4, 4, 4]}
    assert shapes(lambda x, y, w: F.conv2d(x.relu() + y.abs(), w), "x", "y", "w") == {
        "x": [4, 4],
        "y": [4, 4, 4, 4],
        "w": [4, 4, 4, 4],
    }


def test_an_op_without_a_meta_kernel_runs_on_fake_tensors() -> None:
    def first(x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -8, 7)

    def later(x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x.relu(), 0.1, 0, -8, 7)

    with pytest.raises(NotImplementedError):
        first(torch.ones(2, device="meta"))
    assert shapes(first, "x") == shapes(later, "x") == {"x": [4, 4]}


def test_each_of_several_arguments_may_have_another_dtype() -> None:
    f, i = torch.float32, torch.int64
    found = {tuple(dtype for _, dtype in choice) for choice in _choices(3, [], thorough=True)}
    assert {(f, f, f), (i, f, f), (f, i, f), (f, f, i), (i, i, i)} <= found
    assert (i, i, f) not in found
    assert {tuple(d for _, d in c) for c in _choices(3, [], thorough=False)} == {(f, f, f)}


def test_numbers_that_a_function_names_and_their_products() -> None:
    length, unused = 21, 1 << 20
    found = _named_sizes(lambda x: x.reshape(3, 5).expand(length))
    assert set(found) == {3, 5, 21, 15, 63, 105}
    assert _named_sizes(lambda x: x.reshape(1 << 20, 1)) == (unused,)
    assert _named_sizes(lambda x: x.reshape((1 << 20) + 1)) == ()
    assert _named_sizes(lambda x: x.reshape(1, 2, 3)) == (2, 3, 6)

    def early() -> tuple[int, ...]:
        found = _named_sizes(lambda x: x.reshape(late, 7))
        late = 9
        return (*found, late)

    assert early() == (7, 9)


def test_dtypes_are_found() -> None:
    found = find_arguments(lambda i, w: F.embedding(i, w), ["i", "w"], {}, ["i", "w"])
    assert not isinstance(found, str)
    assert (found["i"].dtype, found["w"].dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, w, b: F.layer_norm(x, [16], w, b), {"x": [16], "w": [16], "b": [16]}),
        (lambda x: x.reshape(-1, 12, 64), {"x": [12, 12, 12, 12]}),
        (lambda x, w: F.linear(x.reshape(-1, 8), w), {"x": [4, 4, 4], "w": [8, 8]}),
        (lambda x, w: F.layer_norm(x, (WIDTH,), w), {"x": [12], "w": [12]}),
    ],
)
def test_a_size_that_the_pattern_names_is_tried(
    function: Callable[..., object], expected: dict[str, list[int]]
) -> None:
    assert shapes(function, *expected) == expected


def test_what_runs_on_no_ranks_is_told_soon() -> None:
    def never(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w, b).reshape(1, 10, 3, 4, 16)

    start = time.process_time()
    with pytest.raises(
        PassError, match=r"does not run on tensors of any rank: shape '\[1, 10, 3, 4, 16\]' is"
    ):
        rule_templates(Rule(never, lambda x, w, b: x))
    assert time.process_time() - start < 10  # seconds of this process; one is what it needs


def test_a_named_size_stays_and_the_others_vary() -> None:
    class Fold(RewritePass):
        """Scales a norm, rows flattened."""

        @staticmethod
        def pattern(x, w: Const, b: Const):  # type: ignore[override]
            return F.layer_norm(x, [16], w, b).reshape(x.shape[0], -1).relu()

        @staticmethod
        def replacement(x, w, b):  # type: ignore[override]
            return F.layer_norm(x, [16], w, b).relu().reshape(x.shape[0], -1)

    for width, expected in ((16, ["layer_norm", "relu", "reshape"]), (8, ["layer_norm", "reshape", "relu"])):
        before = program(
            lambda x, w, b, n=width: F.layer_norm(x, [n], w, b).reshape(x.shape[0], -1).relu(),
            rand(3, 5, width),
            w=rand(width),
            b=rand(width),
        )
        assert calls(PassManager.of([Fold()]).run(before).program) == expected


def test_a_literal_that_all_sizes_follow_is_bound() -> None:
    class Norm(RewritePass):
        """A norm over the last axes, whatever their sizes."""

        @staticmethod
        def pattern(x, w: Const, b: Const, shape: list[int]):  # type: ignore[override]
            return F.layer_norm(x, shape, w, b)

        @staticmethod
        def replacement(x, w, b, shape):  # type: ignore[override]
            return F.layer_norm(x, shape) * w + b

    before = program(lambda x, w, b: F.layer_norm(x, [6], w, b), rand(3, 6), w=rand(6), b=rand(6))
    result = PassManager.of([Norm()]).run(before)
    assert calls(result.program) == ["layer_norm", "mul", "add"]
    x = rand(3, 6)
    torch.testing.assert_close(result.program(x), before(x))


def test_a_search_without_an_end_is_ended_with_the_last_complaint() -> None:
    def never(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        x.relu(), y.relu(), z.relu()
        raise ValueError("not today")

    assert shapes(never, "x", "y", "z") == "not today"


def test_ranks_are_tried_in_order_each_once() -> None:
    tried: list[int] = []

    def never(x: torch.Tensor) -> None:
        tried.append((x * 1).dim())
        raise ValueError("not today")

    assert find_arguments(never, ["x"], {}, ["x"], thorough=False) == "not today"
    assert tried == [2, 4, 3, 1, 5, 0]


def test_a_choice_that_is_turned_down_leaves_the_one_before_it() -> None:
    def late(x: torch.Tensor, y: torch.Tensor) -> None:
        x * 1
        if (y * 1).dim() != 3:
            raise ValueError("three axes")

    assert shapes(late, "x", "y") == {"x": [4, 4], "y": [4, 4, 4]}


@pytest.mark.parametrize(("count", "expected"), [(1, 30), (2, 78), (3, 6 + 216 + 48), (5, 6 + 1296 + 72)])
def test_how_many_choices_there_are(count: int, expected: int) -> None:
    assert len(list(_choices(count, [], thorough=True))) == expected
    assert len(list(_choices(count, [], thorough=False))) == 6


def test_mixtures_of_ranks_are_tried_where_the_search_is_thorough() -> None:
    def mixed(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bij,j->bi", x, y)

    found = find_arguments(mixed, ["x", "y"], {}, ["x", "y"])
    assert not isinstance(found, str) and [t.dim() for t in found.values()] == [3, 1]
    assert isinstance(find_arguments(mixed, ["x", "y"], {}, ["x", "y"], thorough=False), str)


def test_arguments_may_be_given_by_name() -> None:
    assert shapes(lambda x: torch.relu(input=x), "x") == {"x": [4, 4]}
    assert shapes(lambda x: torch.softmax(x, dim=1).reshape(4, 4), "x") == {"x": [4, 4]}


def test_what_no_op_stops_is_not_run_on_fake_tensors_too() -> None:
    runs: list[int] = []

    def never(x: torch.Tensor) -> None:
        runs.append(1)
        raise ValueError("not today")

    assert shapes(never, "x") == "not today" and len(runs) == 1


def test_of_many_arguments_the_last_have_one_rank() -> None:
    ranks = {tuple(r for r, _ in choice) for choice in _choices(5, [], thorough=True)}
    assert (2, 2, 2, 4, 4) in ranks and (2, 2, 2, 4, 2) not in ranks


def test_what_the_op_table_calls_an_op_with_is_tried_first() -> None:
    search = _Search("meta", (), {}, thorough=True)
    x, i = _Lazy(search, "x"), _Lazy(search, "i")
    assert _sample_ranks(torch.gather, (x, 1, i), ["x", "i"]) == [((2, torch.float32), (2, torch.int64))]
    assert _sample_ranks(torch.gather, (x, 1, i), ["i"]) == [((2, torch.int64),)]
    assert _sample_ranks(shapes, (x, 1, i), ["i"]) == []
