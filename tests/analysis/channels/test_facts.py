"""Constants forward, demand backward, classes, what goes: small programs with the answers written out."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.analysis.channels import Constants, Coupling, Demand, Product, Removal
from fxopt.analysis.channels.reading import equal, some, spread, total
from fxopt.program import Program
from tests.passes.helpers import program, rand


def dead(weight: torch.Tensor, *rows: int, dim: int = 0) -> torch.Tensor:
    return weight.index_fill(dim, torch.tensor(rows), 0)


def call(of: Program, number: int = -1) -> Node:
    """A call by its place among the calls; by default the last."""
    return [n for n in of.graph.nodes if n.op == "call_function"][number]


def weight(of: Program, name: str) -> Node:
    return next(n for n in of.weight_nodes() if n.target == name)


def constants(of: Program, at: Node, dim: int = -1) -> list[float | None]:
    found = Constants.compute(of)
    axis = found.space.axes(at)[dim]
    assert axis is not None
    return [None if math.isnan(v) else round(v, 6) for v in found.values[axis.span].tolist()]


def needed(of: Program, at: Node, dim: int = -1) -> list[int]:
    found = Demand.compute(of)
    axis = found.constants.space.axes(at)[dim]
    assert axis is not None
    return np.flatnonzero(found.needed[axis.span]).tolist()


def kept(of: Program, name: str) -> tuple[tuple[int, ...] | None, ...]:
    removal = Removal.compute(of)
    space = removal.coupling.demand.constants.space
    return removal.kept(space.axes(weight(of, name)))


def product(of: Program, number: int = -1) -> Product:
    (found,) = Constants.compute(of).products[call(of, number)]
    return found


def linear(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w, b)


# Vectors along dimensions that are products of indices.


def test_a_vector_repeats_along_indices_that_it_lacks() -> None:
    extents = {"a": 2, "b": 3}
    assert spread(np.array([1.0, 2.0]), ("a",), ("b", "a"), extents, equal).tolist() == [1, 2, 1, 2, 1, 2]
    assert spread(np.array([1.0, 2.0]), ("a",), ("a", "b"), extents, equal).tolist() == [1, 1, 1, 2, 2, 2]


def test_a_vector_is_transposed_where_indices_change_places() -> None:
    extents = {"a": 2, "b": 3}
    assert spread(np.arange(6.0), ("a", "b"), ("b", "a"), extents, equal).tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("reduce", "values", "expected"),
    [
        (some, [False, True, False, False], [True, False]),
        (total, [1.0, 2.0, 3.0, 4.0], [3.0, 7.0]),
        (equal, [5.0, 5.0, 5.0, 5.0], [5.0, 5.0]),
    ],
)
def test_indices_that_go_are_reduced(reduce, values, expected) -> None:  # type: ignore[no-untyped-def]
    got = spread(np.array(values), ("a", "b"), ("a",), {"a": 2, "b": 2}, reduce)
    assert got.tolist() == expected


def test_values_that_differ_are_no_constant() -> None:
    assert np.isnan(equal(np.array([[1.0, 2.0]]), (1,))).all()
    assert np.isnan(equal(np.array([[np.nan, np.nan]]), (1,))).all()


# Products as matrices.


def test_a_convolution_is_the_sum_over_its_window() -> None:
    w = rand(4, 3, 2, 2)
    found = product(program(lambda x, w: F.conv2d(x, w), rand(1, 3, 5, 5), w=w))
    np.testing.assert_allclose(found.sums, w.double().sum((2, 3)).numpy(), rtol=1e-6)
    assert not found.pads
    assert found.is_plain


def test_padding_is_seen() -> None:
    assert product(program(lambda x, w: F.conv2d(x, w, padding=1), rand(1, 3, 5, 5), w=rand(4, 3, 3, 3))).pads


def test_an_element_anywhere_in_the_window_reaches() -> None:
    w = torch.zeros(2, 3, 2, 2)
    w[0, 1, 1, 0] = -1
    found = product(program(lambda x, w: F.conv2d(x, w), rand(1, 3, 5, 5), w=w))
    assert found.reaches.tolist() == [[False, True, False], [False, False, False]]


def test_the_response_to_constants_is_that_of_the_layer() -> None:
    w, c = rand(4, 3), np.array([0.5, 0.0, -2.0])
    found = product(program(lambda x, w: F.linear(x, w), rand(2, 3), w=w))
    np.testing.assert_allclose(found.response(c), w.double().numpy() @ c, rtol=1e-6)


def test_channels_of_a_grouped_convolution_reach_their_own_rows() -> None:
    w = rand(4, 1, 1, 1)
    found = product(program(lambda x, w: F.conv2d(x, w, groups=2), rand(1, 2, 3, 3), w=w))
    assert found.response(np.array([1.0, 0.0])).tolist() == pytest.approx([*w.flatten()[:2].tolist(), 0, 0])


def test_factors_make_a_product_not_plain() -> None:
    before = program(lambda x, w, b: torch.addmm(b, x, w, alpha=2), rand(2, 3), w=rand(3, 4), b=rand(4))
    plain = [p.is_plain for own in Constants.compute(before).products.values() for p in own]
    assert not all(plain)


# Constants.


def test_dead_rows_give_their_bias() -> None:
    b = torch.tensor([1.0, 2.0, 3.0])
    before = program(linear, rand(2, 4), w=dead(rand(3, 4), 0, 2), b=b)
    assert constants(before, call(before)) == [1.0, None, 3.0]


def test_a_constant_goes_through_an_activation_computed_by_it() -> None:
    b = torch.tensor([1.0, 2.0, -3.0])
    before = program(lambda x, w, b: F.gelu(F.linear(x, w, b)), rand(2, 4), w=dead(rand(3, 4), 0, 2), b=b)
    first, _, last = constants(before, call(before))
    assert first == pytest.approx(F.gelu(torch.tensor(1.0)).item(), abs=1e-6)
    assert last == pytest.approx(F.gelu(torch.tensor(-3.0)).item(), abs=1e-6)


def test_a_row_that_reads_constants_alone_is_one() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, w, b), v)

    v = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    before = program(f, rand(2, 4), w=dead(rand(2, 4), 0), b=torch.tensor([3.0, 0.0]), v=v)
    assert constants(before, call(before)) == [6.0, None]


def test_in_front_of_padding_only_zeros_are_constant() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(x, w, b), v, padding=1)

    v = torch.ones(2, 2, 3, 3)
    v[0, 1] = v[1, 0] = 0
    before = program(f, rand(1, 3, 5, 5), w=torch.zeros(2, 3, 1, 1), b=torch.tensor([0.0, 1.0]), v=v)
    assert constants(before, call(before), dim=1) == [0.0, None]


def test_zero_times_what_varies_is_zero_and_a_sum_needs_both() -> None:
    gate = torch.tensor([0.0, 1.0])
    product_of = program(lambda x, g: x * g, rand(3, 2), g=gate)
    assert constants(product_of, call(product_of)) == [0.0, None]
    sum_of = program(lambda x, g: x + g, rand(3, 2), g=gate)
    assert constants(sum_of, call(sum_of)) == [None, None]


def test_a_scale_of_zero_leaves_the_shift() -> None:
    def f(
        x: torch.Tensor, g: torch.Tensor, b: torch.Tensor, m: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        return F.batch_norm(x, m, v, g, b)

    g, b = torch.tensor([0.0, 1.0]), torch.tensor([4.0, 5.0])
    before = program(f, rand(3, 2), g=g, b=b, m=rand(2), v=torch.ones(2))
    assert constants(before, call(before)) == [4.0, None]


def test_constants_follow_a_join_and_its_slices() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.linear(x, w), x], 1)[:, 1:4]

    before = program(f, rand(2, 2), w=dead(rand(3, 2), 1))
    assert constants(before, call(before)) == [0.0, None, None]


@pytest.mark.filterwarnings("ignore:weights hold NaN")
def test_infinite_and_nan_weights_are_no_constants() -> None:
    b = torch.tensor([math.inf, math.nan, 1.0])
    before = program(linear, rand(2, 4), w=torch.zeros(3, 4), b=b)
    assert constants(before, call(before))[:2] == [None, None]


# Demand.


def test_columns_of_zeros_ask_for_nothing() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, w).relu(), v)

    before = program(f, rand(2, 4), w=rand(5, 4), v=dead(rand(3, 5), 1, 4, dim=1))
    assert needed(before, weight(before, "w"), 0) == [0, 2, 3]
    assert needed(before, weight(before, "v"), 1) == [0, 2, 3]
    assert needed(before, weight(before, "v"), 0) == [0, 1, 2]


def test_a_constant_that_the_bias_takes_is_not_demanded_one_that_none_takes_is() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, w, b).relu(), v)

    def g(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.softmax(F.linear(x, w, b).relu(), -1) @ v

    given = {"w": dead(rand(5, 4), 2), "b": torch.ones(5), "v": rand(3, 5)}
    taken = program(f, rand(2, 4), **given)
    assert needed(taken, weight(taken, "w"), 0) == needed(taken, call(taken, 1)) == [0, 1, 3, 4]
    given["v"] = rand(5, 3)
    counted = program(g, rand(2, 4), **given)
    assert needed(counted, call(counted, 1)) == [0, 1, 2, 3, 4]
    assert kept(counted, "w") == (None, None)


def test_a_norm_demands_all_it_counts() -> None:
    before = program(lambda x, w: F.layer_norm(F.linear(x, w), (5,))[:, :2], rand(2, 4), w=rand(5, 4))
    assert needed(before, weight(before, "w"), 0) == [0, 1, 2, 3, 4]


def test_a_slice_demands_what_it_takes() -> None:
    before = program(lambda x, w: F.linear(x, w)[:, 1::2], rand(2, 4), w=rand(5, 4))
    assert needed(before, weight(before, "w"), 0) == [1, 3]


def test_the_node_that_demands_is_noted() -> None:
    before = program(lambda x, w: F.linear(x, w).relu(), rand(2, 4), w=rand(5, 4))
    found = Demand.compute(before)
    axis = found.constants.space.axes(weight(before, "w"))[0]
    assert axis is not None
    assert {found.nodes[i] for i in found.by[axis.span]} == {call(before, 0)}


# Classes.


def same_class(of: Program, one: tuple[str, int], other: tuple[str, int]) -> bool:
    coupling = Coupling.compute(of)
    space = coupling.demand.constants.space
    first, second = (space.axes(weight(of, n))[d] for n, d in (one, other))
    assert first is not None and second is not None
    return np.array_equal(coupling.labels[first.span], coupling.labels[second.span])


def test_rows_bias_and_the_next_columns_are_one_class() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, w, b).relu(), v)

    before = program(f, rand(2, 4), w=rand(5, 4), b=rand(5), v=rand(3, 5))
    assert same_class(before, ("w", 0), ("b", 0))
    assert same_class(before, ("w", 0), ("v", 1))


def test_a_residual_sum_ties_and_a_join_does_not() -> None:
    def add(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (F.linear(x, w) + F.linear(x, v)).sum(1)

    def join(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.linear(x, w), F.linear(x, v)], 1).sum(1)

    given = {"w": rand(5, 4), "v": rand(5, 4, seed=1)}
    assert same_class(program(add, rand(2, 4), **given), ("w", 0), ("v", 0))
    assert not same_class(program(join, rand(2, 4), **given), ("w", 0), ("v", 0))


def test_inputs_and_outputs_are_frozen() -> None:
    before = program(lambda x, w: F.linear(x, w), rand(2, 4), w=rand(5, 4))
    coupling = Coupling.compute(before)
    held = {int(c) for c in coupling.labels[coupling.frozen > 0]}
    assert held == set(coupling.labels.tolist())


# What goes.


def test_nothing_goes_of_a_program_without_zeros() -> None:
    before = program(
        lambda x, w, v: F.linear(F.linear(x, w).relu(), v), rand(2, 4), w=rand(5, 4), v=rand(3, 5)
    )
    assert Removal.compute(before).empty
    assert kept(before, "w") == (None, None)


def test_what_is_kept_is_listed_by_dimension() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, w).relu(), v)

    before = program(f, rand(2, 4), w=dead(rand(5, 4), 0, 3), v=rand(3, 5))
    assert kept(before, "w") == ((1, 2, 4), None)
    assert kept(before, "v") == (None, (1, 2, 4))


def test_a_dimension_keeps_one_position() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, w).relu(), v)

    before = program(f, rand(2, 4), w=torch.zeros(5, 4), v=rand(3, 5))
    assert kept(before, "w") == ((0,), None)


def test_the_largest_constant_stands_for_the_others() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(x, w, b), v, padding=1)

    b = torch.tensor([1.0, 0.0, -4.0, 2.0])
    before = program(f, rand(1, 3, 5, 5), w=dead(rand(4, 3, 1, 1), 0, 2, 3), b=b, v=rand(2, 4, 3, 3))
    (merge,) = Removal.compute(before).merges.values()
    assert merge.channel == 2
    assert merge.factors.tolist() == [-0.25, 0.0, 0.0, -0.5]
    assert kept(before, "w") == ((1, 2), None, None, None)


def test_what_blocks_dead_rows_is_told() -> None:
    before = program(lambda x, w: F.layer_norm(F.linear(x, w), (5,)), rand(2, 4), w=dead(rand(5, 4), 0, 3))
    (blocked,) = Removal.compute(before).blocked
    assert (blocked.weight.target, blocked.count, blocked.total) == ("w", 2, 5)
    assert blocked.blocker is call(before)
