"""fold-embedding-projection: a table is projected once, where that makes nothing larger."""

import torch
import torch.nn.functional as F

from fxopt.passes.fold.fold_embedding_projection import FoldEmbeddingProjection
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, unchanged

FOLD = FoldEmbeddingProjection()
IDS = torch.tensor([[0, 3], [1, 2]])


def projected(ids: torch.Tensor, table: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.linear(F.embedding(ids, table), w, b)


def test_before_and_after():
    before = program(projected, IDS, table=rand(10, 8), w=rand(4, 8), b=rand(4), dynamic=True)
    after = applied(FOLD, before).program
    assert calls(after) == ["embedding"]
    assert [list(w.shape) for w in after.weights.values()] == [[10, 4]]


def test_without_a_bias():
    before = program(
        lambda ids, table, w: F.linear(F.embedding(ids, table), w), IDS, table=rand(10, 8), w=rand(4, 8)
    )
    assert calls(applied(FOLD, before).program) == ["embedding"]


def test_as_large_as_before_is_small_enough():
    """[4, 3] by [6, 3]: 24 and 12 + 18 elements."""
    assert calls(
        applied(FOLD, program(projected, IDS, table=rand(4, 3), w=rand(6, 3), b=rand(6))).program
    ) == ["embedding"]
    before = program(projected, IDS, table=rand(6, 2), w=rand(3, 2), b=rand(3))
    assert calls(applied(FOLD, before).program) == ["embedding"]


def test_a_table_that_would_grow():
    before = program(projected, IDS, table=rand(10, 4), w=rand(8, 4), b=rand(8))
    assert unchanged(FOLD, before) == ["the projected table has 80 elements, the two have 72"]


def test_a_table_that_is_used_as_it_is_too():
    def function(ids, table, w):
        return F.linear(F.embedding(ids, table), w), table.sum()

    before = program(function, IDS, table=rand(10, 8), w=rand(4, 8))
    assert unchanged(FOLD, before) == ["the table or the weight has another user, for which it stays"]


def test_a_bias_with_rows_of_its_own():
    before = program(projected, IDS, table=rand(10, 8), w=rand(4, 8), b=rand(2, 4))
    assert unchanged(FOLD, before) == ["the bias has rows of its own, added by where a token stands"]


def test_rows_with_another_user():
    def function(ids, table, w):
        rows = F.embedding(ids, table)
        return rows, F.linear(rows, w)

    [why] = unchanged(FOLD, program(function, IDS, table=rand(10, 8), w=rand(4, 8)))
    assert "another user" in why


def test_drawn_programs():
    check_pass(FOLD, examples=25, targets=(), min_fired=0.02)
