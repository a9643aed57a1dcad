"""Reductions, running sums and order statistics against torch."""

import pytest
import torch
from torch.nn import functional as F

from tests.lowering.onnx.harness import Case, check, check_sizes

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, 6, generator=GENERATOR)
Y = torch.randn(3, 4, 6, generator=GENERATOR)
INTS = torch.randint(-9, 9, (3, 4, 6), generator=GENERATOR)
B = X > 0.5
HOLES = torch.where(B, float("nan"), X)

ALONG = (
    "sum",
    "mean",
    "amax",
    "amin",
    "prod",
    "logsumexp",
    "var",
    "std",
    "norm",
    "argmax",
    "argmin",
    "any",
    "all",
)


@pytest.mark.parametrize("name", ALONG)
@pytest.mark.parametrize("keepdim", [False, True])
def test_along_an_axis(name, keepdim):
    check(Case(name, lambda x: getattr(torch, name)(x, dim=1, keepdim=keepdim), (X,)))


@pytest.mark.parametrize(
    "name", ["sum", "mean", "amax", "amin", "prod", "max", "min", "std", "norm", "argmax", "argmin"]
)
def test_of_everything(name):
    check(Case(name, getattr(torch, name), (X,)))


@pytest.mark.parametrize("name", ["sum", "prod", "amax", "amin", "any", "argmax", "cumsum", "max"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.int16, torch.bool])
def test_integers(name, dtype):
    if name in ("argmax", "amax", "amin", "max") and dtype is torch.bool:
        name = "sum"
    check(Case(name, lambda x: getattr(torch, name)(x, dim=1), (INTS.to(dtype),)))


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "logsumexp", "norm", "cumsum"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats(name, dtype):
    check(Case(name, lambda x: getattr(torch, name)(x, dim=1), (X.to(dtype),)))


CASES = [
    Case("sum-axes", lambda x: x.sum((0, 2)), (X,)),
    Case("sum-negative-axes", lambda x: x.sum((-1, -3), keepdim=True), (X,)),
    Case("sum-dtype", lambda x: x.sum(1, dtype=torch.float64), (X,)),
    Case("sum-bool", lambda x: x.sum(), (B,)),
    Case("nansum", lambda x: x.nansum(1), (HOLES,)),
    Case("mean-axes", lambda x: x.mean((1, 2)), (X,)),
    Case("mean-dtype", lambda x: x.mean(1, dtype=torch.float32), (INTS,)),
    Case("sum-of-rank-0", lambda x: x.sum().sum(), (X,)),
    Case("max-along", lambda x: x.max(1), (X,)),
    Case("min-along", lambda x: x.min(2, keepdim=True), (X,)),
    Case("max-values-only", lambda x: x.max(1).values, (X,)),
    Case("argmax-keepdim", lambda x: x.argmax(-1, keepdim=True), (X,)),
    Case("aminmax", lambda x: torch.aminmax(x, dim=1), (X,)),
    Case("all-of-everything", lambda x: (x.all(), x.any()), (B,)),
    Case("any-of-floats", lambda x: x.any(1), (X,)),
    Case("var-plain", lambda x: x.var((1, 2), correction=0), (X,)),
    Case("var-batch", lambda x: x.var(0), (X,)),
    Case("std_mean", lambda x: torch.std_mean(x, 1, keepdim=True), (X,)),
    Case("var_mean", lambda x: torch.var_mean(x, (0, 1)), (X,)),
    Case("norm-1", lambda x: torch.linalg.vector_norm(x, 1, 2), (X,)),
    Case("norm-inf", lambda x: torch.linalg.vector_norm(x, float("inf"), 1), (X,)),
    Case("norm-3", lambda x: torch.linalg.vector_norm(x, 3, (1, 2)), (X,)),
    Case("norm-0", lambda x: torch.linalg.vector_norm(x, 0, 1), (X.clamp(min=0),)),
    Case("norm-frobenius", lambda x: torch.linalg.matrix_norm(x), (X,)),
    Case("cumsum", lambda x: x.cumsum(0), (X,)),
    Case("cumsum-bool", lambda x: x.cumsum(-1), (B,)),
    Case("diff-none", lambda x, y: x.diff(0, 1, prepend=y), (X, Y)),
    Case("cosine_similarity-broadcast", lambda x, y: F.cosine_similarity(x, y[:, :1], dim=-1), (X, Y)),
    Case("topk-of-rank-0", lambda x: x.sum().topk(1), (X,)),
    Case("cumprod", lambda x: x.cumprod(1), (X,)),
    Case("diff", lambda x: x.diff(), (X,)),
    Case("diff-twice-prepended", lambda x, y: x.diff(2, 1, prepend=y[:, :1]), (X, Y)),
    Case("diff-bool", lambda x: x.diff(dim=1), (B,)),
    Case("topk", lambda x: x.topk(2, dim=1), (X,)),
    Case("topk-smallest", lambda x: x.topk(3, largest=False), (X,)),
    Case("sort", lambda x: x.sort(), (X,)),
    Case("sort-descending", lambda x: x.sort(1, descending=True), (X,)),
    Case("sort-batch", lambda x: x.sort(0), (X,)),
    Case("sort-stable", lambda x: x.sort(stable=True, dim=-1), (INTS,)),
    Case("argsort", lambda x: x.argsort(1), (X,)),
    Case("cummax", lambda x: x.cummax(1), (X,)),
    Case("cummin-ties", lambda x: x.cummin(-1), (INTS,)),
    Case("median-of-everything", torch.median, (X,)),
    Case("median", lambda x: x.median(1), (X[:, :3].contiguous(),)),
    Case("kthvalue", lambda x: x.kthvalue(2, 2, keepdim=True), (X,)),
    Case("cosine_similarity", lambda x, y: F.cosine_similarity(x, y, dim=2), (X, Y)),
    Case("pairwise_distance", lambda x, y: F.pairwise_distance(x[:, 0], y[:, 0]), (X, Y)),
    Case("cdist", lambda x, y: torch.cdist(x, y), (X, Y)),
    Case("logsumexp-axes", lambda x: x.logsumexp((1, 2)), (X * 50,)),
    Case("count_nonzero", lambda x: torch.count_nonzero(x, 1), (B,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


@pytest.mark.parametrize("name", ["cumprod", "cummax", "cummin", "logcumsumexp", "cumsum"])
def test_running_along_a_dynamic_axis(name):
    others = [torch.randn(2, n, 6, generator=GENERATOR) for n in (1, 5, 9)]
    check_sizes(lambda x: getattr(x, name)(1), X, {0: "batch", 1: "length"}, *others)
