"""Small models for runs of data sets."""

import functools

import torch
from torch import Tensor, nn

import fxopt
from fxopt.program import Program


class Words(nn.Module):
    """Embeds ids below 10, which may be of any number, and tells of each row the mean and how many."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Takes [batch, length]; gives [batch, 3] and [batch, length]."""
        return {"mean": self.head(self.table(ids)).mean(1), "twice": ids * 2}


@functools.cache
def words(batch: int | None = None) -> Program:
    """The program; with a fixed batch if one is given."""
    torch.manual_seed(0)
    ids = torch.zeros(batch or 2, 5, dtype=torch.int64)
    shapes = {0: "batch", 1: "length"} if batch is None else None
    return fxopt.trace(Words().eval(), (ids,), dynamic_shapes=None if shapes is None else {"ids": shapes})


def ids(count: int, length: int = 5, seed: int = 0) -> Tensor:
    """Records that the model takes."""
    return torch.randint(0, 10, (count, length), generator=torch.Generator().manual_seed(seed))
