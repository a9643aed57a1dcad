"""Scatters with every reduction, with and without what stood there, also into numbers."""

import pytest
import torch

from tests.lowering.onnx.harness import Case, check

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
AT = torch.tensor([[0, 2, 0, 1, 1, 3], [3, 3, 2, 0, 1, 1]])
SOURCE = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("reduce", ["sum", "prod", "mean", "amax", "amin"])
@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_scatter_reduce(reduce: str, include: bool, dtype: torch.dtype) -> None:
    x, source = (X, SOURCE) if dtype.is_floating_point else ((X * 9).long(), (SOURCE * 9).long())
    function = lambda x, at, s: x.scatter_reduce(0, at, s, reduce, include_self=include)  # noqa: E731
    check(Case("scatter", function, (x, AT, source), fixed=True))


@pytest.mark.parametrize("reduce", ["prod", "mean", "amax", "amin"])
@pytest.mark.parametrize("include", [True, False])
def test_index_reduce(reduce: str, include: bool) -> None:
    at = torch.tensor([0, 2, 2])
    function = lambda x, s: x.index_reduce(0, at, s, reduce, include_self=include)  # noqa: E731
    check(Case("index", function, (X, X[:3] * 2), fixed=True))


def test_numbers_are_vectors_of_one_element() -> None:
    at = torch.tensor([0])
    x, one = torch.tensor(2.0), torch.tensor([3.0])
    check(Case("add", lambda x, s: x.index_add(0, at, s[0]), (x, one), fixed=True))
    check(Case("fill", lambda x: x.index_fill(0, at, 7.0), (x,), fixed=True))
    check(Case("scatter", lambda x, s: x.scatter(0, at[0], s[0]), (x, one), fixed=True))
