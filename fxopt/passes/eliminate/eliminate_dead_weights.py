"""Removes what zeroed weights have made dead: rows, columns, channels, heads, units."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.analysis.channels import Cutter, Removal
from fxopt.passes._names import aten_name
from fxopt.passes.eliminate._branches import replace_constant_branches
from fxopt.passes.eliminate._repeating import repeat_dead_rows
from fxopt.passes.eliminate._untying import untie
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import origins_of
from fxopt.rewriting import Const, Rewriter

__all__ = ["EliminateDeadWeights"]

_NAME = "eliminate-dead-weights"


def _gated(x: torch.Tensor, w: Const, gate: Const, v: Const) -> torch.Tensor:
    """The gate's negative numbers are zeros."""
    return F.linear((F.linear(x, w) * gate.relu()).relu(), v)


@register_pass
class EliminateDeadWeights(Pass):
    """Removes rows, columns, channels, heads and units that can't influence an output.

    Before: `%a = linear(%x, w1: [64, 32], b1)`, `%b = relu(%a)`, `%c = linear(%b, w2: [10, 64], b2)`, half of the
    rows of `w1` and `b1` zero. After: the same calls with `w1: [32, 32]`, `b1: [32]`, `w2: [10, 32]`.

    Exact, whatever made the zeros. What is constant along an axis is followed from the weights on, what is
    demanded from the outputs back, both over the op table's index maps; slices that nothing demands go where
    all that is tied to them (through residual sums, joins, heads) goes too. A constant that is not zero is
    taken into the bias that follows; in front of padding one channel stays for all constant ones. A branch that
    gives the same numbers on every input goes as a whole, and with zeros the sum that it went into. Inputs and
    outputs keep their sizes. Hidden units of recurrent layers go with their rows in each gate; where layers of a
    stack lose units of their own, each becomes a call of its own. Dead rows whose places a norm or a sum counts
    are made once and repeated. What is dead but has to stay is reported with what blocks it.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_gated,)

    def run(self, rewriter: Rewriter) -> None:
        """Cuts until nothing goes: what went may have been the last that demanded something, or that varied."""
        untie(rewriter, _NAME)
        removal, before = rewriter.analysis(Removal), -1
        while rewriter.program.version != before:  # in a bisection a cut may not be allowed
            before = rewriter.program.version
            replace_constant_branches(rewriter, removal.coupling.demand.constants, _NAME)
            removal = rewriter.analysis(Removal)
            if not removal.empty:
                cutter = Cutter(rewriter, removal)
                affected = cutter.affected()
                with rewriter.rewrite(_NAME, affected[0]):
                    cutter.run(affected)
                removal = rewriter.analysis(Removal)
        repeat_dead_rows(rewriter, removal.coupling.demand.constants, _NAME)
        for blocked in rewriter.analysis(Removal).blocked:
            weight, blocker = blocked.weight, blocked.blocker
            place = _place(blocker)
            rewriter.refuse(
                blocker,
                f"{blocked.count} of {blocked.total} rows of {weight.target} are dead, blocked by {place}",
                rule=_NAME,
            )


def _place(node: Node) -> str:
    """An op and the module that it stands in."""
    if node.op == "output":
        return "the model's output"
    modules = [o.module for o in origins_of(node) if o.module]
    name = aten_name(node) or str(node.target)
    return f"{name} at {modules[0]}" if modules else name
