"""Tables of a vocabulary: shared by rows, the same numbers, the same refusal of what is no word."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.errors import InputError
from fxopt.ops.collectives import side_by_side
from fxopt.passes.partition import Link, run_together
from fxopt.passes.partition._times import seconds_of
from fxopt.passes.partition._vocabulary import Vocabulary
from fxopt.passes.partition.shard_linears import ShardLinears
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.rewriting import Rewriter
from fxopt.verification import subject_of, verify_runs
from fxopt.verification.subjects import Subject
from tests.passes.helpers import calls, program, rand


class Words(nn.Module):
    """A table, a layer, and logits, by the same table if it is tied."""

    def __init__(self, words: int, width: int = 8, *, tied: bool = False, bias: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width, padding_idx=0)
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=bias)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        return self.head(x + self.down(self.up(self.norm(x)).relu())).tanh()


def shares(whole: Program, ranks: int, vocabulary: int = 100) -> list[Program]:
    """The programs of all ranks."""
    return [
        PassManager.of([ShardLinears(ranks=ranks, rank=rank, vocabulary=vocabulary)]).run(whole).program
        for rank in range(ranks)
    ]


def together(parts: list[Program], ids: torch.Tensor) -> torch.Tensor:
    (found,) = run_together(parts, [ids])
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("words", "tied", "bias"), [(12, False, True), (13, True, True), (11, True, False)])
def test_the_same_numbers(words: int, tied: bool, bias: bool, ranks: int) -> None:
    torch.manual_seed(0)
    ids = torch.arange(words).reshape(1, -1)
    whole = program(Words(words, tied=tied, bias=bias).eval(), ids)
    parts = shares(whole, ranks)
    report = verify_runs(subject_of(whole), Subject(whole.signature, lambda t: run_together(parts, t)))
    assert report.ok, report.reason
    torch.testing.assert_close(together(parts, ids), whole(ids))
    share = -(-words // ranks)
    assert all(p.weights["table.weight"].shape == (share, 8) for p in parts)
    assert [n.name for n in parts[0].calls()] == [n.name for n in parts[-1].calls()]
    if tied:
        assert "head.weight" not in parts[0].weights
    assert calls(parts[0]).count("all_gather") == 1


@pytest.mark.parametrize("word", [-1, 13, 14])
def test_what_is_no_word_is_none_in_every_process(word: int) -> None:
    whole = program(Words(13).eval(), torch.zeros(1, 3, dtype=torch.int64))
    ids = torch.tensor([[0, word, 1]])
    failures: list[InputError] = []

    def attempt(part: Program) -> None:
        try:
            part.attempt([ids])
        except InputError as error:
            failures.append(error)

    parts = shares(whole, 2)
    side_by_side([lambda p=p: attempt(p) for p in parts])  # type: ignore[misc]
    assert len(failures) == 2


def test_small_tables_stay_whole() -> None:
    whole = program(Words(12).eval(), torch.zeros(1, 3, dtype=torch.int64))
    size = 12 * 8 * 4
    assert shares(whole, 2, size)[0].weights["table.weight"].shape == (6, 8)
    assert shares(whole, 2, size + 1)[0].weights["table.weight"].shape == (12, 8)


def test_a_table_alone() -> None:
    table = nn.Sequential(nn.Embedding(10, 4)).eval()
    ids = torch.arange(10)
    whole = program(table, ids)
    assert torch.equal(together(shares(whole, 2), ids), whole(ids))  # type: ignore[arg-type]


def test_what_is_read_in_another_way_stays_whole() -> None:
    def net(ids: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, w).sum() + (x * w).sum()

    whole = program(net, torch.arange(3), rand(10, 4), w=rand(10, 4))
    assert shares(whole, 2)[0].weights["w"].shape == (10, 4)


def test_logits_that_a_product_reads_stay_whole() -> None:
    def net(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, w).softmax(-1)
        return y @ y.mT

    whole = program(net, rand(3, 4), w=rand(10, 4))
    assert shares(whole, 2)[0].weights["w"].shape == (10, 4)


def test_a_bias_that_is_no_weight_stays_whole() -> None:
    def net(x: torch.Tensor, bias: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w, bias)

    whole = program(net, rand(3, 4), rand(10), w=rand(10, 4))
    assert shares(whole, 2)[0].weights["w"].shape == (10, 4)


def test_a_weight_that_nothing_reads_is_no_table() -> None:
    whole = program(nn.Sequential(nn.Embedding(10, 4)).eval(), torch.arange(10))
    (table,), (lookup,) = whole.weight_nodes(), whole.calls()
    rewriter = Rewriter(whole)
    with rewriter.rewrite("unread", lookup):
        rewriter.constant(rand(10, 4), name="unread")
        assert Vocabulary(rewriter, (), 0).tables == [table]


def test_a_table_whose_columns_are_shared_is_not_cut_twice() -> None:
    net = nn.Sequential(
        nn.Embedding(10, 4), nn.ReLU(), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)
    ).eval()
    ids = torch.arange(10)
    whole = program(net, ids)
    parts = shares(whole, 2)
    torch.testing.assert_close(together(parts, ids), whole(ids))
    assert parts[0].weights["0.weight"].shape == (10, 2)
    assert Vocabulary(Rewriter(whole), {"0.weight", "4.weight"}, 0).tables == []
    assert [str(n.target) for n in Vocabulary(Rewriter(whole), (), 0).tables] == ["0.weight", "4.weight"]


def test_a_gathering_goes_round_once() -> None:
    part = shares(program(Words(12).eval(), torch.zeros(2, 3, dtype=torch.int64)), 2)[0]
    (node,) = (n for n in part.calls() if n.target is torch.ops.fxopt.all_gather.default)
    assert seconds_of(part, None, Link(1e3, 0.5))[node] == pytest.approx(0.5 + 2 * 3 * 6 * 4 / 1e3)
