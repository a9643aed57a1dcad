"""Recording: a plain function as a canonical graph; what no graph can hold is an error with its reason."""

import contextlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

from fxopt.ops import op_key
from fxopt.program import Program
from fxopt.rewriting.recorder import Recording, RecordingError, record
from tests.passes.helpers import program, rand

CONSTANT = rand(6)


@pytest.fixture(scope="module")
def p() -> Program:
    return program(lambda x, y: x + y, rand(4, 6), rand(4, 6), dynamic=True)


def recorded(p: Program, function: Callable[..., object], *more: object) -> Recording:
    x = p.placeholders()[0].meta["val"]
    return record(p, function, {"x": x, **{f"a{i}": v for i, v in enumerate(more)}})


def ops(recording: Recording) -> list[str]:
    return [op_key(n.target).split(".")[1] for n in recording.calls]


def test_composites_stay_whole_and_spelling_is_canonical(p: Program) -> None:
    assert ops(recorded(p, lambda x: F.layer_norm(x, [6]))) == ["layer_norm"]
    assert ops(recorded(p, lambda x: F.gelu(x.contiguous().view(-1, 2, 3)))) == ["reshape", "gelu"]
    assert ops(recorded(p, lambda x: x.float())) == []
    assert ops(recorded(p, lambda x: 1 - x)) == ["neg", "add"]


def test_dead_calls_are_left_out(p: Program) -> None:
    assert ops(recorded(p, lambda x: (x.sin(), x.cos())[1])) == ["cos"]


def test_results_and_arguments_in_order(p: Program) -> None:
    made = recorded(p, lambda x, k: (x.relu(), x, k), 3)
    assert made.outputs == [made.calls[0], made.placeholders["x"], 3]


def test_sizes_that_vary_stand_as_symbols(p: Program) -> None:
    made = recorded(p, lambda x: x.reshape(x.shape[0] * 2, -1))
    size = made.calls[0].args[1][0]
    assert isinstance(size, torch.SymInt)
    assert p.dim(size) == "2*batch"


def test_a_factory_is_a_call(p: Program) -> None:
    assert ops(recorded(p, lambda x: x + torch.zeros_like(x))) == ["zeros_like", "add"]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x.relu_(), "aten.relu_.default writes in place"),
        (lambda x: x.t_(), "writes in place"),
        (lambda x: torch.add(x, 1, out=x), "writes in place"),
        (lambda x: x @ x, "a and b must have same reduction dim|must match"),
        (lambda x: x.missing, "has no attribute 'missing'"),
        (lambda x: x + CONSTANT, "neither an argument|convert all Tensors to FakeTensors"),
        (lambda x: x if x.shape[0] == 4 else -x, r"branches on a size that varies \(Eq\("),
        (lambda x: [x + i for i in range(x.shape[0])], "branches on a size that varies"),
        (lambda x: x if x.numel() % 8 else -x, "branches on a size that varies"),
        (lambda x: 1 if x.sum().item() else 2, "data-dependent|Data|item"),
    ],
)
def test_what_no_graph_can_hold(p: Program, function: Callable[..., object], why: str) -> None:
    with pytest.raises(RecordingError, match=why):
        recorded(p, function)


def test_a_refused_write_has_not_touched_the_programs_own_values(p: Program) -> None:
    shape = p.placeholders()[0].meta["val"].shape
    with pytest.raises(RecordingError):
        recorded(p, lambda x: x.unsqueeze_(0))
    assert p.placeholders()[0].meta["val"].shape == shape


def test_torchs_own_checks_of_sizes_go_by_the_example(p: Program) -> None:
    assert ops(recorded(p, lambda x: F.group_norm(x, 2))) == ["group_norm"]


def test_a_function_that_torch_calls_asks_for_itself(p: Program) -> None:
    with pytest.raises(RecordingError, match="branches on a size that varies"):
        recorded(p, lambda x: pytree.tree_map(lambda t: t if t.shape[0] == 4 else -t, x))


def test_what_the_kernel_refuses_is_no_recording() -> None:
    """The shape function takes an output padding as large as the stride, the kernel does not."""
    p = program(lambda x, w: F.conv_transpose2d(x, w), rand(1, 2, 3, 3), rand(2, 2, 2, 2))
    x, w = (n.meta["val"] for n in p.placeholders())
    values = {"x": x, "w": w}
    assert ops(record(p, lambda x, w: F.conv_transpose2d(x, w, None, 2, 0, 1), values))
    with pytest.raises(RecordingError, match="output padding"):
        record(p, lambda x, w: F.conv_transpose2d(x, w, None, 2, 0, 2), values)


def test_no_guard_is_left_behind(p: Program) -> None:
    shape_env = p.fake_mode.shape_env
    assert shape_env is not None
    before = (list(shape_env.guards), dict(shape_env.replacements))
    for function in (
        lambda x: x if x.shape[0] == 4 else -x,
        lambda x: F.group_norm(x, 2),
        lambda x: x.reshape(2, -1),
    ):
        with contextlib.suppress(RecordingError):
            recorded(p, function)
    assert (list(shape_env.guards), dict(shape_env.replacements)) == before
