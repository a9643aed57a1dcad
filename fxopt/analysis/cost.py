"""What a program costs: operations, bytes moved, bytes of weights, and the most bytes alive at once.

Counts come from the op table. Sizes may be symbolic; `Cost.at` gives numbers for given sizes.

>>> import torch
>>> from fxopt.frontend import trace
>>> linear = torch.nn.Linear(3, 5, bias=False).eval()
>>> cost = Cost.compute(trace(linear, (torch.ones(2, 3),), dynamic_shapes=({0: "batch"},)))
>>> cost.at({"batch": 10})
CostSummary(flops=300, bytes_read=180, bytes_written=200, weight_bytes=60, input_bytes=120, peak_bytes=200)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import sympy
import torch
from torch.fx import Node

from fxopt.errors import InputError
from fxopt.ops import (
    bind,
    bind_values,
    call_bytes,
    call_flops,
    is_view,
    outline,
    tensor_bytes,
    view_outline,
)
from fxopt.ops.sizes import Size
from fxopt.program import Program

__all__ = ["Cost", "CostSummary", "NodeCost", "owners"]


@dataclass(frozen=True)
class NodeCost:
    """One call's floating-point operations, and the bytes that it reads and writes."""

    flops: Size = 0
    bytes_read: Size = 0
    bytes_written: Size = 0


@dataclass(frozen=True)
class CostSummary:
    """A whole program at fixed sizes.

    Attributes:
        flops: floating-point operations, a multiply-add as two.
        bytes_read: by all calls, weights included.
        bytes_written: by all calls.
        weight_bytes: of the distinct weights.
        input_bytes: of the inputs.
        peak_bytes: the most bytes of results alive at once, each freed after its last use; weights, inputs
            and the scratch memory of kernels are not among them.
    """

    flops: int
    bytes_read: int
    bytes_written: int
    weight_bytes: int
    input_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class _Storage:
    """Memory that a call allocates, and the index of the last call that reads it."""

    bytes: Size
    first: int
    last: int


@dataclass(frozen=True)
class Cost:
    """Costs of each call, and of the whole.

    Attributes:
        nodes: by call, in order.
        weight_bytes: of the distinct weights.
        input_bytes: of the inputs, by input.
    """

    nodes: Mapping[Node, NodeCost]
    weight_bytes: int
    input_bytes: tuple[Size, ...]
    _storages: tuple[_Storage, ...]
    _symbols: Mapping[sympy.Symbol, str]

    @classmethod
    def compute(cls, program: Program) -> "Cost":
        """Counts a program; linear in its nodes."""
        views = _views(program)
        return cls(
            {n: _node_cost(n, views) for n in program.calls()},
            sum(t.numel() * t.element_size() for t in program.weights.values()),
            tuple(tensor_bytes(n.meta["val"]) for n in program.placeholders()),
            _storages(program, views),
            program.symbol_names,
        )

    def at(self, sizes: Mapping[str, int] | None = None) -> CostSummary:
        """Numbers at given sizes.

        Args:
            sizes: of the dynamic dimensions by name; by default those of the example that was traced.

        Raises:
            InputError: a dynamic size is not given.
        """
        value = self._evaluator(sizes)
        calls = self.nodes.values()
        return CostSummary(
            flops=sum(value(c.flops) for c in calls),
            bytes_read=sum(value(c.bytes_read) for c in calls),
            bytes_written=sum(value(c.bytes_written) for c in calls),
            weight_bytes=self.weight_bytes,
            input_bytes=sum(map(value, self.input_bytes)),
            peak_bytes=_peak(self._storages, value),
        )

    def flops_at(self, sizes: Mapping[str, int] | None = None) -> dict[Node, int]:
        """Operations by call, at given sizes.

        Raises:
            InputError: as in `at`.
        """
        value = self._evaluator(sizes)
        return {node: value(cost.flops) for node, cost in self.nodes.items()}

    def bytes_at(self, sizes: Mapping[str, int] | None = None) -> dict[Node, int]:
        """Bytes read and written by call, at given sizes.

        Raises:
            InputError: as in `at`.
        """
        value = self._evaluator(sizes)
        return {n: value(cost.bytes_read) + value(cost.bytes_written) for n, cost in self.nodes.items()}

    def _evaluator(self, sizes: Mapping[str, int] | None) -> Callable[[Size], int]:
        known: dict[sympy.Expr, int] = {}
        values = {s: sizes[n] for s, n in self._symbols.items() if n in sizes} if sizes is not None else {}

        def value(size: Size) -> int:
            if isinstance(size, int):
                return size
            expression = size.node.expr
            if expression not in known:
                number = size.node.hint if sizes is None else expression.xreplace(values)
                if number is None or not getattr(number, "is_number", True):
                    names = ", ".join(self._symbols.get(s, str(s)) for s in expression.free_symbols)
                    raise InputError(f"the cost depends on {names}: give each a size")
                known[expression] = int(number)
            return known[expression]

        return value


