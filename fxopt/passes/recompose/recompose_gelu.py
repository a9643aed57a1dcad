"""Makes one call of a GELU that is written out."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch

from fxopt.passes.recompose._activation import Form, core_of, recompose
from fxopt.passes.recompose._polynomial import Polynomial
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["RecomposeGelu"]

_ROOT = math.sqrt(2 / math.pi)
_HALVES: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
_CUBIC: Polynomial = {(1,): _ROOT, (3,): _ROOT * 0.044715}
_TANH = {"approximate": "tanh"}


@register_pass
class RecomposeGelu(Pass):
    """0.5 * x * (1 + erf(x / sqrt(2)))  ->  gelu(x), and the tanh form.

    Before: `%a = div(%x, 1.4142135623730951)`, `%b = erf(%a)`, `%c = add(%b, 1)`, `%d = mul(%x, 0.5)`,
    `%y = mul(%d, %c)`. After: `%y = gelu(%x)`.

    However the arithmetic around `erf` is written. The tanh form is
    `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, or `x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`,
    which is the same function.

    It does not fire if a constant is rounded to fewer digits than float64 has (`0.7978845608`): that is
    another function, by 1e-12. Nor for `x sigmoid(1.702 x)`, which is no GELU but an approximation of
    another shape, nor if an inner value has another user.
    """

    contract = Contract.EQUIVALENT

    forms: ClassVar[tuple[Form, ...]] = (
        Form(core_of("erf"), {(1,): math.sqrt(0.5)}, _HALVES, "aten.gelu"),
        Form(core_of("tanh"), _CUBIC, _HALVES, "aten.gelu", _TANH),
        Form(core_of("sigmoid"), {p: 2 * c for p, c in _CUBIC.items()}, {(1, 1): 1.0}, "aten.gelu", _TANH),
    )
    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
        lambda x: 0.5 * (x * (torch.erf(x * math.sqrt(0.5)) + 1)),
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
        lambda x: x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)),
        lambda x: x * 0.5 * (1.0 + torch.erf(x / 1.5)),
        lambda x, y: y * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order."""
        recompose(rewriter, "recompose-gelu", self.forms)
