"""Folds what is computed from weights and literals alone."""

import contextlib
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from fxopt.ops import is_pure, is_view, op_info
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import trained_as
from fxopt.rewriting import Const, Rewriter

__all__ = ["FoldConstants"]


def _motif(x: torch.Tensor, w: Const) -> torch.Tensor:
    return x @ w.exp().permute(1, 0) + w.sum(1)


@register_pass
class FoldConstants(Pass):
    """Computes at once what depends on weights and literals alone, and stores the result as a weight.

    Before: `%a = permute(w, [1, 0])`, `%b = matmul(%x, %a)`. After: `%b = matmul(%x, folded)`.

    Only ops that are known to be pure are run, as the reference evaluator runs them; a call that raises stays. A
    result is stored only while it does not make the weights grow by more than `max_growth` bytes over the weights
    that go for it: an `expand` of a constant stays one, and so does the transpose of an embedding that is used as
    it is too.
    Results that share weights are stored together where these pay for all of them; a weight that stays for
    another pays for none. Inner results of what stays are folded in turn.
    """

    contract = Contract.EXACT

    max_growth: int = 1_000_000
    """Bytes by which a stored result may exceed the weights that go for it."""
    keep_shared: bool = False
    """Leave alone what is computed from a weight that is also used as it is: they may be tied in training."""

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_motif,)

    def run(self, rewriter: Rewriter) -> None:
        """Folds the last calls of the constant part, those that others read, until none is left to fold.

        What a weight pays for shows only when the rest that reads it is folded, or stays.
        """
        while True:
            constant = _constant_calls(rewriter)
            folding = _Folding(rewriter, constant, self)
            for results in folding.sharing_weights():
                folding.fold(results)
            if not folding.folded:
                break
        for node, why in folding.refused.items():
            rewriter.refuse(node, why, rule="fold-constants")


def _constant_calls(rewriter: Rewriter) -> set[Node]:
    constant: set[Node] = set()
    for node in rewriter.nodes():
        inputs = node.all_input_nodes
        if all(n in constant or rewriter.value(n) is not None for n in inputs) and _is_foldable(node):
            constant.add(node)
    return constant


def _is_foldable(node: Node) -> bool:
    """A pure call without dynamic sizes, of an op whose purity is known: a user's op may count its calls."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        known = target.namespace in ("aten", "prims") or op_info(target).pure is True
        if not known or not is_pure(node):
            return False
    value = node.meta["val"]
    return all(map(_is_static, value if isinstance(value, (list, tuple)) else [value]))


def _is_static(value: object) -> bool:
    return isinstance(value, torch.Tensor) and all(isinstance(d, int) for d in value.shape)


class _Folding:
    """The values of constant calls, and which of them the weights pay for."""

    def __init__(self, rewriter: Rewriter, constant: set[Node], options: FoldConstants) -> None:
        self.rewriter, self.constant, self.options = rewriter, constant, options
        self.values: dict[Node, object] = {}
        self.refused: dict[Node, str] = {}
        self.folded = False

    def sharing_weights(self) -> list[list[Node]]:
        """The constant results that other calls read; those in one list share weights."""
        weights: dict[Node, list[Node]] = {}
        readers: dict[Node, list[Node]] = {}
        for node in self.rewriter.nodes():
            if node in self.constant and not self.constant.issuperset(node.users):
                weights[node] = self._weights_behind(node)
                for weight in weights[node]:
                    readers.setdefault(weight, []).append(node)
        groups: list[list[Node]] = []
        seen: set[Node] = set()
        for first in weights:
            todo, group = [first], []
            while todo:
                result = todo.pop()
                if result not in seen:
                    seen.add(result)
                    group.append(result)
                    todo += [r for w in weights[result] for r in readers.pop(w, ())]
            groups.append(group)
        return [group for group in groups if group]

    def fold(self, results: list[Node]) -> None:
        """Stores what shares weights if these pay for all of it, else what each result can pay for alone."""
        together = not self._objection(results)
        for result in results:
            if together:
                self._store(result)
            else:
                self._fold_alone(result)

    def _fold_alone(self, result: Node) -> None:
        """Stores the value of a constant call if it is small enough, else those of its operands."""
        todo = [result]
        while todo:
            current = todo.pop()
            if (
                current._erased
                or current in self.refused
                or not isinstance(current.meta["val"], torch.Tensor)
            ):
                continue
            if why := self._objection([current]):
                self.refused[current] = why
                todo += [n for n in current.all_input_nodes if n in self.constant]
            else:
                self._store(current)

    def _store(self, node: Node) -> None:
        try:
            tensor = self._value(node)
        except (IndexError, RuntimeError, ValueError) as error:  # it does so wherever it is called
            self.refused[node] = f"it raises: {next(iter(str(error).splitlines()), '')}"
            return
        assert isinstance(tensor, torch.Tensor)
        stored = trained_as(tensor, map(self.rewriter.value, self._weights_behind(node)))
        self.folded = True
        with self.rewriter.rewrite("fold-constants", node):
            self.rewriter.replace(node, self.rewriter.constant(stored))

    def _objection(self, results: list[Node]) -> str:
        """Why results are not stored; empty if they may be."""
        for weight in (w for r in results for w in self._weights_behind(r)):
            if self.options.keep_shared and not self.constant.issuperset(weight.users):
                return f"{weight.target} is also used as it is (keep_shared)"
        size, freed = sum(_bytes(r.meta["val"]) for r in results), self._freed(results)
        if size > freed + self.options.max_growth:
            return f"the result takes {size} bytes, the weights that go for it {freed}"
        return ""

    def _freed(self, results: list[Node]) -> int:
        """Bytes of the weights that nothing reads any more once results are stored."""
        dead, todo, freed = set(results), list(results), 0
        while todo:
            for operand in todo.pop().all_input_nodes:
                if operand not in dead and dead.issuperset(operand.users):
                    dead.add(operand)
                    todo.append(operand)
                    freed += _bytes(operand.meta["val"]) if operand.op == "get_attr" else 0
        return freed

    def _weights_behind(self, node: Node) -> list[Node]:
        seen: dict[Node, None] = {}
        todo = [node]
        while todo:
            current = todo.pop()
            if current not in seen:
                seen[current] = None
                todo += current.all_input_nodes
        return [n for n in seen if n.op == "get_attr"]

    def _value(self, node: Node) -> object:
        """The value of a constant call; inner results are kept for other calls that share them."""
        pending = [node]
        while pending:
            current = pending[-1]
            waiting = [
                n for n in current.all_input_nodes if n not in self.values and self.rewriter.value(n) is None
            ]
            pending += waiting
            if not waiting:
                pending.pop()
                if current not in self.values:
                    self.values[current] = self._run(current)
        return self.values[node]

    def _run(self, node: Node) -> object:
        """Runs a call as the reference evaluator does; views stay views of their weight."""
        view = is_view(node.target)

        def operand(argument: Node) -> object:
            stored = self.rewriter.value(argument)
            value = self.values[argument] if stored is None else stored
            return value if view or not isinstance(value, torch.Tensor) else _plain(value)

        args = map_arg(node.args, operand)  # type: ignore[arg-type]
        kwargs = map_arg(dict(node.kwargs), operand)  # type: ignore[arg-type]
        with torch.no_grad(), _one_thread():
            return node.target(*args, **kwargs)  # type: ignore[operator]


def _bytes(value: torch.Tensor) -> int:
    return value.numel() * value.element_size()


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, of its own memory: kernels may sum in another order elsewhere."""
    if tensor.is_contiguous() and not tensor.storage_offset():
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
