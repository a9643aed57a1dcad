"""Folds what is computed from weights and literals alone."""

import torch
from torch.fx import Node

from fxopt.ops import is_pure, op_info
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["FoldConstants"]


@register_pass
class FoldConstants(Pass):
    """Computes at once what depends on weights and literals alone, and stores the result as a weight.

    Before: `%a = permute(w, [1, 0])`, `%b = matmul(%x, %a)`. After: `%b = matmul(%x, folded)`.

    Only ops that are known to be pure are run; a result is stored only while it does not make the weights grow by more than
    `max_growth` bytes over what it replaces (an `expand` of a constant stays an `expand`).
    """

    contract = Contract.EXACT

    max_growth: int = 1_000_000
    """Bytes by which a stored result may exceed the weights that it is computed from."""

    def run(self, rewriter: Rewriter) -> None:
        """Folds the outermost constant calls."""
        constant: set[Node] = set()
        for node in rewriter.nodes():
            if _foldable(node) and all(n in constant or rewriter.value(n) is not None for n in node.all_input_nodes):
                constant.add(node)
        values: dict[Node, object] = {}
        for node in rewriter.nodes():
            if node in constant and any(u not in constant for u in node.users) and not node._erased:
                self._fold(rewriter, node, values)

    def _fold(self, rewriter: Rewriter, node: Node, values: dict[Node, object]) -> None:
        if not isinstance(node.meta["val"], torch.Tensor):
            return
        recorded = node.meta["val"]
        size = recorded.numel() * recorded.element_size()
        sources = {n for n in _sources(node) if rewriter.value(n) is not None}
        held = sum(n.meta["val"].numel() * n.meta["val"].element_size() for n in sources)
        if size > held + self.max_growth:
            rewriter.refuse(node, f"the folded tensor would take {size} bytes, its sources take {held}")
            return
        tensor = _evaluate(rewriter, node, values)
        assert isinstance(tensor, torch.Tensor)
        with rewriter.rewrite("fold-constants", node):
            rewriter.replace(node, rewriter.constant(tensor.detach()))


def _foldable(node: Node) -> bool:
    """A pure, deterministic call with one tensor (or several) as its value and no symbolic size in it."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        known = target.namespace in ("aten", "prims") or op_info(target).pure is True
        if not known or not is_pure(node):
            return False
    elif getattr(target, "__name__", "") != "getitem":
        return False
    return all(_static(v) for v in _tensors(node.meta.get("val")))


def _tensors(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _static(value: object) -> bool:
    return isinstance(value, torch.Tensor) and all(isinstance(d, int) for d in value.shape)


def _sources(node: Node) -> set[Node]:
    seen: set[Node] = set()
    todo = [node]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += current.all_input_nodes
    return seen


def _evaluate(rewriter: Rewriter, node: Node, values: dict[Node, object]) -> object:
    """The value of a constant call; inner results are kept for other calls that share them."""

    def value(argument: Node) -> object:
        stored = rewriter.value(argument)
        return stored if stored is not None else values[argument]

    pending = [node]
    while pending:
        current = pending[-1]
        waiting = [n for n in current.all_input_nodes if n not in values and rewriter.value(n) is None]
        if waiting:
            pending += waiting
            continue
        pending.pop()
        if current not in values:
            args = torch.fx.node.map_arg(current.args, value)  # type: ignore[arg-type]
            kwargs = torch.fx.node.map_arg(dict(current.kwargs), value)  # type: ignore[arg-type]
            with torch.no_grad():
                values[current] = current.target(*args, **kwargs)  # type: ignore[operator, misc]
    return values[node]
