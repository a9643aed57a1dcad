"""Makes one call of a Mish that is written out."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes.recompose._activation import Core, Form, core_of, recompose
from fxopt.passes.recompose._polynomial import Polynomial, Reader, close
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["RecomposeMish"]

_TANH, _EXP = core_of("tanh"), core_of("exp")
_SOFTPLUS, _LOG1P, _LOG = core_of("softplus"), core_of("log1p"), core_of("log")


def _tanh_of_softplus(node: Node) -> Core | None:
    """`tanh(log(1 + exp(...)))`, with softplus or its parts."""
    tanh = _TANH(node)
    if tanh is None:
        return None
    inner = _softplus(tanh.operand)
    return inner and Core(node, inner.operand, (*inner.between, inner.node))


def _softplus(node: Node) -> Core | None:
    found = _SOFTPLUS(node)
    if found is not None:
        bound = bind(node)
        # above 20 it is the identity, where tanh is 1 in every precision
        return found if (bound["beta"], bound["threshold"]) == (1, 20) else None
    for log, plus_one in ((_LOG1P, False), (_LOG, True)):
        found = log(node)
        if found is not None:
            return _of_exp(found, plus_one=plus_one)
    return None


def _of_exp(log: Core, *, plus_one: bool) -> Core | None:
    """The core of log's operand if it is an exponential, or one more than that."""
    for exp in (log.operand, *log.operand.all_input_nodes):
        core = _EXP(exp)
        found = Reader(exp).read(log.operand) if core else None
        wanted: Polynomial = {(0,): 1.0, (1,): 1.0} if plus_one else {(1,): 1.0}
        if core and found is not None and close(found, wanted):
            return Core(log.node, core.operand, tuple({exp, log.operand}))
    return None


@register_pass
class RecomposeMish(Pass):
    """x * tanh(softplus(x))  ->  mish(x), and x * tanh(log(1 + exp(x))).

    Before: `%a = softplus(%x)`, `%b = tanh(%a)`, `%y = mul(%x, %b)`. After: `%y = mish(%x)`.

    It does not fire for a softplus of another slope or threshold than the usual 1 and 20, for a product with
    another value than x, or if an inner value has another user.
    """

    contract = Contract.EQUIVALENT

    forms: ClassVar[tuple[Form, ...]] = (Form(_tanh_of_softplus, {(1,): 1.0}, {(1, 1): 1.0}, "aten.mish"),)
    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: x * torch.tanh(F.softplus(x)),
        lambda x: torch.tanh(torch.log(1 + torch.exp(x))) * x,
        lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
        lambda x: x * torch.tanh(F.softplus(x, 2.0)),
        lambda x, y: y * torch.tanh(F.softplus(x)),
    )

    def run(self, rewriter: Rewriter) -> None:
        """In graph order."""
        recompose(rewriter, "recompose-mish", self.forms)
