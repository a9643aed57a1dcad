"""unflatten-linear: the reshapes around a linear layer go together or not at all."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.passes.simplify.unflatten_linear import UnflattenLinear
from fxopt.pipeline import PassManager
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

UNFLATTEN = UnflattenLinear()

X, W, B = rand(2, 3, 4), rand(6, 4, seed=1), rand(6, seed=2)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("bias", [False, True])
def test_before_and_after(dynamic: bool, bias: bool):
    weights = {"w": W} | ({"b": B} if bias else {})

    def function(x, w, b=None):
        return F.linear(x.reshape(-1, 4), w, b).reshape(-1, 3, 6)

    before = program(function, X, dynamic=dynamic, **weights)
    after = applied(UNFLATTEN, before).program
    assert structure(after) == structure(program(F.linear, X, dynamic=dynamic, **_named(weights)))
    for batch in (0, 1, 5) if dynamic else (2,):
        x = rand(batch, 3, 4)
        torch.testing.assert_close(after(x), before(x))


def _named(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {{"w": "weight", "b": "bias"}[k]: v for k, v in weights.items()}


@pytest.mark.parametrize(
    ("shape", "flat", "shaped"),
    [
        ((2, 3, 5, 4), (-1, 4), (-1, 3, 5, 6)),
        ((2, 3, 5, 4), (-1, 15, 4), (-1, 3, 5, 6)),
        ((3, 1, 4), (-1, 4), (-1, 1, 6)),
        ((3, 4), (1, 3, 4), (3, 6)),
        ((4,), (1, 4), (6,)),
    ],
)
def test_shapes(shape: tuple[int, ...], flat: tuple[int, ...], shaped: tuple[int, ...]):
    before = program(lambda x, w, b: F.linear(x.reshape(flat), w, b).reshape(shaped), rand(*shape), w=W, b=B)
    assert calls(applied(UNFLATTEN, before).program) == ["linear"]


def test_flatten_and_unsqueeze_count_as_reshapes_before_it():
    before = program(lambda x, w: F.linear(x.flatten(0, 1), w).reshape(-1, 3, 6), X, w=W, dynamic=True)
    assert calls(applied(UNFLATTEN, before).program) == ["linear"]


def test_two_equal_reshapes_after_it():
    def function(x, w):
        y = F.linear(x.reshape(-1, 4), w)
        return y.reshape(-1, 3, 6).relu() + y.reshape(-1, 3, 6)

    assert calls(applied(UNFLATTEN, program(function, X, w=W)).program) == ["linear", "relu", "add"]


def test_what_else_uses_the_flat_input_keeps_it():
    def function(x, w):
        flat = x.reshape(-1, 4)
        return F.linear(flat, w).reshape(-1, 3, 6), flat.sum(0)

    assert calls(applied(UNFLATTEN, program(function, X, w=W)).program) == ["reshape", "linear", "sum"]


def test_the_convolution_of_transformers():
    """addmm over a flattened tensor, as GPT-2 has it, becomes one linear layer."""
    before = program(
        lambda x, w, b: torch.addmm(b, x.view(-1, 4), w).view(x.shape[0], 3, 6),
        X,
        dynamic=True,
        w=W.t().contiguous(),
        b=B,
    )
    after = PassManager.parse("fuse-matmul-add,simplify-reshapes,unflatten-linear").run(before).program
    assert calls(after) == ["linear"]


def test_another_user_of_the_layer_stays():
    def function(x, w):
        y = F.linear(x.reshape(-1, 4), w)
        return y.reshape(-1, 3, 6), y

    [why] = unchanged(UNFLATTEN, program(function, X, w=W))
    assert why == "it has another user, output"


def test_another_last_axis_after_it_stays():
    for shape in ((-1, 2, 3), (36,), (3, 12), (-1, 1)):
        [why] = unchanged(
            UNFLATTEN, program(lambda x, w, s=shape: F.linear(x.reshape(-1, 4), w).reshape(s), X, w=W)
        )
        assert why == "the reshape after it, reshape_1, changes the last axis"


def test_results_shaped_in_two_ways_stay():
    def function(x, w):
        y = F.linear(x.reshape(-1, 4), w)
        return y.reshape(-1, 3, 6), y.reshape(-1, 2, 6)

    [why] = unchanged(UNFLATTEN, program(function, X, w=W))
    assert why == "its results are shaped in two ways, reshape_1 and reshape_2"


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_reshape_that_makes_the_last_axis_takes_the_shape_of_the_result(dynamic: bool):
    """Attention joins its heads: one reshape is enough."""
    before = program(
        lambda x, w: F.linear(x.reshape(-1, 4), w).reshape(-1, 3, 6), rand(2, 3, 2, 2), dynamic=dynamic, w=W
    )
    after = applied(UNFLATTEN, before).program
    assert structure(after) == structure(
        program(
            lambda x, w: F.linear(x.reshape(-1 if dynamic else 2, 3, 4), w),
            rand(2, 3, 2, 2),
            dynamic=dynamic,
            w=W,
        )
    )


def test_a_reshape_that_makes_the_last_axis_and_has_another_user_stays():
    def function(x, w):
        flat = x.reshape(-1, 4)
        return F.linear(flat, w).reshape(-1, 3, 6), flat.relu()

    [why] = unchanged(UNFLATTEN, program(function, rand(2, 3, 2, 2), w=W))
    assert why == "the reshape before it, reshape, has another user"


def test_two_dynamic_sizes_are_taken_from_the_reshape_after_it():
    b = ProgramBuilder()
    x = b.input((b.batch, b.batch, 4))
    size = b.call("aten.sym_size.int", x, 0)
    y = b.call("aten.linear", b.call("aten.reshape", x, [-1, 4]), b.weight((6, 4)), None)
    before = b.finish(b.call("aten.reshape", y, [size, size, 6]))
    after = applied(UNFLATTEN, before).program
    assert [c for c in calls(after) if c != "sym_size"] == ["linear"]


def test_a_permutation_before_it_stays():
    """Rows in another order: a transpose is no reshape."""
    before = program(lambda x, w: F.linear(x.transpose(0, 1), w).reshape(2, 3, 6), rand(2, 3, 4), w=W)
    assert unchanged(UNFLATTEN, before) == []


def test_nothing_around_it_stays():
    assert unchanged(UNFLATTEN, program(lambda x, w: F.linear(x, w), X, w=W)) == []
    assert unchanged(UNFLATTEN, program(lambda x, w: F.linear(x, w).reshape(-1, 6), X, w=W)) == []
    assert unchanged(UNFLATTEN, program(lambda x, w: F.linear(x.reshape(-1, 4), w), X, w=W)) == []


def test_drawn_programs():
    check_pass(UNFLATTEN, examples=10, min_fired=0.1, targets=())


def test_one_that_stays_does_not_keep_the_next_from_going():
    def function(x, w):
        kept = torch.nn.functional.linear(x.reshape(-1, 4), w).relu()
        return kept.reshape(2, 3, 4), torch.nn.functional.linear(x.sin().reshape(-1, 4), w).reshape(2, 3, 4)

    before = program(function, rand(2, 3, 4), w=rand(4, 4))
    result = applied(UnflattenLinear(), before)
    assert sum(r.rewrites for r in result.passes) == 1
    assert calls(result.program).count("reshape") < calls(before).count("reshape")


def test_a_layer_whose_reshapes_agree_once_a_later_one_has_gone():
    """The second layer's reshape is a user of the first."""

    def function(x, w, v):
        y = F.linear(x.reshape(-1, 4), w)
        return y.reshape(-1, 4, 4), F.linear(y.reshape(-1, 4), v).reshape(-1, 4, 4)

    after = applied(
        UNFLATTEN, program(function, rand(4, 4), w=rand(4, 4, seed=1), v=rand(4, 4, seed=2))
    ).program
    assert calls(after) == ["reshape", "linear", "linear"]
