"""recompose-layer-norm: a value less its mean by its deviation."""

import pytest
import torch

from fxopt.passes.recompose.recompose_layer_norm import RecomposeLayerNorm
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged

NORM = RecomposeLayerNorm()
X, W, B = rand(3, 4, 8), rand(8, seed=1), rand(8, seed=2)


def centred(x):
    return x - x.mean(-1, keepdim=True)


def by_parts(x):
    d = centred(x)
    return d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5)


def by_power(x):
    d = centred(x)
    return d * (d.pow(2).mean(-1, keepdim=True) + 1e-5) ** -0.5


def by_var(x):
    return centred(x) * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5)


def by_correction(x):
    return centred(x) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()


FORMS = {f.__name__: f for f in (by_parts, by_power, by_var, by_correction)}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_forms(name: str, dynamic: bool):
    after = applied(NORM, program(FORMS[name], X, dynamic=dynamic)).program
    expected = program(lambda x: torch.layer_norm(x, (8,), None, None, 1e-5), X, dynamic=dynamic)
    assert structure(after) == structure(expected)


AFFINE = {
    "both": (lambda y, w, b: y * w + b, (True, True)),
    "weight": (lambda y, w, b: w * y, (True, False)),
    "bias": (lambda y, w, b: b + y, (False, True)),
    "bias, then weight": (lambda y, w, b: (y + b) * w, (False, True)),
    "a bias with a factor": (lambda y, w, b: torch.add(y * w, b, alpha=2), (True, False)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_weight_and_bias(name: str):
    affine, wanted = AFFINE[name]
    before = program(lambda x, w, b: affine(by_parts(x), w, b), X, w=W, b=B)
    [norm, *_] = applied(NORM, before).program.calls()
    assert (norm.args[2] is not None, norm.args[3] is not None) == wanted


def test_over_two_axes():
    def function(x):
        return (x - x.mean((1, 2), True)) * torch.rsqrt(x.var((1, 2), unbiased=False, keepdim=True) + 1e-5)

    after = applied(NORM, program(function, X)).program
    expected = program(lambda x: torch.layer_norm(x, (4, 8), None, None, 1e-5), X)
    assert structure(after) == structure(expected)


NONE = {
    "unbiased": lambda x: centred(x) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5),
    "another correction": lambda x: centred(x) * torch.rsqrt(x.var(-1, correction=2, keepdim=True) + 1e-5),
    "a mean of squares in another dtype": lambda x: (d := centred(x)) * torch.rsqrt(
        (d * d).mean(-1, True, dtype=torch.float16) + 1e-5
    ),
    "the deviation": lambda x: centred(x) / (x.std(-1, unbiased=False, keepdim=True) + 1e-5),
    "another axis": lambda x: (x - x.mean(1, True)) * torch.rsqrt(x.var(1, unbiased=False, keepdim=True) + 1e-5),
    "the mean of another axis": lambda x: (x - x.mean((1, 2), True)) * torch.rsqrt(
        x.var(-1, unbiased=False, keepdim=True) + 1e-5
    ),
    "the mean square": lambda x: centred(x) * torch.rsqrt((x * x).mean(-1, True) + 1e-5),
    "the variance of another": lambda x: centred(x) * torch.rsqrt(
        x.exp().var(-1, unbiased=False, keepdim=True) + 1e-5
    ),
    "the sum with the mean": lambda x: (x + x.mean(-1, True)) * torch.rsqrt(
        x.var(-1, unbiased=False, keepdim=True) + 1e-5
    ),
    "a product with the deviation": lambda x: centred(x) * torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_layer_norm_stays(name: str):
    assert unchanged(NORM, program(NONE[name], X)) == []


@pytest.mark.parametrize("inner", ["mean", "sub", "mul", "add", "sqrt"])
def test_an_inner_value_with_another_user_stays(inner: str):
    def function(x):
        mean = x.mean(-1, keepdim=True)
        d = x - mean
        square = d * d
        total = square.mean(-1, keepdim=True) + 1e-5
        root = torch.sqrt(total)
        return d / root, {"mean": mean, "sub": d, "mul": square, "add": total, "sqrt": root}[inner]

    assert unchanged(NORM, program(function, X)) == [f"{inner} has another user, output"]


def test_axes_that_vary_stay():
    def function(x):
        return (x - x.mean((0, 1), True)) * torch.rsqrt(x.var((0, 1), unbiased=False, keepdim=True) + 1e-5)

    assert unchanged(NORM, program(function, rand(3, 4), dynamic=True)) == ["the normalised axes are dynamic"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    assert calls(applied(NORM, program(by_parts, X.to(dtype))).program) == ["layer_norm"]


def test_drawn_programs():
    check_pass(NORM, examples=15, min_fired=0.2, targets=())
