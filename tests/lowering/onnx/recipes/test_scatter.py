"""Writes into parts and reductions by segments against torch's."""

import pytest
import torch

from fxopt.errors import LoweringError
from tests.lowering.onnx.recipes.harness import agrees, lowers

aten = torch.ops.aten
M = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("accumulate", [False, True])
def test_put(accumulate: bool) -> None:
    agrees(aten.put.default, M, torch.tensor([[1, 2], [-1, 0]]), torch.ones(2, 2), accumulate)


@pytest.mark.parametrize("offset", [-2, 0, 3])
def test_diagonals(offset: int) -> None:
    agrees(aten.diagonal_scatter.default, M, M.diagonal(offset) * 2, offset)


def test_strides_and_resizing() -> None:
    agrees(aten.as_strided_scatter.default, M, torch.ones(2, 3), [2, 3], [5, 2], 1)
    agrees(aten.resize.default, M, [3, 4])
    with pytest.raises(LoweringError, match="more elements"):
        agrees(aten.resize.default, M, [30])


@pytest.mark.parametrize("reduce", ["sum", "mean", "prod", "max", "min"])
@pytest.mark.parametrize("initial", [None, 2.5])
def test_segments(reduce: str, initial: float | None) -> None:
    lengths = torch.tensor([2, 0, 1, 1])
    agrees(aten.segment_reduce.default, M, reduce, lengths=lengths, initial=initial)
    offsets = torch.tensor([0, 3, 3, 4])
    agrees(aten.segment_reduce.default, M[:, 0], reduce, offsets=offsets, initial=initial)


def test_files() -> None:
    lowers(lambda x: (x.diagonal_scatter(x[:, 0]), x.put(torch.tensor([1, 5]), x[0, :2])), M)
