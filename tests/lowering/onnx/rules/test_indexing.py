"""Gather, scatter and indexing with tensors against torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.lowering.onnx.harness import Case, check

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, 6, generator=GENERATOR)
IDS = torch.randint(0, 4, (3, 5), generator=GENERATOR)
NEGATIVE = torch.randint(-4, 4, (3, 5), generator=GENERATOR)
ROWS = torch.randint(0, 3, (3, 5), generator=GENERATOR)
MASK = X > 0
PLACES = torch.randint(0, 4, (3, 2, 6), generator=GENERATOR)
VALUES = torch.randn(3, 2, 6, generator=GENERATOR)
VECTOR = torch.tensor([2, 0, 3])


def put(x, indices, values, accumulate=False):
    return torch.ops.aten.index_put(x, list(indices), values, accumulate)


CASES = [
    Case("embedding", nn.Embedding(4, 7, padding_idx=0), (IDS,), ops=("Gather",)),
    Case("embedding-half", nn.Embedding(4, 7).half(), (IDS,)),
    Case("one_hot", lambda x: F.one_hot(x, 5), (IDS,), ops=("OneHot",)),
    Case("index_select", lambda x: x.index_select(1, VECTOR), (X,)),
    Case("gather", lambda x, i: x.gather(1, i), (X, PLACES), ops=("GatherElements",)),
    Case("take_along_dim", lambda x, i: torch.take_along_dim(x, i[:, :, :1], 1), (X, PLACES), fixed=True),
    Case("take", lambda x, i: torch.take(x, i), (X, IDS), fixed=True),
    Case("scatter", lambda x, i, v: x.scatter(1, i, v), (X, PLACES, VALUES)),
    Case("scatter-larger-source", lambda x, i, v: x.scatter(1, i[:, :1], v), (X, PLACES, VALUES)),
    Case("scatter-value", lambda x, i: x.scatter(1, i, 7.0), (X, PLACES)),
    Case("scatter_add", lambda x, i, v: x.scatter_add(1, i, v), (X, PLACES, VALUES)),
    Case("scatter_reduce", lambda x, i, v: x.scatter_reduce(1, i, v, "amax"), (X, PLACES, VALUES)),
    Case("scatter_reduce-prod", lambda x, i, v: x.scatter_reduce(1, i, v, "prod"), (X, PLACES, VALUES)),
    Case("index_add", lambda x: x.index_add(1, VECTOR, x[:, 1:]), (X,)),
    Case("index_add-alpha", lambda x: x.index_add(1, VECTOR, x[:, 1:], alpha=2), (X,)),
    Case("index_copy", lambda x: x.index_copy(1, VECTOR, x[:, 1:]), (X,)),
    Case("index_fill", lambda x: x.index_fill(2, VECTOR, -1.0), (X,)),
    Case("index-first", lambda x: x[torch.tensor([0, 0, -1])], (X,)),
    Case("index-second", lambda x: x[:, VECTOR], (X,)),
    Case("index-matrix", lambda x, i: x[:, i], (X, IDS), fixed=True),
    Case("index-negative", lambda x: x[:, torch.tensor([-1, -4])], (X,)),
    Case("index-pair", lambda x, r, i: x[r, i], (X, ROWS, NEGATIVE), fixed=True),
    Case("index-pair-apart", lambda x, i: x[torch.arange(3)[:, None], :, i], (X, IDS), fixed=True),
    Case("index-pair-later", lambda x: x[:, VECTOR, VECTOR], (X,)),
    Case("index-broadcast", lambda x: x[:, VECTOR[:, None], VECTOR], (X,)),
    Case("index-triple", lambda x: x[torch.zeros(3, dtype=torch.long), VECTOR, VECTOR], (X,)),
    Case("index-by-batch", lambda x: x[torch.arange(x.shape[0]), :, VECTOR[:1]], (X,)),
    Case("index-last-tokens", lambda x, n: x[torch.arange(x.shape[0]), n[:, 0]], (X, IDS)),
    Case("put", lambda x: put(x, (torch.tensor([0, 2]),), x[:2] * 0), (X,), fixed=True),
    Case("put-second", lambda x: put(x, (None, VECTOR), x[:, 1:]), (X,)),
    Case("put-broadcast", lambda x: put(x, (None, VECTOR), torch.tensor(5.0)), (X,)),
    Case(
        "put-apart",
        lambda x: put(x, (torch.tensor([0, 1]), None, torch.tensor([1, 2])), x[:2, :, 0]),
        (X,),
        fixed=True,
    ),
    Case(
        "put-accumulate", lambda x: put(x, (None, torch.tensor([1, 1, 2])), x[:, 1:], accumulate=True), (X,)
    ),
    Case("put-mask", lambda x, m: put(x, (m,), torch.tensor(-1.0)), (X, MASK)),
    Case("put-row-mask", lambda x, m: put(x, (m[:, 0, 0],), torch.tensor(2.0)), (X, MASK)),
    Case("masked_scatter", lambda x, m: x.masked_scatter(m, x.flip(0)), (X, MASK)),
    Case("bucketize", lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5])), (X,)),
    Case("searchsorted", lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 0.5]), x, right=True), (X,)),
    Case("searchsorted-rows", lambda x: torch.searchsorted(x.sort().values, x), (X,)),
    Case("take_along_dim-flat", lambda x, i: torch.take_along_dim(x, i), (X, IDS), fixed=True),
    Case("scatter_add-half", lambda x, i, v: x.scatter_add(1, i, v), (X.half(), PLACES, VALUES.half())),
    Case("unique", lambda x: torch.unique(x), (IDS,)),
    Case("diagonal", lambda x: x[:, :, :4].diagonal(0, 1, 2), (X,)),
    Case("diagonal-above", lambda x: x.diagonal(2, 1, 2), (X,)),
    Case("diagonal-below", lambda x: x.diagonal(-1, 2, 1), (X,)),
    Case("trace", lambda x: x[0, :, :4].trace(), (X,)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool])
def test_other_dtypes(dtype):
    def function(x, i, v):
        return x.gather(1, i), x.scatter(1, i, v), x[:, VECTOR, VECTOR]

    check(Case("gather", function, ((X * 3).to(dtype), PLACES, (VALUES * 3).to(dtype))))


DYNAMIC = [
    Case("nonzero", lambda x: x.nonzero(), (MASK,)),
    Case("where-positions", lambda x: torch.where(x > 0), (X,)),
    Case("masked_select", lambda x, m: x.masked_select(m), (X, MASK)),
    Case("mask", lambda x, m: x[m], (X, MASK)),
    Case("mask-of-rows", lambda x, m: x[m[:, :, 0]], (X, MASK)),
    Case("mask-and-index", lambda x: x[:, X[0, :, 0] > 0, VECTOR[:1]], (X,)),
    Case("mask-then-size", lambda x, m: x[m] * x[m].shape[0], (X, MASK)),
    Case("put-values-by-mask", lambda x, m: put(x, (m,), x[m] * 2), (X, MASK)),
]


# Torch's guards keep the batch from being mistaken for a broadcast 1.
@pytest.mark.filterwarnings("ignore:the model goes another way")
@pytest.mark.parametrize("case", DYNAMIC, ids=str)
def test_sizes_that_depend_on_values(case):
    check(case)
