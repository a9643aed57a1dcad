"""Makes one call of a SiLU (swish) that is written out."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.passes.recompose._activation import Core, Form, core_of, recompose
from fxopt.passes.recompose._polynomial import Reader, close
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["RecomposeSilu"]

_EXP = core_of("exp")


def _one_plus_exp(node: Node) -> Core | None:
    """`1 + exp(...)` as a core, found from its exponential."""
    core = _EXP(node)
    for user in node.users if core else ():
        found = Reader(node).read(user)
        if core and found is not None and close(found, {(0,): 1.0, (1,): 1.0}):
            return Core(user, core.operand, (node,))
    return None


@register_pass
class RecomposeSilu(Pass):
    """x * sigmoid(x)  ->  silu(x), and x / (1 + exp(-x)).

    Before: `%a = sigmoid(%x)`, `%y = mul(%x, %a)`. After: `%y = silu(%x)`.

    It does not fire for `x sigmoid(b x)` with another b than 1 (`quick_gelu` has 1.702: no single op computes
    that), for a gate of another value than x, or if an inner value has another user.
    """

    contract = Contract.EQUIVALENT

    forms: ClassVar[tuple[Form, ...]] = (
        Form(core_of("sigmoid"), {(1,): 1.0}, {(1, 1): 1.0}, "aten.silu"),
        Form(_one_plus_exp, {(1,): -1.0}, {(1, -1): 1.0}, "aten.silu"),
    )
    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: x * torch.sigmoid(x),
        lambda x: x / (1 + torch.exp(-x)),
        lambda x: torch.sigmoid(1.702 * x) * x,
        lambda x, y: x * torch.sigmoid(y),
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order."""
        recompose(rewriter, "recompose-silu", self.forms)
