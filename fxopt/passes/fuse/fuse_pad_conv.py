"""Lets a convolution pad by itself."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["FusePadConv"]

_RANKS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
_NAME = "fuse-pad-conv"


def _motif(x: torch.Tensor, w: Const) -> torch.Tensor:
    return F.conv2d(F.pad(x, (1, 1, 2, 2)), w)


def _one_sided(x: torch.Tensor, w: Const) -> torch.Tensor:
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), w)


@register_pass
class FusePadConv(Pass):
    """conv(pad(x, [1, 1, 1, 1]), w)  ->  conv(x, w, padding=[1, 1]).

    Before: `%p = pad(%x, [1, 1, 1, 1])`, `%y = conv2d(%p, w, b)`. After:
    `%y = conv2d(%x, w, b, padding=[1, 1])`.

    It does not fire if something other than zeros is padded (ones, or the image itself), if an axis is padded
    by more on one side than on the other (which a convolution does not), if channels or the batch are padded,
    or if an axis is cut.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_motif, _one_sided)

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order."""
        for node in rewriter.nodes():
            rank = _RANKS.get(aten_name(node))
            pad = node.args[0] if rank else None
            if rank is None or not isinstance(pad, Node) or aten_name(pad) not in ("pad", "constant_pad_nd"):
                continue
            padding = bind(pad)
            why, both = _objection(rank, padding)
            if why:
                rewriter.refuse(node, why, rule=_NAME)
                continue
            given = bind(node)
            own = given["padding"]
            assert isinstance(own, (list, tuple))
            if not all(isinstance(p, int) for p in own):
                rewriter.refuse(node, "its own padding varies", rule=_NAME)
                continue
            total = [p + q for p, q in zip(own, both, strict=True)]
            with rewriter.rewrite(_NAME, node):
                made = rewriter.call(node.target, **{**given, "input": padding["self"], "padding": total})
                rewriter.replace(node, made)


def _objection(rank: int, padding: dict[str, object]) -> tuple[str, list[int]]:
    """Why a convolution can't pad so, empty if it can, and by how much it has to, axis by axis."""
    pads, value = padding["pad"], padding["value"]
    assert isinstance(pads, (list, tuple))
    if padding.get("mode", "constant") != "constant":
        return f"it pads by mode {padding['mode']}", []
    if value is not None and value != 0:
        return f"it pads with {value}", []
    if not all(isinstance(p, int) and p >= 0 for p in pads):
        return "an axis is cut, or padded by a size that varies", []
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]
    if any(pair != (0, 0) for pair in pairs[rank:]):
        return "channels or the batch are padded", []
    pairs = (pairs + [(0, 0)] * rank)[:rank]
    uneven = next((pair for pair in pairs if pair[0] != pair[1]), None)
    if uneven:
        return f"an axis is padded by {uneven[0]} before and {uneven[1]} after", []
    return "", [before for before, _ in reversed(pairs)]
