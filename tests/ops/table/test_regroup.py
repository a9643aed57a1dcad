"""Reshape maps: exact where the boundaries line up, for every value of the symbols."""

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from fxopt.ops import Mark, parse_index_map
from fxopt.ops.table.regroup import regrouped
from tests.ops.movement import positions
from tests.ops.symbolic import symbolic_tensor

SIZES = st.lists(st.integers(1, 6), max_size=4)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Two shapes with one number of elements: factors, grouped twice."""
    factors = draw(st.lists(st.integers(1, 4), max_size=5))

    def group() -> list[int]:
        cuts = sorted(draw(st.lists(st.integers(0, len(factors)), max_size=4)))
        bounds = [0, *cuts, len(factors)]
        return [math.prod(factors[a:b]) for a, b in itertools.pairwise(bounds)]

    return group(), group()


@given(reshapes())
def test_elements_keep_their_indices(shapes: tuple[list[int], list[int]]) -> None:
    source, target = shapes
    index_map = parse_index_map(regrouped(source, target))
    extents = index_map.extents([source], [target])
    before = positions(index_map.inputs[0], source, extents)
    after = positions(index_map.outputs[0], target, extents)
    for name, (mark, place) in before.items():
        if mark is Mark.CARRIED:
            assert torch.equal(place.reshape(-1), after[name][1].reshape(-1)), str(index_map)


@given(reshapes())
def test_common_factors_are_always_found(shapes: tuple[list[int], list[int]]) -> None:
    assert "!" not in regrouped(*shapes)


@given(SIZES)
def test_the_same_shape_is_the_identity(sizes: list[int]) -> None:
    left, right = regrouped(sizes, sizes).split(" -> ")
    assert left[1:] == right[1:]


def test_boundaries_that_do_not_line_up_are_mixed() -> None:
    assert regrouped([4, 6], [3, 8]) == "x[!d0,!d1] -> y[.,.]"
    assert regrouped([2, 4, 6, 5], [2, 3, 8, 5]) == "x[d0,!d1,!d2,d3] -> y[d0,.,.,d3]"


def test_no_elements() -> None:
    assert regrouped([0, 3], [0, 5]) == "x[d0,!d1] -> y[d0,.]"


def test_symbolic_sizes() -> None:
    x = symbolic_tensor(torch.zeros(4, 7, 768), dynamic=(0, 1))
    b, s, _ = x.shape
    for sizes, expected in [
        ([b, s, 12, 64], "x[d0,d1,(d2 d3)] -> y[d0,d1,d2,d3]"),
        ([b * s, 768], "x[d0,d1,d2] -> y[(d0 d1),d2]"),
        ([b, s * 12, 64], "x[d0,d1,(d2=12 d3=64)] -> y[d0,(d1 d2=12),d3=64]"),
        ([b, s * 768], "x[d0,d1,d2] -> y[d0,(d1 d2)]"),
        ([s, b, 768], "x[!d0,!d1,d2] -> y[.,.,d2]"),
    ]:
        assert regrouped(x.shape, sizes) == expected
    assert not x.fake_mode.shape_env.guards
