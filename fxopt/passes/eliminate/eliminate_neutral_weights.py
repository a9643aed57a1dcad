"""Takes away biases of zeros and scales of ones."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.passes._uniform import uniform_number
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["EliminateNeutralWeights"]

_PRODUCTS = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)
_NEUTRAL: dict[str, dict[str, int]] = {
    **{name: {"bias": 0} for name in _PRODUCTS},
    "group_norm": {"weight": 1, "bias": 0},
}
"""By op: its optional weights, and the number that changes nothing."""


def _zero_bias(x: torch.Tensor, w: Const) -> torch.Tensor:
    return F.linear(x, w, torch.zeros_like(w[:, 0]))


def _plain_norm(x: torch.Tensor) -> torch.Tensor:
    return F.group_norm(x, 1, torch.ones(x.shape[1]), torch.zeros(x.shape[1]))


@register_pass
class EliminateNeutralWeights(Pass):
    """linear(x, w, zeros)  ->  linear(x, w), group_norm(x, n, ones, zeros)  ->  group_norm(x, n).

    Before: `%y = linear(%x, w, b)`, `b` all zeros. After: `%y = linear(%x, w)`.

    Linear layers, convolutions and group norms, whose bias or scale is a call of its own in some target. Layer
    and batch norms keep theirs: every kernel takes them, and `smooth-quant` moves scales into them. A result
    of `-0.0` may become `0.0` or the other way about, hence it is not exact.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_zero_bias, _plain_norm)

    def run(self, rewriter: Rewriter) -> None:
        """One sweep."""
        for node in rewriter.nodes():
            neutral = _NEUTRAL.get(aten_name(node))
            if neutral is None:
                continue
            given = bind(node)
            gone = [
                n
                for n, number in neutral.items()
                if uniform_number(rewriter, given[n], weights=True) == number
            ]
            if gone:
                with rewriter.rewrite("eliminate-neutral-weights", node):
                    arguments = {**given, **dict.fromkeys(gone)}
                    rewriter.replace(node, rewriter.call(node.target, **arguments))
