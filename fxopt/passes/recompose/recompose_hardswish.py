"""Makes one call of a hard swish that is written out."""

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch.fx import Node

from fxopt.passes._bounds import clamp_bounds
from fxopt.passes.recompose._activation import Core, Form, core_of, recompose
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["RecomposeHardswish"]

_CLAMP = core_of("relu6", "hardtanh", "clamp")


def _clamp(low: float, high: float) -> Callable[[Node], Core | None]:
    """A clamp between two numbers as a core."""

    def core(node: Node) -> Core | None:
        found = _CLAMP(node)
        return found if found and clamp_bounds(node) == (low, high) else None

    return core


@register_pass
class RecomposeHardswish(Pass):
    """x * relu6(x + 3) / 6  ->  hardswish(x), also with clamp, hardtanh or hardsigmoid.

    Before: `%a = add(%x, 3)`, `%b = clamp(%a, 0, 6)`, `%c = mul(%x, %b)`, `%y = div(%c, 6)`. After:
    `%y = hardswish(%x)`.

    It does not fire for other bounds or another shift, for a product with another value than x, or if an inner
    value has another user.
    """

    contract = Contract.EQUIVALENT

    forms: ClassVar[tuple[Form, ...]] = (
        Form(_clamp(0, 6), {(0,): 3.0, (1,): 1.0}, {(1, 1): 1 / 6}, "aten.hardswish"),
        Form(_clamp(0, 1), {(0,): 0.5, (1,): 1 / 6}, {(1, 1): 1.0}, "aten.hardswish"),
        Form(core_of("hardsigmoid"), {(1,): 1.0}, {(1, 1): 1.0}, "aten.hardswish"),
    )
    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: x * ((x + 3).clamp(0, 6) / 6.0),
        lambda x: (x / 6 + 0.5).clamp(0, 1) * x,
        lambda x: x * F.hardsigmoid(x),
        lambda x: x * F.hardtanh(x + 2.5, 0.0, 6.0) / 6,
        lambda x, y: y * F.hardsigmoid(x),
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order."""
        recompose(rewriter, "recompose-hardswish", self.forms)
