"""Which bracket speaks of which tensor; maps and counts with symbolic sizes."""

import functools
import itertools
import re
from collections.abc import Iterator

import pytest
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from fxopt.ops import (
    OpInfo,
    QuantRole,
    align_inputs,
    align_outputs,
    bind_call,
    bind_values,
    call_flops,
    call_index_map,
    parse_index_map,
    registered_ops,
)
from fxopt.ops.table.entry import no_flops
from fxopt.pipeline import PassManager
from fxopt.testing import ProgramBuilder
from tests.ops.samples import pure_cases
from tests.ops.symbolic import symbolic_tensor

aten = torch.ops.aten
WITH_FUNCTIONS = {
    name: info
    for name, info in registered_ops().items()
    if name.startswith("aten.")
    and (callable(info.index_map) or info.flops not in (None, no_flops) or info.role is QuantRole.CONTRACTION)
}
REFUSE = {"aten.fake_quantize_per_tensor_affine", "aten.one_hot", "aten.masked_select"}
"""Ops that torch can't evaluate on symbolic sizes, or whose sizes depend on data."""
SLOW = {"aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu"}
"""Seconds on fake tensors; their counts are the cells'."""


def _symbolic(mode: FakeTensorMode, numbers: Iterator[int], value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    return symbolic_tensor(value, mode=mode, name=f"x{next(numbers)}")


@pytest.mark.parametrize("name", sorted(WITH_FUNCTIONS.keys() - REFUSE - SLOW))
def test_symbolic_sizes_give_the_same_answers_without_a_guard(name: str) -> None:
    info: OpInfo = WITH_FUNCTIONS[name]
    for case in pure_cases(info)[: 2 if callable(info.index_map) else 1]:
        mode = FakeTensorMode(shape_env=ShapeEnv())
        bound = pytree.tree_map(functools.partial(_symbolic, mode, itertools.count()), case.bound)
        with mode, enable_python_dispatcher():
            output = case.value(**bound)
        guards = len(mode.shape_env.guards)
        index_map, flops = call_index_map(case.op, bound), call_flops(case.op, bound, output)
        assert len(mode.shape_env.guards) == guards, str(case)
        hint = flops.node.hint if isinstance(flops, torch.SymInt) else flops
        assert hint == call_flops(case.op, case.bound, case.value()), str(case)
        fixed = call_index_map(case.op, case.bound)
        assert (index_map is None) == (fixed is None)
        if index_map is not None and "!" not in str(index_map):
            assert re.sub(r"=\d+", "", str(index_map)) == re.sub(r"=\d+", "", str(fixed))


def test_optional_tensors_and_numbers_have_no_bracket() -> None:
    x, w = torch.ones(2, 3), torch.ones(4, 3)
    bound = bind_call(aten.linear.default, (x, w), {})
    index_map = call_index_map(aten.linear.default, bound)
    assert [name for name, _, _ in align_inputs(aten.linear.default, index_map, bound)] == ["input", "weight"]
    bound = bind_call(aten.add.Tensor, (x, 2), {})
    aligned = align_inputs(aten.add.Tensor, call_index_map(aten.add.Tensor, bound), bound)
    assert [name for name, _, _ in aligned] == ["self"]


def test_one_bracket_for_a_list_or_one_an_element() -> None:
    x, y = torch.ones(2, 3), torch.ones(4, 3)
    bound = bind_call(aten.cat.default, ([x, y],), {})
    index_map = call_index_map(aten.cat.default, bound)
    aligned = align_inputs(aten.cat.default, index_map, bound)
    assert [(str(o), t.shape) for _, o, t in aligned] == [("x[!d0,d1]", x.shape), ("x[!d0,d1]", y.shape)]
    bound = bind_call(aten.einsum.default, ("ij,kj->ik", [x, y]), {})
    index_map = call_index_map(aten.einsum.default, bound)
    assert [str(o) for _, o, _ in align_inputs(aten.einsum.default, index_map, bound)] == [
        "x[i,j]",
        "x1[k,j]",
    ]


def test_holes_in_an_index_list_have_no_bracket() -> None:
    x, i = torch.ones(2, 3, 4), torch.zeros(5, dtype=torch.int64)
    bound = bind_call(aten.index.Tensor, (x, [None, i]), {})
    index_map = call_index_map(aten.index.Tensor, bound)
    assert str(index_map) == "x[d0,d1,d2], x1[*] -> y[d0,*,d2]"
    assert [t.shape for _, _, t in align_inputs(aten.index.Tensor, index_map, bound)] == [x.shape, i.shape]


def test_outputs() -> None:
    a, b = torch.ones(2), torch.ones(3)
    assert [str(o) for o, _ in align_outputs(parse_index_map("x[i] -> y[i]"), [a, b])] == ["y[i]", "y[i]"]
    assert [str(o) for o, _ in align_outputs(parse_index_map("x[i] -> y[i], z[]"), (a, b))] == ["y[i]", "z[]"]


def test_an_op_without_an_entry_has_no_map() -> None:
    assert call_index_map(aten.unique_dim.default, {"self": torch.ones(2, 2), "dim": 0}) is None


def test_a_tensor_of_more_axes_than_the_map_says_has_none():
    """The kernel takes a weight of shape [1, 1] for one channel."""
    b = ProgramBuilder()
    x, w, moments = b.input((2, 1, 3)), b.weight((1, 1)), b.weight((1,), kind="positive")
    call = b.call("aten.batch_norm", x, w, None, moments, moments, False, 0.1, 1e-5, False)
    assert isinstance(call.target, torch._ops.OpOverload)
    assert call_index_map(call.target, bind_values(call)) is None
    before = b.finish(call)
    assert str(PassManager.parse("eliminate-dead-weights").run(before).program) == str(before)
