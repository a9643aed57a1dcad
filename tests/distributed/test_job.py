"""What processes that share no folder, or some of them one, made comes to the first: each part once."""

import queue
import threading
from collections.abc import Sequence

import pytest
import torch

from fxopt.distributed.data import Piece, open_data
from fxopt.distributed.group import Alone
from fxopt.distributed.job import Job
from tests.distributed.models import ids, words

COUNT = 3


class Threads(Alone):
    """A process of three, as a thread."""

    count = COUNT
    count_sent = 0

    def __init__(
        self, rank: int, held: list[object], met: threading.Barrier, sent: "list[queue.Queue[object]]"
    ) -> None:
        super().__init__()
        self.rank, self.held, self.met, self.sent = rank, held, met, sent  # type: ignore[misc]

    def gathered(self, mine: object) -> list[object]:  # type: ignore[override]
        self.held[self.rank] = mine
        self.met.wait(10)
        found = list(self.held)
        self.met.wait(10)
        return found

    def meet(self) -> None:
        self.met.wait(10)

    def send(self, text: str, tensors: Sequence[torch.Tensor], rank: int) -> None:
        assert self.rank != rank == 0
        self.sent[self.rank].put((text, list(tensors)))
        self.count_sent += len(tensors)

    def receive(self, rank: int) -> tuple[str, list[torch.Tensor]]:
        return self.sent[rank].get(timeout=10)  # type: ignore[return-value]  # as put


@pytest.mark.parametrize(
    "made",
    [
        ([0, 3], [1, 4], [2, 5]),
        ([], [0, 1, 2, 3, 4, 5], []),
        ([0], [1, 2, 3], [1, 2, 3, 4, 5]),
        ([0, 1, 2, 3, 4, 5], [5], [0]),
    ],
    ids=["apart", "one has all", "two see the same", "the first has all"],
)
def test_each_part_once(made: tuple[list[int], ...]) -> None:
    program, x = words(), ids(12)
    held: list[object] = [None] * COUNT
    met, sent = threading.Barrier(COUNT), [queue.Queue[object]() for _ in range(COUNT)]
    groups = [Threads(rank, held, met, sent) for rank in range(COUNT)]
    outcomes: list[object] = [None] * COUNT

    def run(rank: int) -> None:
        dataset = open_data({"ids": x}, program.signature, 2)
        job = Job(dataset, program, groups[rank], None)
        for shard in made[rank]:
            pieces: list[Piece] = []
            for step in job.shards[shard]:
                pieces += dataset.run(program, *dataset.bounds(step))
            job.put(shard, pieces)
        outcomes[rank] = job.finish().outputs

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(q.empty() for q in sent)
    assert sum(g.count_sent for g in groups) == 2 * len(set().union(*made) - set(made[0])), "of two outputs"
    expected = program(x)
    assert isinstance(outcomes[0], dict)
    assert all(torch.allclose(outcomes[0][name], expected[name]) for name in expected)
    assert outcomes[1:] == [None, None]
