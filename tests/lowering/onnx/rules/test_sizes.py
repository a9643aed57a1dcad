"""Arithmetic on sizes: as results, as other sizes, in two variables."""

import math

import pytest
import torch

from fxopt.frontend import trace
from fxopt.lowering.onnx.target import OnnxTarget
from tests.lowering.onnx.harness import Apply, Case, assert_same, check, check_sizes, opened

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))

CASES = [
    Case("size", lambda x: (x.shape[0], x * 2), (X,)),
    Case("numel", lambda x: x.numel(), (X,)),
    Case("sum-and-product", lambda x: x.shape[0] * 2 + 3, (X,)),
    Case("floor", lambda x: (x.shape[0] + 1) // 2, (X,)),
    Case("rest", lambda x: x.shape[0] % 4, (X,)),
    Case("negative-floor", lambda x: (2 - x.shape[0]) // 4, (X,)),
    Case("power", lambda x: x.shape[0] ** 2, (X,)),
    Case("largest", lambda x: torch.sym_max(x.shape[0], 4), (X,)),
    Case("smallest", lambda x: torch.sym_min(x.shape[0], 4), (X,)),
    Case("quotient", lambda x: x.shape[0] / 4, (X,)),
    Case("times-float", lambda x: x.shape[0] * 0.5, (X,)),
    Case("to-float", lambda x: torch.sym_float(x.shape[0]), (X,)),
    Case("comparison", lambda x: torch.sym_not(x.shape[0] > 3), (X,)),
    Case("scaled-by-size", lambda x: x / x.shape[0] ** 0.5, (X,)),
    Case("item", lambda x: x[:, : x.shape[1] // 2].sum() * x.shape[0], (X,)),
    Case("two-of-one", lambda x: (x.shape[0], x.shape[0]), (X,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


@pytest.mark.filterwarnings("ignore:the model goes another way")  # where the slice has one element
def test_sizes_of_two_axes():
    def function(x):
        height, width = x.shape
        return (
            x.reshape(height * width),
            x.reshape(width, height),
            x.new_zeros(height + width),
            x.flatten()[: height // 2],
        )

    axes = {"inputs_0": {0: "height", 1: "width"}}
    program = trace(Apply(function).eval(), (X,), dynamic_shapes=axes)
    artifact = opened(OnnxTarget().emit(program, optimize=False))
    for shape in ((6, 8), (3, 5), (2, 1)):
        x = torch.randn(shape)
        for got, expected in zip(artifact.run_flat([x]), program.run_flat([x]), strict=True):
            assert_same(got, expected)


def test_a_size_that_only_a_multiple_tells():
    batch = torch.export.Dim("batch", min=1, max=1000)
    exported = torch.export.export(
        Apply(lambda x: x.reshape(-1, 2, 8) + torch.arange(x.shape[0] // 2)[:, None, None]).eval(),
        (X,),
        dynamic_shapes=(({0: 2 * batch},),),
    )
    program = trace(exported)
    artifact = opened(OnnxTarget().emit(program, optimize=False))
    for rows in (2, 6, 10):
        x = torch.randn(rows, 8)
        assert_same(artifact.run_flat([x])[0], program.run_flat([x])[0])


def test_sizes_by_way_of_floats():
    def function(x):
        rows = x.shape[0]
        return x.new_zeros(math.floor(rows * 1.5), math.ceil(rows * 0.4), math.floor(rows / 4) + 1)

    check_sizes(function, X, {0: "rows"}, *(torch.zeros(n, 8) for n in (3, 4, 7, 15, 40)))
