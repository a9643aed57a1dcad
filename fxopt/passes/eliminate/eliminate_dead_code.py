"""Removes calls whose results nothing uses."""

from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["EliminateDeadCode"]


@register_pass
class EliminateDeadCode(Pass):
    """Removes calls without users that have no effect, and the weights that only they used.

    Before: `%a = relu(%x)`, `%b = tanh(%x)`, `return %b`. After: `%b = tanh(%x)`, `return %b`.

    Purity is the op table's, not torch.fx's: dead attention, LSTM and eval dropout go, a user's op that
    writes stays.
    """

    contract = Contract.EXACT

    def run(self, rewriter: Rewriter) -> None:
        """What a dead call read goes with it, if it has no other use and no effect."""
        for node in [*rewriter.nodes(), *rewriter.program.weight_nodes()]:
            if not node._erased and not node.users:
                with rewriter.rewrite("eliminate-dead-code", node):
                    rewriter.remove_dead(node)
