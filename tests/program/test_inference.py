import itertools
import operator

import pytest
import torch
from torch import nn
from torch._dispatch.python import enable_python_dispatcher

from fxopt.frontend import trace
from fxopt.program import Program, fake_value, infer_value, inference, value_key
from fxopt.program.inference import is_data_dependent
from fxopt.testing import ProgramBuilder
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


def evaluated(program: Program, op: object, *args: object) -> torch.Tensor:
    """The value that the op's own shape function gives, by a mode that has nothing to look up."""
    values = [a.meta["val"] if isinstance(a, torch.fx.Node) else a for a in args]
    with torch.no_grad(), enable_python_dispatcher(), program.fake_mode:
        return op(*values)


def test_an_elementwise_op_is_evaluated_once_for_all_shapes(program: Program, monkeypatch):
    x, y = program.placeholders()
    infer_value(program, aten.tanh.default, (x,))
    infer_value(program, aten.gt.Scalar, (x, 1.0))
    evaluations = []
    dispatcher = inference.enable_python_dispatcher
    monkeypatch.setattr(inference, "enable_python_dispatcher", lambda: evaluations.append(1) or dispatcher())
    assert value_key(infer_value(program, aten.tanh.default, (y,))) == value_key(y)
    assert not evaluations
    # A mask has no operand of its type, so that its value is not at hand.
    assert infer_value(program, aten.gt.Scalar, (y, 1.0)).dtype is torch.bool
    assert len(evaluations) == 1


@pytest.mark.parametrize(
    "op", [aten.add.Tensor, aten.mul.Tensor, aten.maximum.default, aten.where.self, aten.pow.Tensor_Tensor]
)
def test_elementwise_values_are_those_of_the_shape_function(op):
    program = ProgramBuilder().program
    world = ProgramBuilder()
    n = world.batch
    kinds = [
        ((n, 4), torch.float32), ((4,), torch.float32), ((n, 1), torch.float32), ((1, 4), torch.float32),
        ((), torch.float32), ((), torch.float64), ((), torch.int64), ((n, 4), torch.int64), ((4,), torch.float64),
        ((2, 1, 4), torch.float32), ((1, n, 1), torch.float16),
    ]  # fmt: skip
    nodes = [world.input(shape, dtype=dtype) for shape, dtype in kinds]
    condition = world.input((n, 1), dtype=torch.bool)
    tried = 0
    for a, b in itertools.permutations(nodes, 2):
        args = (condition, a, b) if op is aten.where.self else (a, b)
        found = infer_value(world.program, op, args)
        assert value_key(found) == value_key(evaluated(program, op, *args)), (a, b)
        tried += 1
    assert tried == 110


def test_an_elementwise_op_refuses_sizes_that_do_not_broadcast(program: Program):
    x, _ = program.placeholders()
    six, four = (fake_value(program, torch.zeros(n)) for n in (6, 4))
    assert infer_value(program, aten.add.Tensor, (x, six)) is infer_value(program, aten.add.Tensor, (x, six))
    with pytest.raises(RuntimeError):
        infer_value(program, aten.add.Tensor, (x, four))


def test_without_axes_a_tensor_gives_way_to_another_dtype(program: Program):
    x, _ = program.placeholders()
    row, single = (fake_value(program, t.double()) for t in (torch.zeros(6), torch.tensor(1.0)))
    assert infer_value(program, aten.add.Tensor, (x, row)).dtype is torch.float64
    assert infer_value(program, aten.add.Tensor, (x, single)).dtype is torch.float32
