"""A recorded motif's calls in a program, some with other literals."""

import pytest
import torch

from fxopt.ops import op_key
from fxopt.rewriting.recorder import record
from fxopt.testing import ProgramBuilder
from fxopt.testing.emission import SizeOf, emitted


def recorded(b, function, **tensors):
    return record(b.program, function, {n: b.value(t) for n, t in tensors.items()})


def test_literals_stand_at_their_spots_and_all_else_stays():
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    recording = recorded(b, lambda x: x.softmax(1).clamp(0.0, 1.0).sum(1, dtype=torch.float32), x=x)
    (result,), inner = emitted(b, recording, {"x": x}, {(0, 1): 0, (1, 2): 6.0, (2, "dtype"): torch.float64})
    softmax, clamp = inner
    assert softmax.args == (x, 0, None) and clamp.args == (softmax, 0.0, 6.0)
    assert result.args[1] == [1] and result.meta["val"].dtype is torch.float64


def test_a_size_is_read_from_the_argument():
    b = ProgramBuilder()
    x = b.input((3, b.batch))
    recording = recorded(b, lambda x: x * 2, x=x)
    (result,), inner = emitted(b, recording, {"x": x}, {(0, 1): SizeOf("x", 1)})
    size = result.args[1]
    assert inner == [] and op_key(size.target) == "aten.sym_size.int" and size.args == (x, 1)


def test_a_number_in_the_place_of_a_tensor_takes_the_overload_that_tracing_takes():
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    recording = recorded(b, lambda x, y: torch.gt(x, y), x=x, y=b.weight((4,)))
    (result,), _ = emitted(b, recording, {"x": x, "y": 2.0}, {})
    assert op_key(result.target) == "aten.gt.Scalar" and result.args == (x, 2.0)
    (literal,), _ = emitted(b, recording, {"x": x, "y": x}, {(0, 1): 1})
    assert op_key(literal.target) == "aten.gt.Scalar" and literal.args == (x, 1)


def test_what_an_op_does_not_take_raises():
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    recording = recorded(b, lambda x: x.reshape(-1, 2).relu(), x=x)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        emitted(b, recording, {"x": b.weight((2, 2))}, {(0, 1): [3, 5]})
