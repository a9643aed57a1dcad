"""Sizes for dynamic dimensions: in range, distinct, consistent with expressions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from fxopt.errors import InputError
from fxopt.program import Dim, Signature, Symbol, TensorSpec, evaluate_dim
from fxopt.verification import size_sets
from fxopt.verification.sizes import dynamic_symbols, singles


def signature(shapes: list[tuple[Dim, ...]], symbols: list[Symbol]) -> Signature:
    specs = tuple(TensorSpec(f"x{i}", torch.float32, shape) for i, shape in enumerate(shapes))
    tree = pytree.tree_structure((tuple(range(len(shapes))), {}))
    return Signature(specs, (), tree, pytree.tree_structure(()), {s.name: s for s in symbols})


EXPRESSIONS = ["a", "b", "2*a", "a + b", "a//2 + 1", "3*b + 1", "a*b", "Max(a, b)", "(a + 3)//2", "a % 5 + 1"]


@st.composite
def symbols(draw: st.DrawFn) -> list[Symbol]:
    def one(name: str) -> Symbol:
        low = draw(st.integers(0, 40))
        return Symbol(name, low, draw(st.none() | st.integers(max(low, 1), low + 60)))

    return [one("a"), one("b")]


shapes = st.lists(
    st.lists(st.sampled_from([*EXPRESSIONS, 1, 7]), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3
)


@given(shapes, symbols(), st.integers(2, 64))
def test_sizes_are_valid_and_in_range(shapes: list[tuple[Dim, ...]], symbols: list[Symbol], start: int):
    spec = signature(shapes, symbols)
    for sizes in [*size_sets(spec, start=start), *singles(spec)]:
        assert set(sizes) == {s.name for s in dynamic_symbols(spec)}
        for symbol in dynamic_symbols(spec):
            assert symbol.min <= sizes[symbol.name] <= (symbol.max or 10**6)
        assert all(evaluate_dim(d, sizes) >= 1 for shape in shapes for d in shape)


@given(symbols(), st.integers(2, 64))
def test_sizes_are_distinct_where_ranges_allow(symbols: list[Symbol], start: int):
    sets = size_sets(signature([("a", "b")], symbols), start=start)
    choices = {s.name: list(range(max(s.min, 2), (s.max or 999) + 1)) for s in symbols}
    for name, allowed in choices.items():
        if len(allowed) > 3:
            assert len({sizes[name] for sizes in sets}) == 2
            assert min(sizes[name] for sizes in sets) > 1
    if all(len(allowed) > 3 for allowed in choices.values()):
        assert len({size for sizes in sets for size in sizes.values()}) == 4


def test_ones():
    spec = signature([("a", "b")], [Symbol("a", 0), Symbol("b", 1)])
    assert singles(spec) == [{"a": 1, "b": 3}, {"a": 2, "b": 1}, {"a": 1, "b": 1}]
    assert singles(signature([("a", "b")], [Symbol("a", 2), Symbol("b", 0)])) == [{"a": 2, "b": 1}]
    assert singles(signature([("a",)], [Symbol("a", 2, 9)])) == []


def test_narrow_ranges():
    assert size_sets(signature([("a",)], [Symbol("a", 0, 2)])) == [{"a": 2}]
    assert size_sets(signature([("a",)], [Symbol("a", 0, 1)])) == [{"a": 1}]
    assert size_sets(signature([("a",)], [Symbol("a", 5, 6)]), start=100) == [{"a": 6}, {"a": 5}]
    assert size_sets(signature([(3, 4)], [])) == [{}]


def test_a_start_that_makes_a_dimension_vanish_is_moved():
    assert size_sets(signature([("a - 10",)], [Symbol("a")])) == [{"a": 11}, {"a": 12}]
    assert singles(signature([("a - 10",)], [Symbol("a")])) == []


def test_symbols_of_outputs_are_left_alone():
    assert dynamic_symbols(signature([("a",)], [Symbol("a"), Symbol("u0")])) == [Symbol("a")]


@pytest.mark.parametrize("dim", ["a +", "f(a)", "a < 3"])
def test_what_is_no_size_is_refused(dim: str):
    with pytest.raises(InputError, match="size expression"):
        size_sets(signature([(dim,)], [Symbol("a")]))


def test_what_can_not_be_solved_is_refused():
    with pytest.raises(InputError, match="pass inputs="):
        size_sets(signature([("a - b",)], [Symbol("a", 2, 3), Symbol("b", 9, 12)]))
