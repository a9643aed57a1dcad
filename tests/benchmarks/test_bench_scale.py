"""The page of plans for many devices, of a small model."""

import pytest
import torch

from benchmarks.bench_scale import PAGE, large, page
from benchmarks.llama import LLAMA_2_70B, Shape, transformer
from fxopt.passes.partition import run_together, shards
from tests.passes.helpers import program

ROWS = ("| 8", "| 1", "| 3", "| 6", "| 2", "| 5")
SMALL = Shape(layers=2, width=32, heads=4, shared=2, hidden=48, words=20)


def test_the_shape_is_that_of_70_billion_parameters() -> None:
    model = transformer(LLAMA_2_70B, 16, device="meta", dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(69e9, rel=0.01)


def test_what_does_not_fit_one_device_is_shared_or_cut() -> None:
    whole = large(SMALL, 8)
    memory = int(0.8 * sum(w.nbytes for w in whole.weights.values()))
    lines = page(whole, [2, 4], memory).splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith(("| 2 ", "| 4 "))]
    assert [row[1:3] for row in rows] == [[n, aim] for n in ("2", "4") for aim in ("sequences", "latency")]
    assert all(float(best[8]) >= float(fast[8]) for best, fast in zip(rows[::2], rows[1::2], strict=True))
    assert all(float(best[5]) >= float(fast[5]) for best, fast in zip(rows[::2], rows[1::2], strict=True))
    for row in rows:
        sharers, stages, replicas = map(int, row[3].split(" x "))
        assert sharers * stages > 1
        assert sharers * stages * replicas <= int(row[1])


def test_the_page_in_the_docs_is_one_that_it_writes() -> None:
    lines = PAGE.read_text().splitlines()
    written = page(large(SMALL, 8), [2]).splitlines()
    fixed = ("#", "| devices", "|---", "What", "A way", "For each", "Replicas", "devices that")
    assert [x for x in lines if x.startswith(fixed)] == [x for x in written if x.startswith(fixed)]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:3] in ROWS]
    assert [(int(row[0]), row[1]) for row in rows] == [
        (n, aim) for n in (8, 16, 32, 64, 128, 256, 512) for aim in ("sequences", "latency")
    ]
    for row in rows:
        sharers, stages, replicas = map(int, row[2].split(" x "))
        assert sharers * stages * replicas <= int(row[0])
        assert float(row[6].removesuffix(" GB")) <= 80


def test_its_shards_give_what_it_gives() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (1, 8))
    whole = program(transformer(SMALL, 8), ids)
    (found,), (expected,) = run_together(shards(whole, 2), [ids]), whole.run_flat([ids])
    assert isinstance(found, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    assert torch.allclose(found, expected, atol=1e-5)
