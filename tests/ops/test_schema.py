"""What schemas say, and where the table has the last word."""

import operator

import pytest
import torch
from torch.fx import Graph, Node

from fxopt.ops import (
    OpInfo,
    argument_kinds,
    bind,
    bind_call,
    bind_values,
    check_taken,
    is_commutative,
    is_mutating,
    is_pure,
    is_random,
    is_view,
    mutated_arguments,
    register_op,
    schema_arguments,
)

aten = torch.ops.aten


def call(op: object, *args: object, **kwargs: object) -> Node:
    """A call with placeholders for the tensors named "x"."""
    graph = Graph()
    places = [graph.placeholder("x") if a == "x" else a for a in args]
    return graph.call_function(op, tuple(places), kwargs)


def test_kinds() -> None:
    kinds = {k.name: k for k in argument_kinds(aten.conv2d.default)}
    assert [k.base for k in kinds.values()] == ["Tensor"] * 3 + ["int"] * 4
    assert (kinds["bias"].optional, kinds["stride"].length, kinds["stride"].is_list) == (True, 2, True)
    assert (kinds["weight"].required, kinds["groups"].default) == (True, 1)
    (_, indices) = argument_kinds(aten.index.Tensor)
    assert (indices.base, indices.is_list, indices.holes) == ("Tensor", True, True)
    full = {k.name: k for k in argument_kinds(aten.full.default)}
    assert (full["dtype"].base, full["dtype"].keyword_only, full["fill_value"].base) == (
        "ScalarType",
        True,
        "Number",
    )
    assert [a.name for a in schema_arguments(aten.mm.default)] == ["self", "mat2"]


def test_bind() -> None:
    node = call(aten.add.Tensor, "x", 2)
    assert bind(node) == {"self": node.args[0], "other": 2, "alpha": 1}
    assert bind(call(operator.add, 1, 2)) == {}
    assert bind_call(aten.softmax.int, (1,), {"dim": 0}) == {"self": 1, "dim": 0, "dtype": None}
    node.args[0].meta["val"] = value = torch.ones(2)
    assert bind_values(node)["self"] is value


def test_mutation_and_views() -> None:
    assert mutated_arguments(aten.relu_.default) == (0,)
    assert mutated_arguments(aten.add.out) == (3,)
    assert is_mutating(aten.relu_.default)
    assert not is_mutating(aten.relu.default)
    assert not is_mutating(operator.getitem)
    for op in (aten.reshape.default, aten.dropout.default, aten.einsum.default, aten.meshgrid.default):
        assert is_view(op), op
    for op in (aten.relu.default, aten.clone.default, operator.getitem):
        assert not is_view(op)
    # Found by experiment beyond einsum, meshgrid, broadcast_tensors and sum_to_size: undeclared as well.
    for op in (aten.type_as.default, aten.unsafe_split.Tensor, aten._unsafe_view.default):
        assert is_view(op), op


PURE = [
    call(aten.relu.default, "x"),
    call(aten.dropout.default, "x", 0.5, False),
    call(aten.scaled_dot_product_attention.default, "x", "x", "x"),
    call(aten.lstm.input, "x", ["x"], ["x"], True, 1, 0.5, False, False, False),
    call(aten.lstm.input, "x", ["x"], ["x"], True, 1, 0.0, True, False, False),
    call(aten.batch_norm.default, "x", None, None, "x", "x", False, 0.1, 1e-5, True),
    call(aten.instance_norm.default, "x", None, None, None, None, True, 0.1, 1e-5, True),
    call(operator.getitem, "x", 0),
    call(operator.add, 1, 2),
    call(torch.sym_max, 1, 2),
    call(aten.sym_size.int, "x", 0),
]
RANDOM = [
    call(aten.dropout.default, "x", 0.5, True),
    call(aten.scaled_dot_product_attention.default, "x", "x", "x", None, 0.1),
    call(aten.lstm.input, "x", ["x"], ["x"], True, 2, 0.5, True, False, False),
    call(aten.rand.default, [2]),
    call(aten.randn_like.default, "x"),
    call(aten.bernoulli.p, "x", 0.5),
    call(aten.multinomial.default, "x", 2),
    call(aten.normal.Tensor_Tensor, "x", "x"),
    call(aten.exponential.default, "x"),  # no entry: by its tag
]
IMPURE = [
    call(aten.batch_norm.default, "x", None, None, "x", "x", True, 0.1, 1e-5, True),
    call(aten.instance_norm.default, "x", None, None, "x", "x", True, 0.1, 1e-5, True),
    call(aten.add_.Tensor, "x", "x"),
    call(aten._assert_async.msg, "x", "message"),
    call(print, "x"),
]


