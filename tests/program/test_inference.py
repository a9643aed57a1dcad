import operator

import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.program import Program, fake_value, infer_value, value_key
from fxopt.program.inference import is_data_dependent
from tests.frontend.good_models import noise

aten = torch.ops.aten


class Model(nn.Module):
    def forward(self, x, y):
        return x * 2, y.shape[0]


@pytest.fixture
def program() -> Program:
    return trace(Model().eval(), (noise(4, 6), noise(8, 6)), dynamic_shapes={"x": {0: "n"}, "y": {0: "m"}})


def test_values_from_arguments(program: Program):
    x, y = program.placeholders()
    assert program.dim(infer_value(program, aten.cat.default, ([x, y], 0)).shape[0]) == "m + n"
    assert infer_value(program, aten.to.dtype, (x, torch.float64)).dtype is torch.float64
    pair = infer_value(program, aten.max.dim, (x, 1, False))
    assert [v.dtype for v in pair] == [torch.float32, torch.int64]


def test_sizes_are_computed(program: Program):
    x, _ = program.placeholders()
    size = infer_value(program, aten.sym_size.int, (x, 0))
    assert program.dim(size) == "n"
    assert program.dim(infer_value(program, operator.mul, (size, 2))) == "2*n"


def test_composite_ops_take_symbolic_sizes(program: Program):
    x = program.placeholders()[0]
    layer = nn.LSTM(6, 3)
    weights = [fake_value(program, p) for p in layer.parameters()]
    [rows] = [infer_value(program, aten.unsqueeze.default, (x, 0))]
    states = [program.fake_mode.from_tensor(torch.zeros(1, 1, 3)).expand(1, rows.shape[1], 3)] * 2
    result = infer_value(program, aten.lstm.input, (rows, states, weights, True, 1, 0.0, False, False, False))
    assert program.dim(result[0].shape[1]) == "n"


def test_no_guards_are_made(program: Program):
    env, x = program.fake_mode.shape_env, program.placeholders()[0]
    before = len(env.guards)
    infer_value(program, aten.slice.Tensor, (x, 0, 0, 3, 1))
    infer_value(program, aten.reshape.default, (x, [-1, 2, 3]))
    assert len(env.guards) == before


def test_equal_calls_are_looked_up(program: Program):
    x, y = program.placeholders()
    first = infer_value(program, aten.relu.default, (x,))
    assert infer_value(program, aten.relu.default, (x,)) is first
    assert infer_value(program.copy(), aten.relu.default, (x,)) is first
    assert infer_value(program, aten.relu.default, (y,)) is not first


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, 1.0), (1, True), (0.0, -0.0), ([1], (1,)), (None, "None"), (torch.float32, "torch.float32")],
)
def test_literals_that_python_takes_for_equal(a: object, b: object):
    assert value_key(a) != value_key(b)


def test_keys_of_values(program: Program):
    x, y = program.placeholders()
    assert value_key(x) == value_key(x.meta["val"]) == value_key(x.meta["val"] * 2)
    assert value_key(x) != value_key(y)
    assert value_key(float("nan")) == value_key(float("nan"))
    assert value_key([x, 1]) == value_key([x.meta["val"], 1])
    assert value_key(torch.ones(2)) != value_key(torch.ones(2).double())


def test_literals_decide_dtypes(program: Program):
    whole = program.fake_mode.from_tensor(torch.arange(3))
    dtypes = [infer_value(program, aten.mul.Tensor, (whole, k)).dtype for k in (1, 1.0, True)]
    assert dtypes == [torch.int64, torch.float32, torch.int64]


def test_data_dependent_results_are_never_shared(program: Program):
    x = program.placeholders()[0]
    assert is_data_dependent(aten.nonzero.default)
    assert not is_data_dependent(aten.relu.default)
    assert not is_data_dependent(operator.mul)
    first, second = (infer_value(program, aten.nonzero.default, (x,)) for _ in range(2))
    assert first is not second


def test_what_an_op_does_not_take_raises(program: Program):
    x, y = program.placeholders()
    with pytest.raises(RuntimeError):
        infer_value(program, aten.mm.default, (x, y.meta["val"][:3, :2]))
