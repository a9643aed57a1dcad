"""One form for each call, however it was spelled."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx import Graph, Node

from fxopt.ops import canonical_arguments, plain, registered_ops
from tests.ops.samples import cases

aten = torch.ops.aten


def node(*shape: int, value: object = None) -> Node:
    graph = Graph()
    made = graph.placeholder("x")
    made.meta["val"] = torch.zeros(shape) if value is None else value
    return made


def same(op: torch._ops.OpOverload, first: tuple, second: tuple) -> bool:
    """Whether two spellings have one form, types included (1 == 1.0 == True in Python)."""
    a, b = canonical_arguments(op, *first), canonical_arguments(op, *second)
    return a == b and repr(a) == repr(b)


def test_positions_names_and_defaults() -> None:
    x, w = node(1, 3, 8, 8), node(4, 3, 3, 3)
    short = canonical_arguments(aten.conv2d.default, (x, w), {})
    assert short == ((x, w, None, [1, 1], [0, 0], [1, 1], 1), {})
    assert (
        canonical_arguments(aten.conv2d.default, (x,), {"weight": w, "stride": 1, "padding": (0, 0)}) == short
    )
    assert canonical_arguments(aten.gelu.default, (x,), {}) == ((x,), {"approximate": "none"})


def test_dimensions_from_the_end() -> None:
    x = node(2, 3, 4)
    for op, negative, positive in [
        (aten.softmax.int, (-1,), (2,)),
        (aten.sum.dim_IntList, ([-1, 0],), ([2, 0],)),
        (aten.permute.default, ([-1, 0, 1],), ([2, 0, 1],)),
        (aten.transpose.int, (-1, -2), (2, 1)),
        (aten.flatten.using_ints, (), (0, 2)),
        (aten.unsqueeze.default, (-1,), (3,)),
        (aten.argmax.default, (-1,), (2,)),
        (aten.topk.default, (2, -1), (2, 2)),
        (aten.select.int, (-1, -1), (2, -1)),
        (aten.slice.Tensor, (-1, -2), (2, -2)),
    ]:
        assert same(op, ((x, *negative), {}), ((x, *positive), {})), op


def test_dimensions_of_lists_inserted_and_without_rank() -> None:
    x = node(2, 3)
    assert same(aten.cat.default, (([x, x], -1), {}), (([x, x], 1), {}))
    assert same(aten.stack.default, (([x, x], -1), {}), (([x, x], 2), {}))
    assert same(aten.diag_embed.default, ((x,), {}), ((x, 0, 1, 2), {}))
    assert (
        canonical_arguments(aten.cat.default, ([node(0), x], -1), {})[0][1] == 1
    )  # torch ignores the empty one
    assert canonical_arguments(aten.softmax.int, (node(), -1), {})[0][1] == 0
    assert canonical_arguments(aten.argmax.default, (x,), {})[0][1] is None


def test_an_unknown_rank_leaves_dimensions_alone() -> None:
    bare = Graph().placeholder("x")
    assert canonical_arguments(aten.softmax.int, (bare, -1), {})[0][1] == -1


@pytest.mark.parametrize(
    ("op", "given_", "wanted"),
    [
        (aten.max_pool2d.default, (2,), ([2, 2], [2, 2], [0, 0], [1, 1], False)),
        (aten.max_pool2d.default, ([3], 1, [1, 1]), ([3, 3], [1, 1], [1, 1], [1, 1], False)),
        (aten.avg_pool1d.default, (2,), ([2], [2], [0], False, True)),
        (aten.sum.dim_IntList, (1, 1), ([1], True)),
        (aten.leaky_relu.default, (1,), (1,)),
        (aten.dropout.default, (0, 0), (0.0, False)),
        (aten.roll.default, (1, 0), ([1], [0])),
        (aten.adaptive_avg_pool2d.default, (1,), ([1, 1],)),
        (aten.amax.default, (), ([], False)),
    ],
)
def test_literals_in_the_form_of_the_schema(op: torch._ops.OpOverload, given_: tuple, wanted: tuple) -> None:
    positional, _ = canonical_arguments(op, (node(2, 3, 8), *given_), {})
    assert repr(positional[1:]) == repr(wanted)


def test_a_scalar_keeps_its_type() -> None:
    x = node(2)
    for number in (1, 1.0, True):
        assert type(canonical_arguments(aten.mul.Scalar, (x, number), {})[0][1]) is type(number)
        assert type(canonical_arguments(aten.add.Tensor, (x, number), {})[0][1]) is type(number)


def test_a_device_by_name() -> None:
    kwargs = canonical_arguments(aten.zeros.default, ([2],), {"device": "cpu"})[1]
    assert kwargs["device"] == torch.device("cpu")


def test_nodes_in_lists_and_for_lists() -> None:
    x, i, n = node(4, 4), node(2), node(value=3)
    assert canonical_arguments(aten.index.Tensor, (x, (None, i)), {})[0][1] == [None, i]
    assert canonical_arguments(aten.reshape.default, (x, (n, -1)), {})[0][1] == [n, -1]
    assert canonical_arguments(aten.avg_pool2d.default, (x, n), {})[0][1:3] == ([n, n], [n, n])
    sizes = node(value=[3, 4])
    assert canonical_arguments(aten.avg_pool2d.default, (x, sizes), {})[0][1] is sizes


def test_what_only_chooses_a_kernel_is_on() -> None:
    x, v = node(2, 3), node(3)
    off = (x, v, v, v, v, False, 0.1, 1e-5, False)
    assert canonical_arguments(aten.batch_norm.default, off, {})[0][-1] is True


def test_defaults_are_not_shared() -> None:
    x, w = node(1, 3, 8, 8), node(4, 3, 3, 3)
    first = canonical_arguments(aten.conv2d.default, (x, w), {})[0]
    first[3].append(7)
    assert canonical_arguments(aten.conv2d.default, (x, w), {})[0][3] == [1, 1]


@pytest.mark.parametrize("name", [n for n in registered_ops() if n.startswith("aten.")])
def test_canonical_is_a_fixed_point(name: str) -> None:
    for case in cases(registered_ops()[name]):
        call = case.node()
        again = canonical_arguments(case.op, tuple(plain(list(call.args))), dict(call.kwargs))
        assert again == (call.args, call.kwargs), str(case)


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ((), {}, "'self' is missing"),
        ((1,), {"dimension": 2}, "'dimension' is unknown"),
        ((1, 2), {"dim": 2}, "'dim' is given twice"),
        ((1, 2, 3, 4, 5), {}, "takes 3 arguments, got 5"),
    ],
)
def test_wrong_arguments(args: tuple, kwargs: dict, problem: str) -> None:
    with pytest.raises(TypeError, match=problem) as error:
        canonical_arguments(aten.softmax.int, args, kwargs)
    assert "softmax" in str(error.value)
    assert "\n" not in str(error.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_plain_undoes_fx(value: object) -> None:
    from torch.fx.node import map_aggregate

    assert plain(map_aggregate(value, lambda leaf: leaf)) == plain(value) == value
    assert not _immutable(plain(map_aggregate(value, lambda leaf: leaf)))


def _immutable(value: object) -> bool:
    if isinstance(value, (list, tuple, dict)):
        items = value.values() if isinstance(value, dict) else value
        return type(value) not in (list, tuple, dict) or any(map(_immutable, items))
    return False


def test_plain_sizes() -> None:
    assert plain(torch.Size([2, 3])) == [2, 3]
    assert type(plain(torch.Size([2, 3]))) is list
