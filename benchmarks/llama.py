"""A transformer of Llama 2's shape (Touvron et al., arXiv:2307.09288) in plain torch, of any size, on `meta` if asked."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["LLAMA_2_70B", "Shape", "transformer"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer.

    Attributes:
        layers: how many.
        width: of the residual stream.
        heads: of queries.
        shared: key and value heads; each serves `heads / shared` query heads.
        hidden: units of the feed-forward part.
        words: in the vocabulary.
    """

    layers: int
    width: int
    heads: int
    shared: int
    hidden: int
    words: int


LLAMA_2_70B = Shape(layers=80, width=8192, heads=64, shared=8, hidden=28672, words=32000)


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, size = shape, shape.width // shape.heads
        self.before_attention, self.before_hidden = nn.RMSNorm(shape.width), nn.RMSNorm(shape.width)
        self.q = nn.Linear(shape.width, shape.width, bias=False)
        self.k = nn.Linear(shape.width, shape.shared * size, bias=False)
        self.v = nn.Linear(shape.width, shape.shared * size, bias=False)
        self.o = nn.Linear(shape.width, shape.width, bias=False)
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        y = self.before_attention(x)
        q, k, v = (self._heads(p(y)) for p in (self.q, self.k, self.v))
        q, k = (t * cos + _turned(t) * sin for t in (q, k))
        times = self.shape.heads // self.shape.shared
        k, v = (t[:, :, None].expand(-1, -1, times, -1, -1).flatten(1, 2) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        y = self.before_hidden(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (-1, self.shape.width // self.shape.heads)).transpose(1, 2)


def _turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], -1)


class _Transformer(nn.Module):
    def __init__(self, shape: Shape, length: int) -> None:
        super().__init__()
        size = shape.width // shape.heads
        self.embed = nn.Embedding(shape.words, shape.width)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.words, bias=False)
        turns = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size).repeat(2)
        self.register_buffer("cos", turns.cos())
        self.register_buffer("sin", turns.sin())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


def transformer(
    shape: Shape, length: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The model, ids [batch, length] to logits [batch, length, words]."""
    with torch.device(device):
        return _Transformer(shape, length).to(dtype).eval()
