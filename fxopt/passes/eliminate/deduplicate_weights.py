"""Stores equal weights once."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["DeduplicateWeights"]

_SAMPLE = 8
"""Elements by which most weights differ."""


def _two(x: torch.Tensor, v: Const, w: Const) -> torch.Tensor:
    return (x * v + w) * v


@register_pass
class DeduplicateWeights(Pass):
    """f(a), g(b)  ->  f(a), g(a) for weights a and b of equal bits.

    Before: `%y = linear(%x, w: [4, 4])`, `%z = linear(%y, v: [4, 4])`, `v` a copy of `w`. After:
    `%y = linear(%x, w)`, `%z = linear(%y, w)`.

    Equal means of one dtype and shape, bit for bit: `-0.0` is not `0.0`, and NaNs of the same bits are equal. What
    is equal now need not stay so in training, so that `clean` leaves such weights alone. It does not fire on weights
    without values (on the meta device).
    """

    contract = Contract.EXACT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_two,)

    min_bytes: int = 1024
    """Of a weight: what is smaller is left alone, two layers that share it would save nothing."""

    def run(self, rewriter: Rewriter) -> None:
        """One sweep over the weights, in graph order."""
        known: dict[object, list[tuple[Node, torch.Tensor]]] = {}
        for node in [n for n in rewriter.program.graph.nodes if n.op == "get_attr"]:
            weight = rewriter.value(node)
            if weight is None or weight.is_meta or weight.numel() * weight.element_size() < self.min_bytes:
                continue
            alike = known.setdefault(_key(weight), [])
            first = next((n for n, other in alike if _equal(weight, other)), None)
            if first is None:
                alike.append((node, weight))
            else:
                with rewriter.rewrite("deduplicate-weights", node):
                    rewriter.replace(node, first)


def _key(weight: torch.Tensor) -> object:
    """What equal weights agree in."""
    sample = weight.detach()[tuple(slice(0, 2) for _ in weight.shape)].reshape(-1)[:_SAMPLE]
    return weight.dtype, tuple(weight.shape), weight.device, bytes(_bits(sample).tolist())


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(_bits(a.detach()), _bits(b.detach()))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of the elements in order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