def _node_cost(node: Node, views: Mapping[Node, object]) -> NodeCost:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return NodeCost()
    bound, output = bind_values(node), node.meta["val"]
    moved = (0, 0) if node in views else call_bytes(target, bound, output)
    return NodeCost(call_flops(target, bound, output), *moved)


def _views(program: Program) -> dict[Node, object]:
    """Outlines of the results that lie in the memory of their first operand.

    Parts of a result that is several tensors are among them. Strides are followed through chains of views, as
    the values in the graph may have those of the model before copies were dropped.
    """
    views: dict[Node, object] = {}

    def twin(value: object) -> object:
        if isinstance(value, Node):
            return views[value] if value in views else outline(value.meta["val"])
        return [twin(v) for v in value] if isinstance(value, (list, tuple)) else value

    for node in program.calls():
        target = node.target
        if isinstance(target, torch._ops.OpOverload):
            if is_view(target):
                found = view_outline(target, {name: twin(value) for name, value in bind(node).items()})
                views |= {} if found is None else {node: found}
        elif isinstance(node.meta["val"], torch.Tensor):
            source = twin(node.args[0])
            assert isinstance(source, (list, tuple)) and isinstance(node.args[1], int)
            views[node] = source[node.args[1]]
    return views


def owners(program: Program) -> dict[Node, Node]:
    """The call, or input, in whose memory each call's result lies."""
    return _owners(program, _views(program))


def _owners(program: Program, views: Mapping[Node, object]) -> dict[Node, Node]:
    owner: dict[Node, Node] = {}
    for node in program.calls():
        first = node.all_input_nodes[0] if node in views else node
        owner[node] = owner.get(first, first)
    return owner


def _storages(program: Program, views: Mapping[Node, object]) -> tuple[_Storage, ...]:
    """What each call allocates; a view belongs to the memory of what it views."""
    calls = list(program.calls())
    place = {n: i for i, n in enumerate(calls)}
    place[program.graph.output_node()] = len(calls)
    owner = _owners(program, views)
    last: dict[Node, int] = {}
    for node in calls:
        last[owner[node]] = max(last.get(owner[node], 0), *(place[u] for u in node.users), place[node])
    return tuple(_Storage(tensor_bytes(n.meta["val"]), place[n], last[n]) for n in calls if owner[n] is n)


def _peak(storages: Iterable[_Storage], value: Callable[[Size], int]) -> int:
    """The largest sum of the storages alive at one call; what it reads is alive until it is done."""
    changes: dict[int, int] = {}
    for storage in storages:
        size = value(storage.bytes)
        changes[storage.first] = changes.get(storage.first, 0) + size
        changes[storage.last + 1] = changes.get(storage.last + 1, 0) - size
    return max(accumulate(changes[i] for i in sorted(changes)), default=0)
