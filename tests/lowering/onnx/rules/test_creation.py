"""New tensors against torch: of fixed shapes, stored; of computed shapes, made when the file runs."""

import pytest
import torch

from tests.lowering.onnx.harness import Case, check, check_sizes, op_types

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
INTS = torch.arange(12).reshape(3, 4)

CASES = [
    Case("zeros", lambda x: x + torch.zeros(3, 4)[:1], (X,)),
    Case("zeros-batch", lambda x: torch.zeros(x.shape[0], 2) + x[:, :2], (X,)),
    Case("zeros_like", lambda x: torch.zeros_like(x), (X,)),
    Case("ones_like-int", lambda x: torch.ones_like(x, dtype=torch.int32), (X,)),
    Case("new_zeros", lambda x: x.new_zeros(x.shape[0], 3, dtype=torch.bool), (X,)),
    Case("new_ones-bf16", lambda x: x.new_ones(x.shape[0], 3, dtype=torch.bfloat16), (X,)),
    Case("full", lambda x: torch.full((x.shape[0], 2), -2.5), (X,)),
    Case("full-int", lambda x: torch.full((x.shape[0], 2), 7, dtype=torch.int8), (X,)),
    Case("full-by-size", lambda x: torch.full((2,), x.shape[0]) + x[0, 0], (X,)),
    Case("full_like", lambda x: torch.full_like(x, float("-inf")), (X,)),
    Case("full-large", lambda x: torch.full((100, 100), 3.0) + x[0, 0], (X,)),
    Case("fill", lambda x: x.fill(x.sum()) if hasattr(x, "fill") else torch.full_like(x, 2.0), (X,)),
    Case("empty-then-filled", lambda x: torch.empty_like(x).zero_() + x, (X,)),
    Case("arange", lambda x: x + torch.arange(4), (X,)),
    Case("arange-batch", lambda x: torch.arange(x.shape[0]), (X,)),
    Case("arange-steps", lambda x: torch.arange(1, x.shape[0] + 5, 2), (X,)),
    Case("arange-float", lambda x: torch.arange(x.shape[0], dtype=torch.float32) * 0.5, (X,)),
    Case("arange-half", lambda x: torch.arange(x.shape[0], dtype=torch.float16), (X,)),
    Case("arange-int32", lambda x: torch.arange(x.shape[0], dtype=torch.int32), (X,)),
    Case("arange-down", lambda x: torch.arange(x.shape[0], 0, -1), (X,)),
    Case("linspace", lambda x: x + torch.linspace(0, 1, 4), (X,)),
    Case("eye", lambda x: x @ torch.eye(4), (X,)),
    Case("eye-batch", lambda x: torch.eye(x.shape[0]), (X,)),
    Case("tril_indices", lambda x: x[:, torch.tril_indices(4, 4)[0]], (X,)),
    Case("scalar_tensor", lambda x: x * torch.scalar_tensor(2.0), (X,)),
    Case("triangle-mask", lambda x: torch.ones(x.shape[0], x.shape[0]).tril().bool(), (X,)),
    Case("constant", lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]), (X,)),
    Case("number-tensor", lambda x: x * torch.tensor(3), (INTS,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


def test_a_large_constant_is_made_when_the_file_runs():
    emitted = check(Case("full", lambda x: torch.full((300, 400), 3.0) + x[0, 0], (X,)))
    assert "ConstantOfShape" in op_types(emitted)
    assert len(emitted.content) < 5000


DYNAMIC = {
    "half-steps": lambda x: torch.arange(0, x.shape[1], 0.5),
    "to-a-half": lambda x: torch.arange(x.shape[1] * 0.5),
    "shares": lambda x: torch.arange(0, 1, 1 / x.shape[1]),
    "down": lambda x: torch.arange(x.shape[1], 0, -0.25),
    "tenths": lambda x: torch.arange(0, x.shape[1] / 10, 0.1, dtype=torch.float64),
    "float-of-whole": lambda x: torch.arange(0, x.shape[1] + 2, 2, dtype=torch.float32) / x.shape[1],
    "diagonal": lambda x: x.diagonal(),
    "upper-diagonal": lambda x: (x.t() @ x).diagonal(1),
    "lower-diagonal": lambda x: (x.t() @ x).diagonal(-2),
    "eye": lambda x: torch.eye(x.shape[1]),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_of_dynamic_sizes(name):
    others = [torch.randn(3, n, generator=torch.Generator().manual_seed(n)) for n in (4, 7, 10, 30)]
    check_sizes(lambda x: (DYNAMIC[name](x), x + 1), torch.randn(3, 6), {1: "n"}, *others)
