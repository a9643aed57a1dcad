"""Makes one convolution of small ones that read the same image."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.passes.merge._parallel import groups_of, replace_by_pieces, stacked_weights
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["MergeParallelConvs"]

_NAME = "merge-parallel-convs"
_CONVS = ("conv1d", "conv2d", "conv3d")


def _heads(x: torch.Tensor, v: Const, w: Const, b: Const | None) -> tuple[torch.Tensor, torch.Tensor]:
    return F.conv2d(x, v, padding=1).relu(), F.conv2d(x, w, b, padding=1)


def _strided(x: torch.Tensor, v: Const, w: Const) -> tuple[torch.Tensor, torch.Tensor]:
    return F.conv1d(x, v), F.conv1d(x, w, stride=2)


@register_pass
class MergeParallelConvs(Pass):
    """conv(x, w1, b1), conv(x, w2, b2), ...  ->  split(conv(x, cat(w1, w2, ...), cat(b1, b2, ...))).

    Before: `%a = conv2d(%x, w: [8, 16, 3, 3], b)`, `%c = conv2d(%x, v: [4, 16, 3, 3])`. After:
    `%y = conv2d(%x, w_v: [12, 16, 3, 3], b)`, `%s = split_with_sizes(%y, [8, 4], 1)`, and its parts: the heads of a
    detector, that see one feature map.

    A convolution without a bias has one of zeros. What is gained is that windows of the image are gathered once. It
    does not fire on kernels of one element, which gather nothing; on kernels, strides, paddings or dilations that
    differ; on groups; above `max_elements`, where the products take longer than the windows; or on convolutions
    whose weights are read elsewhere, computed at run time or train apart.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_heads, _strided)

    max_elements: int = 65536
    """Of the merged weight: above, convolutions are left alone."""

    def run(self, rewriter: Rewriter) -> None:
        """One sweep: what a merged convolution gives is read by others."""
        convs = [n for n in rewriter.nodes() if aten_name(n) in _CONVS and _gathers(n)]
        for layers in groups_of(rewriter, convs, _geometry, _NAME):
            root = min(layers)
            elements = sum(bind(n)["weight"].meta["val"].numel() for n in layers)  # type: ignore[attr-defined]
            if elements > self.max_elements:
                why = f"the weights have {elements} elements, more than {self.max_elements}: the windows do not show"
                rewriter.refuse(root, why, rule=_NAME)
                continue
            with rewriter.rewrite(_NAME, root):
                whole = rewriter.call(root.target, **{**bind(root), **stacked_weights(rewriter, layers)})
                replace_by_pieces(rewriter, layers, whole, _channels(root))


def _kernel(given: Mapping[str, object]) -> list[int]:
    weight = given["weight"]
    assert isinstance(weight, Node)
    return list(weight.meta["val"].shape[2:])


def _gathers(node: Node) -> bool:
    """Whether each output sees a window of several elements, of all channels."""
    given = bind(node)
    return given["groups"] == 1 and any(size != 1 for size in _kernel(given))


def _geometry(given: Mapping[str, object]) -> object:
    """What convolutions have in common that see the same windows."""
    literals = (given[name] for name in ("stride", "padding", "dilation"))
    return str([_kernel(given), *literals])


def _channels(node: Node) -> int:
    """The axis of the channels: there may be no batch."""
    rank: int = node.meta["val"].dim()
    return rank - len(_kernel(bind(node))) - 1
