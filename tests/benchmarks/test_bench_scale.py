"""The page of plans for many devices, of a small model."""

import pytest
import torch

from benchmarks.bench_scale import large, page
from benchmarks.llama import LLAMA_2_70B, Shape, transformer
from fxopt.passes.partition import run_together, shards
from tests.passes.helpers import program

SMALL = Shape(layers=2, width=32, heads=4, shared=2, hidden=48, words=20)


def test_the_shape_is_that_of_70_billion_parameters() -> None:
    model = transformer(LLAMA_2_70B, 16, device="meta", dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(69e9, rel=0.01)


def test_what_does_not_fit_one_device_is_shared_or_cut() -> None:
    whole = large(SMALL, 8)
    memory = int(0.8 * sum(w.nbytes for w in whole.weights.values()))
    lines = page(whole, [2, 4], memory).splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith(("| 2 ", "| 4 "))]
    assert [row[1] for row in rows] == ["2", "4"]
    for row in rows:
        sharers, stages, replicas = map(int, row[2].split(" x "))
        assert sharers * stages > 1
        assert sharers * stages * replicas <= int(row[1])


def test_its_shards_give_what_it_gives() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (1, 8))
    whole = program(transformer(SMALL, 8), ids)
    (found,), (expected,) = run_together(shards(whole, 2), [ids]), whole.run_flat([ids])
    assert isinstance(found, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    assert torch.allclose(found, expected, atol=1e-5)
