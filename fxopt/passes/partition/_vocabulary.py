"""Tables of a vocabulary, shared by rows: each process looks up its own words, and makes its own part of the logits.

A row of another process is looked up as zeros, and the sum of all is the whole (Shoeybi et al., Megatron-LM,
arXiv:1909.08053). Where the processes do not divide the rows the last share is filled up with zeros.
"""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops import QuantRole, all_gather, all_reduce, bind, op_info
from fxopt.rewriting import Rewriter

__all__ = ["Vocabulary"]

_LOOKUP, _LINEAR = torch.ops.aten.embedding.default, torch.ops.aten.linear.default


class Vocabulary:
    """The tables of a program that are shared.

    Args:
        rewriter: its program.
        held: weights of which each process has a share already.
        least: bytes of a table from which on it is shared.
    """

    def __init__(self, rewriter: Rewriter, held: Collection[str], least: int) -> None:
        self.rewriter = rewriter
        self.tables = [
            n
            for n in rewriter.program.weight_nodes()
            if str(n.target) not in held and self._is_table(n, least)
        ]

    def _is_table(self, node: Node, least: int) -> bool:
        value = node.meta["val"]
        is_large = value.dim() == 2 and value.numel() * value.element_size() >= least
        return is_large and bool(node.users) and all(_reads_rows(user, node) for user in node.users)

    def users(self) -> list[Node]:
        """The calls that read a table."""
        return [user for table in self.tables for user in table.users]

    def share(self, rank: int, ranks: int) -> None:
        """Cuts all tables, inside a rewrite."""
        for table in self.tables:
            rows = table.meta["val"].shape[0]
            size = -(-rows // ranks)
            users = list(table.users)
            with self.rewriter.instead(users[0]):
                share = self._rows(table, rank * size, size)
            for user in users:
                with self.rewriter.instead(user):
                    made = (
                        self._lookup(user, share, rank * size, size, rows, ranks)
                        if user.target is _LOOKUP
                        else self._part(user, share, rank * size, size, rows, ranks)
                    )
                self.rewriter.replace(user, made)

    def _rows(self, node: Node, start: int, size: int) -> Node:
        """So many rows of a weight from one on, zeros where there are no more."""
        tensor = self.rewriter.value(node)
        assert tensor is not None
        own = tensor.detach()[start : start + size]
        filled = F.pad(own, [0, 0] * (own.dim() - 1) + [0, size - own.shape[0]])
        return self.rewriter.constant(filled.clone(), name=str(node.target), successor_of=node)

    def _lookup(self, node: Node, share: Node, start: int, size: int, rows: int, ranks: int) -> Node:
        """The words of this process, zeros for others; what is no word is none in all processes."""
        call, words = self.rewriter.call, bind(node)["indices"]
        own = call("aten.sub", words, start)
        elsewhere = call("aten.logical_or", call("aten.lt", own, 0), call("aten.ge", own, size))
        strange = call("aten.logical_or", call("aten.lt", words, 0), call("aten.ge", words, rows))
        known = call("aten.masked_fill", call("aten.masked_fill", own, elsewhere, 0), strange, -1)
        found = call(_LOOKUP, share, known)
        return call(
            all_reduce, call("aten.masked_fill", found, call("aten.unsqueeze", elsewhere, -1), 0.0), ranks
        )

    def _part(self, node: Node, share: Node, start: int, size: int, rows: int, ranks: int) -> Node:
        """The columns of the result that this process makes, then all."""
        call, bound = self.rewriter.call, bind(node)
        bias = bound.get("bias")
        own = self._rows(bias, start, size) if isinstance(bias, Node) else None
        made = call(_LINEAR, bound["input"], share, own)
        dim = made.meta["val"].dim() - 1
        whole = call(all_gather, made, dim, ranks)
        return whole if size * ranks == rows else call("aten.slice", whole, dim, 0, rows)


def _reads_rows(user: Node, table: Node) -> bool:
    """Whether a call looks up rows, or makes something of each that nothing sums over."""
    if user.target is _LOOKUP:
        return bind(user)["weight"] is table
    if user.target is not _LINEAR:
        return False
    bound = bind(user)
    bias = bound.get("bias")
    has_bias = bias is None or (isinstance(bias, Node) and bias.op == "get_attr")
    return bound["weight"] is table and has_bias and not _is_summed(user)


def _is_summed(node: Node) -> bool:
    """Whether a product reads what is made of a result."""
    todo, seen = [node], {node}
    while todo:
        for user in todo.pop().users:
            info = op_info(user.target) if isinstance(user.target, torch._ops.OpOverload) else None
            if info is not None and info.role is QuantRole.CONTRACTION:
                return True
            if user not in seen:
                seen.add(user)
                todo.append(user)
    return False
