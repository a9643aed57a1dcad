"""recompose-rms-norm: a value by the root of its mean square."""

import pytest
import torch

from fxopt.passes.recompose.recompose_rms_norm import RecomposeRmsNorm
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

NORM = RecomposeRmsNorm()
X, W = rand(3, 4, 8), rand(8, seed=1)


def mean_square(x):
    return x.pow(2).mean(-1, keepdim=True)


FORMS = {
    "llama": lambda x, w: w * (x * torch.rsqrt(mean_square(x) + 1e-6)),
    "weight last": lambda x, w: x * torch.rsqrt(mean_square(x) + 1e-6) * w,
    "quotient": lambda x, w: x / torch.sqrt((x * x).mean(-1, True) + 1e-6) * w,
    "power": lambda x, w: x * (1e-6 + x.square().mean((-1,), True)) ** -0.5 * w,
    "quotient by a power": lambda x, w: x / (mean_square(x) + 1e-6) ** 0.5 * w,
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_forms(name: str, dynamic: bool):
    after = applied(NORM, program(FORMS[name], X, dynamic=dynamic, w=W)).program
    expected = program(lambda x, w: torch.rms_norm(x, (8,), w, 1e-6), X, dynamic=dynamic, w=W)
    assert structure(after) == structure(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    before = program(FORMS["llama"], X.to(dtype), w=W.to(dtype))
    assert calls(applied(NORM, before).program) == ["rms_norm"]


def test_over_two_axes():
    def function(x, w):
        return x * torch.rsqrt((x * x).mean((1, 2), True) + 1e-6) * w

    after = applied(NORM, program(function, X, w=rand(4, 8))).program
    expected = program(lambda x, w: torch.rms_norm(x, (4, 8), w, 1e-6), X, w=rand(4, 8))
    assert structure(after) == structure(expected)


def test_without_epsilon():
    before = program(lambda x: x * torch.rsqrt(mean_square(x)), X)
    [norm] = applied(NORM, before).program.calls()
    assert norm.args[3] == 0.0


WEIGHTS = {
    "of another shape": (lambda y, w: y * w, rand(4, 8)),
    "of one value": (lambda y, w: y * w, rand(1)),
    "added": (lambda y, w: y + w, W),
    "of another dtype": (lambda y, w: y * w, W.double()),
    "used twice": (lambda y, w: y * w + y, W),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_another_factor_stays(name: str):
    scaled, weight = WEIGHTS[name]
    before = program(lambda x, w: scaled(x * torch.rsqrt(mean_square(x) + 1e-6), w), X, w=weight)
    [norm, *rest] = applied(NORM, before).program.calls()
    assert norm.args[2] is None
    assert len(rest) >= 1


def test_a_factor_that_is_an_input_stays():
    assert calls(applied(NORM, program(FORMS["llama"], X, W)).program) == ["rms_norm", "mul"]


NONE = {
    "another axis": lambda x: x * torch.rsqrt((x * x).mean(1, True) + 1e-6),
    "an axis that goes": lambda x: x[0, 0] * torch.rsqrt((x[0, 0] * x[0, 0]).mean(-1) + 1e-6),
    "epsilon after the root": lambda x: x / (torch.sqrt(mean_square(x)) + 1e-6),
    "twice the mean": lambda x: x * torch.rsqrt(2 * mean_square(x) + 1e-6),
    "the cube": lambda x: x * torch.rsqrt(x.pow(3).mean(-1, True) + 1e-6),
    "the value itself": lambda x: x * torch.rsqrt(x.mean(-1, True) + 1e-6),
    "the sum": lambda x: x * torch.rsqrt((x * x).sum(-1, True) + 1e-6),
    "a product with the root": lambda x: x * torch.sqrt(mean_square(x) + 1e-6),
    "a quotient by the inverse": lambda x: x / torch.rsqrt(mean_square(x) + 1e-6),
    "a third root": lambda x: x * (mean_square(x) + 1e-6) ** -0.25,
    "the root alone": lambda x: torch.rsqrt(mean_square(x) + 1e-6),
    "a mean in another dtype": lambda x: x * torch.rsqrt((x * x).mean(-1, True, dtype=torch.float16) + 1e-6),
    "half": lambda x: x * (torch.rsqrt(mean_square(x) + 1e-6) * 0.5),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_rms_norm_stays(name: str):
    assert unchanged(NORM, program(NONE[name], X)) == []


def test_a_norm_that_nothing_reads():
    b = ProgramBuilder()
    x = b.input((3, 4))
    mean = b.call("aten.mean.dim", b.call("aten.mul.Tensor", x, x), [-1], True)
    b.call("aten.mul.Tensor", x, b.call("aten.rsqrt", b.call("aten.add.Scalar", mean, 1e-6)))
    assert applied(NORM, b.finish(x)).passes[0].rules == {"recompose-rms-norm": 1}


def test_of_another_value_stays():
    unchanged(NORM, program(lambda x, y: y * torch.rsqrt(mean_square(x) + 1e-6), X, X))


@pytest.mark.parametrize("inner", ["pow", "mean", "add", "rsqrt"])
def test_an_inner_value_with_another_user_stays(inner: str):
    def function(x):
        square = x.pow(2)
        mean = square.mean(-1, keepdim=True)
        total = mean + 1e-6
        root = torch.rsqrt(total)
        return x * root, {"pow": square, "mean": mean, "add": total, "rsqrt": root}[inner]

    [why] = unchanged(NORM, program(function, X))
    assert why.startswith(inner)
    assert why.endswith("has another user, output")


def test_axes_that_vary_stay():
    before = program(lambda x: x * torch.rsqrt((x * x).mean((0, 1), True) + 1e-6), rand(3, 4), dynamic=True)
    assert unchanged(NORM, before) == ["the normalised axes are dynamic"]


def test_drawn_programs():
    check_pass(NORM, examples=15, min_fired=0.2, targets=())
