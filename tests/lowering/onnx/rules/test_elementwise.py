"""Functions of one tensor against torch."""

import pytest
import torch

from fxopt.lowering.onnx.target import OnnxTarget
from tests.lowering.onnx.harness import Case, check, op_types, program_of

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 7, generator=GENERATOR) * 2
UNIT = torch.rand(3, 7, generator=GENERATOR) * 1.8 - 0.9
POSITIVE = torch.rand(3, 7, generator=GENERATOR) * 3 + 0.1
TINY = torch.tensor([[1e-7, -3e-6, 0.0, 0.5, -0.4, 2.0, 9.0]]).repeat(3, 1)
SPECIAL = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.5, -2.5]]).repeat(3, 1)
COUNTS = torch.arange(-10, 11).reshape(3, 7)

ON_ALL = (
    "abs", "neg", "sign", "ceil", "floor", "trunc", "round", "frac", "square", "sin", "cos", "tan", "atan",
    "sinh", "cosh", "tanh", "asinh", "erf", "erfc", "exp", "exp2", "expm1", "sigmoid", "isnan", "isinf",
    "isfinite", "isposinf", "isneginf", "nan_to_num", "deg2rad", "rad2deg", "logical_not",
)  # fmt: skip
ON_UNIT = ("asin", "acos", "atanh")
ON_POSITIVE = ("log", "log2", "log10", "sqrt", "rsqrt", "reciprocal", "acosh")


def unary(name: str, x: torch.Tensor) -> Case:
    return Case(name, getattr(torch, name), (x,))


@pytest.mark.parametrize("name", ON_ALL)
def test_on_all_numbers(name):
    check(unary(name, X))


@pytest.mark.parametrize("name", ON_UNIT)
def test_inside_the_unit(name):
    check(unary(name, UNIT))


@pytest.mark.parametrize("name", ON_POSITIVE)
def test_on_positive_numbers(name):
    check(unary(name, POSITIVE + 1 if name == "acosh" else POSITIVE))


@pytest.mark.parametrize("name", ["expm1", "log1p", "erf", "sinh"])
def test_digits_survive_near_zero(name):
    check(unary(name, TINY))


@pytest.mark.parametrize(
    "name",
    [
        "abs",
        "neg",
        "sign",
        "relu",
        "ceil",
        "isnan",
        "isinf",
        "isfinite",
        "nan_to_num",
        "exp",
        "tanh",
        "sqrt",
        "sigmoid",
    ],
)
def test_nan_and_infinities(name):
    check(unary(name, SPECIAL))


@pytest.mark.parametrize(
    "name", ["abs", "neg", "sign", "floor", "round", "sqrt", "exp", "isnan", "isfinite", "reciprocal"]
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int16])
def test_integers(name, dtype):
    x = COUNTS.abs() + 1 if name in ("sqrt", "reciprocal") else COUNTS
    check(unary(name, x.to(dtype)))


@pytest.mark.parametrize("name", ["exp", "tanh", "abs", "round", "sqrt", "erf", "log1p", "isnan"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype):
    check(unary(name, POSITIVE.to(dtype)))


@pytest.mark.parametrize("name", ["exp", "tanh", "log", "sqrt", "expm1", "log1p", "sin"])
def test_double(name):
    check(unary(name, POSITIVE.double()))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.int16])
def test_bitwise_not(dtype):
    check(unary("bitwise_not", COUNTS.abs().to(dtype)))


def test_bitwise_not_of_bool():
    check(unary("bitwise_not", X > 0))


CASES = [
    Case("round-decimals", lambda x: torch.round(x, decimals=2), (X,)),
    Case("round-tens", lambda x: torch.round(x, decimals=-1), (X * 30,)),
    Case("logit", lambda x: torch.logit(x, 1e-3), (UNIT.abs(),)),
    Case("nan_to_num", lambda x: torch.nan_to_num(x, 1.0, 2.0, -3.0), (SPECIAL,)),
    Case("clamp", lambda x: x.clamp(-1, 0.5), (X,), ops=("Clip",)),
    Case("clamp-low", lambda x: x.clamp(min=-1), (X,)),
    Case("clamp-high", lambda x: x.clamp(max=0.5), (X,)),
    Case("clamp-integers", lambda x: x.clamp(-3, 4), (COUNTS,), ops=("Clip",)),
    Case("clamp-integers-crossed", lambda x: x.clamp(4, -3), (COUNTS,)),
    Case("clamp-short", lambda x: x.to(torch.int16).clamp(-3, 4), (COUNTS,)),
    Case("clamp-bytes", lambda x: x.to(torch.uint8).clamp(3, 4), (COUNTS,)),
    Case("clamp-int-by-float", lambda x: x.clamp(-3.5, 4.5), (COUNTS,)),
    Case("clamp-tensors", lambda x, a, b: x.clamp(a, b), (X, UNIT, UNIT + 1)),
    Case("clamp-size", lambda x: x.clamp(max=x.shape[0]), (X * 4,)),
    Case("clamp-nan", lambda x: x.clamp(-1, 1), (SPECIAL,)),
    Case("to-float", lambda x: x.float() * 0.5, (COUNTS,)),
    Case("to-int", lambda x: x.to(torch.int32), (X * 5,)),
    Case("to-bool", lambda x: x.bool(), (COUNTS,)),
    Case("bool-to-float", lambda x: (x > 0).to(torch.float64), (X,)),
    Case("to-half", lambda x: x.half(), (X,)),
    Case("type_as", lambda x, y: x.type_as(y), (COUNTS, X)),
    Case("same", lambda x: x.clone().contiguous().detach() + 0, (X,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


def test_dropout_leaves_no_node():
    case = Case("dropout", torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.ReLU()), (X,))
    assert op_types(OnnxTarget().emit(program_of(case), optimize=False)) == ["Relu"]
