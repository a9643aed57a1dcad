"""recompose-group-norm: normalised by groups of channels, or by channel."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.frontend import trace
from fxopt.passes.recompose.recompose_group_norm import RecomposeGroupNorm
from fxopt.pipeline import PassManager
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import Function, applied, calls, program, rand, structure, unchanged

NORM = RecomposeGroupNorm()
O1 = PassManager.parse("O1")
X, W, B = rand(2, 4, 3, 5), rand(4, seed=1), rand(4, seed=2)


def normal(x, *axes):
    return (x - x.mean(axes, True)) / torch.sqrt(x.var(axes, unbiased=False, keepdim=True) + 1e-5)


def grouped(x):
    return normal(x.reshape(x.shape[0], 2, -1), 2).reshape(x.shape)


FORMS = {
    "three axes": grouped,
    "five axes": lambda x: normal(x.unflatten(1, (2, 2)), 2, 3, 4).flatten(1, 2),
    "a layer norm": lambda x: F.layer_norm(x.reshape(x.shape[0], 2, -1), (30,)).reshape(x.shape),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_groups(name: str, dynamic: bool):
    clean = PassManager.parse("clean")
    after = clean.run(applied(NORM, clean.run(program(FORMS[name], X, dynamic=dynamic)).program).program)
    expected = program(lambda x: torch.group_norm(x, 2, None, None, 1e-5), X, dynamic=dynamic)
    assert structure(after.program) == structure(expected)


def of_any_size(function, **weights):
    """The program with heights and widths that vary."""
    shapes = [{0: "batch", 2: "height", 3: "width"}]
    return trace(Function(function, weights).eval(), (X,), dynamic_shapes=shapes)


def test_of_any_size():
    after = O1.run(of_any_size(grouped)).program
    assert structure(after) == structure(of_any_size(lambda x: torch.group_norm(x, 2, None, None, 1e-5)))
    after = O1.run(of_any_size(lambda x: normal(x, 2, 3))).program
    assert structure(after) == structure(
        of_any_size(lambda x: torch.instance_norm(x, None, None, None, None, True, 0.1, 1e-5, True))
    )


AFFINE = {
    "a scale": (lambda y, w, b: y * w[:, None, None], True, False),
    "a shift": (lambda y, w, b: b[:, None, None] + y, False, True),
    "both": (lambda y, w, b: y * w[:, None, None] + b[:, None, None], True, True),
    "the shift first": (lambda y, w, b: (y + b[:, None, None]) * w[:, None, None], True, True),
    "a number": (lambda y, w, b: y * 2, True, False),
    "a quotient and a difference": (lambda y, w, b: y / 4 - 1, True, True),
}


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("given", [False, True], ids=["bare", "weighted"])
def test_what_follows_is_weight_and_bias(name: str, given: bool):
    affine, weight, bias = AFFINE[name]

    def function(x, w, b, v, c):
        return affine(F.group_norm(x, 2, v if given else None, c if given else None), w, b)

    weights = {"w": W, "b": B, "v": rand(4, seed=3), "c": rand(4, seed=4)}
    before = PassManager.parse("fold-constants").run(program(function, X, dynamic=True, **weights)).program
    [norm] = applied(NORM, before).program.calls()
    assert (norm.args[2] is not None, norm.args[3] is not None) == (weight or given, bias or given)


def test_by_channel():
    def function(x, w, b):
        return normal(x, 2, 3) * w[:, None, None] + b[:, None, None]

    after = O1.run(program(function, X, dynamic=True, w=W, b=B)).program
    assert structure(after) == structure(
        program(
            lambda x, w, b: torch.instance_norm(x, w, b, None, None, True, 0.1, 1e-5, True),
            X, dynamic=True, w=W, b=B,
        )
    )  # fmt: skip


def test_over_fixed_axes_a_layer_norm_is_as_good():
    assert calls(O1.run(program(lambda x: normal(x, 2, 3), X)).program) == ["layer_norm"]
    assert calls(O1.run(program(lambda x: normal(x, 2, 3) * 3, X)).program) == ["layer_norm", "mul"]
    assert unchanged(NORM, program(lambda x: normal(x, 2, 3), X)) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    def function(x, w):
        return grouped(x) * w

    before = program(function, X.to(dtype), w=W.reshape(4, 1, 1).to(dtype))
    [norm] = [n for n in applied(NORM, before).program.calls() if "norm" in str(n.target)]
    assert norm.meta["val"].dtype == dtype


NONE = {
    "another axis": lambda x: normal(x.reshape(2, 2, -1), 1).reshape(x.shape),
    "one axis of two": lambda x: normal(x.reshape(2, 2, 6, 5), 3).reshape(x.shape),
    "another batch": lambda x: normal(x.reshape(4, 2, -1), 2).reshape(x.shape),
    "another shape": lambda x: normal(x.reshape(2, 2, -1), 2).reshape(2, 4, 5, 3),
    "no reshape back": lambda x: normal(x.reshape(2, 2, -1), 2).relu(),
    "nothing after it": lambda x: normal(x.reshape(2, 2, -1), 2),
    "of what is permuted": lambda x: normal(x.permute(0, 2, 1, 3), 2, 3),
    "a layer norm with a weight": lambda x: F.layer_norm(x.reshape(2, 2, -1), (30,), torch.ones(30)).reshape(x.shape),
    "a layer norm with a bias": lambda x: F.layer_norm(
        x.reshape(2, 2, -1), (30,), None, torch.ones(30)
    ).reshape(x.shape),
    "one number": lambda x: F.layer_norm(x.sum().reshape(1).relu().reshape(1, 1, 1), (1,)).reshape(1),
    "a vector": lambda x: normal(x.reshape(1, 2, -1), 2).reshape(-1),
    "a scale of an element": lambda x: F.layer_norm(x, (3, 5)) * torch.arange(5.0),
    "a scale by channel of a norm over all": lambda x: F.layer_norm(x, (4, 3, 5)) * torch.ones(4, 1, 1),
    "a scale of a matrix": lambda x: F.layer_norm(x[0, 0], (5,)) * torch.arange(3.0)[:, None],
    "two users": lambda x: (y := F.layer_norm(x, (3, 5))) * torch.arange(4.0)[:, None, None] + y,
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_group_norm_stays(name: str):
    before = PassManager.parse("clean").run(program(NONE[name], X)).program
    assert unchanged(NORM, before) == []


def test_a_norm_that_nothing_reads_stays():
    b = ProgramBuilder()
    x = b.input((b.batch, 4, 3, 5))
    b.call("aten.instance_norm", x, None, None, None, None, True, 0.1, 1e-5, True)
    b.call("aten.layer_norm", x, [3, 5])
    assert unchanged(NORM, b.finish(x)) == []


OTHER = {
    "by element": lambda y, x: y * torch.arange(5.0),
    "of the input": lambda y, x: y * x,
    "with a factor": lambda y, x: torch.add(y, 1, alpha=2),
    "another user": lambda y, x: y * 2 + y,
}


@pytest.mark.parametrize("name", OTHER)
def test_another_factor_stays(name: str):
    function = OTHER[name]
    before = program(lambda x: function(F.group_norm(x, 2), x), X)
    assert unchanged(NORM, PassManager.parse("fold-constants").run(before).program) == []


@pytest.mark.parametrize("which", ["weight", "bias"])
def test_a_weight_that_is_an_input_stays(which: str):
    def function(x, given):
        return F.group_norm(x, 2, **{which: given}) * 2

    assert unchanged(NORM, program(function, X, W)) == []


@pytest.mark.parametrize("inner", ["mean", "sub", "var", "add", "sqrt", "div"])
def test_an_inner_value_with_another_user_stays(inner: str):
    def function(x):
        y = x.reshape(2, 2, -1)
        mean = y.mean(-1, True)
        d = y - mean
        var = y.var(-1, unbiased=False, keepdim=True)
        total = var + 1e-5
        root = total.sqrt()
        normal = d / root
        values = {"mean": mean, "sub": d, "var": var, "add": total, "sqrt": root, "div": normal}
        return normal.reshape(x.shape), values[inner]

    assert unchanged(NORM, program(function, X)) == [f"{inner} has another user, output"]


def test_an_inner_value_of_an_instance_norm_with_another_user_stays():
    def function(x):
        mean = x.mean((2, 3), True)
        return (x - mean) * torch.rsqrt(x.var((2, 3), unbiased=False, keepdim=True) + 1e-5), mean

    assert unchanged(NORM, of_any_size(function)) == ["mean has another user, output"]


def test_dynamic_groups_stay():
    def function(x):
        return normal(x.reshape(3, -1, 8), 2).reshape(x.shape)

    before = trace(Function(function, {}), (rand(3, 4, 4),), dynamic_shapes=[{1: "channels"}])
    assert unchanged(NORM, before) == ["the groups or the channels are dynamic"]


def test_groups_of_parts_of_channels_stay():
    def function(x):
        return normal(x.reshape(-1, 6, 2), 2).reshape(x.shape)

    before = program(function, rand(2, 4, 3), dynamic=True)
    assert unchanged(NORM, before) == ["the groups are not of whole channels"]


def test_drawn_programs():
    check_pass(NORM, examples=12, min_fired=0.2, targets=())