@pytest.mark.parametrize("node", PURE, ids=Node.format_node)
def test_pure(node: Node) -> None:
    assert is_pure(node)
    assert not is_random(node)


@pytest.mark.parametrize("node", RANDOM, ids=Node.format_node)
def test_random(node: Node) -> None:
    assert not is_pure(node)
    assert is_random(node)


@pytest.mark.parametrize("node", IMPURE, ids=Node.format_node)
def test_impure_but_not_random(node: Node) -> None:
    assert not is_pure(node)
    assert not is_random(node)


def test_other_nodes() -> None:
    graph = Graph()
    assert not is_pure(graph.placeholder("x"))
    assert is_pure(graph.create_node("get_attr", "weight"))


def test_a_users_op_is_impure_only_if_it_writes_or_is_said_to_be() -> None:
    with torch.library._scoped_library("fxopt_test", "DEF") as library:
        library.define("noise(Tensor x) -> Tensor")
        library.define("fill(Tensor(a!) x) -> ()")
        noise = call(torch.ops.fxopt_test.noise.default, "x")
        assert is_pure(noise)
        assert not is_pure(call(torch.ops.fxopt_test.fill.default, "x"))
        register_op(OpInfo(op="fxopt_test.noise", pure=False))
        assert not is_pure(noise)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (call(aten.add.Tensor, "x", "x"), True),
        (call(aten.add.Tensor, "x", "x", alpha=1), True),
        (call(aten.add.Tensor, "x", "x", alpha=2), False),
        (call(aten.add.Tensor, "x", "x", alpha=1.0), False),  # another dtype for integers
        (call(aten.add.Tensor, "x", 1), False),
        (call(aten.sub.Tensor, "x", "x"), False),
        (call(aten.relu.default, "x"), False),
        (call(operator.add, "x", "x"), False),
    ],
)
def test_commutative_calls(node: Node, expected: bool) -> None:
    assert is_commutative(node) is expected


def agreed(op: torch._ops.OpOverload, args: list[object]) -> bool:
    """Whether a call is taken, by the shape function and `check_taken`; the kernel says the same."""

    def taken(device: str) -> bool:
        values = [torch.zeros(a, device=device) if isinstance(a, tuple) else a for a in args]
        try:
            check_taken(op, values, {}, op(*values))
        except (RuntimeError, ValueError):
            return False
        return True

    assert taken("meta") == taken("cpu")
    return taken("cpu")


@pytest.mark.parametrize("x", [(4,), (1, 4), (7, 4), (2, 7, 4)])
@pytest.mark.parametrize("b", [None, (), (1,), (4,), (1, 4), (4, 4), (7, 4), (2, 7, 4), (3, 2, 7, 4)])
def test_what_the_shape_function_of_linear_takes_the_kernel_takes(
    x: tuple[int, ...], b: tuple[int, ...] | None
) -> None:
    agreed(aten.linear.default, [x, (4, 4), b])


@pytest.mark.parametrize("stride", [[1], [2], [1, 2]])
@pytest.mark.parametrize("padding", [[0], [1], [1, 0], [0, 1]])
@pytest.mark.parametrize("dilation", [[1], [1, 2]])
def test_output_padding_is_below_stride_or_dilation(
    stride: list[int], padding: list[int], dilation: list[int]
) -> None:
    shapes: list[object] = [(1, 2, 5, 5), (2, 3, 3, 3), None]
    taken = agreed(aten.conv_transpose2d.input, [*shapes, stride, [0], padding, 1, dilation])
    assert taken or padding != [0]
    assert agreed(aten.convolution.default, [*shapes, stride, [0], dilation, True, padding, 1]) == taken


@pytest.mark.parametrize("size", [(1, 4), (4, 1), (4, 2), (2, 4), (4, 4)])
def test_a_transposed_convolution_has_an_output(size: tuple[int, int]) -> None:
    shapes: list[object] = [(1, 2, *size), (2, 3, 2, 2), None]
    taken = agreed(aten.conv_transpose2d.input, [*shapes, [1, 1], [1, 1], [0, 0], 1, [1, 1]])
    assert taken == (1 not in size)
    assert agreed(aten.convolution.default, [*shapes, [1, 1], [1, 1], [1, 1], True, [0, 0], 1]) == taken


def test_a_convolution_that_is_not_transposed_has_no_output_padding() -> None:
    shapes: list[object] = [(1, 2, 5, 5), (3, 2, 3, 3), None]
    assert agreed(aten.convolution.default, [*shapes, [1, 1], [0, 0], [1, 1], False, [1, 1], 1])
