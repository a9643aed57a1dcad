"""Which calls run on integers, and which values are rounded for them."""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from fxopt.ops import Dimension, IndexMap, QuantRole, align_inputs, bind, bind_values, call_index_map, op_info
from fxopt.passes._names import aten_name
from fxopt.passes.quantize._placement import Placement
from fxopt.program import Program

__all__ = ["Contraction", "Edges", "contraction_of", "find_edges", "is_weight", "may_overflow", "product_of"]

_ACCUMULATOR = 2**31 - 1
"""The largest sum of products that integer kernels hold."""


@dataclass(frozen=True)
class Contraction:
    """A product of an activation with a weight, or of two activations.

    Attributes:
        activations: argument names of the factors that are no weights.
        weight: that of the factor that is a weight; "" for two activations.
        bias: that of what is added, a weight; "" for none.
        channel: the weight's axis of the output channels; None where no one axis is.
        result_channel: the result's dimension of them, counted from the right; None where none is.
    """

    activations: tuple[str, ...]
    weight: str
    bias: str
    channel: int | None
    result_channel: int | None


def is_weight(argument: object) -> bool:
    """Whether an argument is a floating-point weight."""
    return (
        isinstance(argument, Node)
        and argument.op == "get_attr"
        and isinstance(value := argument.meta["val"], torch.Tensor)
        and value.dtype is torch.float32
    )


def contraction_of(node: Node, is_weight: Callable[[object], bool] = is_weight) -> Contraction | str:
    """How a call is a product that integers can do, or why it is none.

    Args:
        node: any call.
        is_weight: which arguments are weights.
    """
    found, value = product_of(node, is_weight), node.meta["val"]
    if isinstance(found, Contraction) and value.dtype is not torch.float32:
        return "it does not compute in float32"
    return found


def product_of(node: Node, is_weight: Callable[[object], bool]) -> Contraction | str:
    """As `contraction_of`, of any floating-point type."""
    target, value = node.target, node.meta["val"]
    if not isinstance(target, torch._ops.OpOverload) or op_info(target).role is not QuantRole.CONTRACTION:
        return "it is no product"
    if not isinstance(value, torch.Tensor):
        return "it gives several results"
    bound, values = bind(node), bind_values(node)
    index_map = call_index_map(target, values)
    if index_map is None:
        return "the op table does not say what it sums over"
    summed = set(index_map.contracted)
    operands = {name: operand for name, operand, _ in align_inputs(target, index_map, values)}
    factors = [n for n, o in operands.items() if any(i.name in summed for i in o.indices())]
    added = [n for n in operands if n not in factors]
    weights = [n for n in factors if is_weight(bound[n])]
    if len(factors) != 2 or len(weights) > 1 or not all(isinstance(bound[n], Node) for n in factors):
        return "it is no product of an activation with a weight or another activation"
    if any(not is_weight(bound[n]) or len(operands[n].dims) != 1 for n in added):
        return "what is added is no weight by channel"
    if any(bound.get(n, 1) != 1 for n in ("alpha", "beta")):
        return "its terms are scaled"
    weight, bias = (weights or [""])[0], (added or [""])[0]
    channels = [
        axis
        for axis, dim in enumerate(operands[weight].dims if weight else ())
        if not any(i.name in summed for i in dim.indices)
        and (not bias or operands[bias].dims[0].indices == dim.indices)
    ]
    channel = channels[0] if len(channels) == 1 else None
    result = None if channel is None else _result_channel(index_map, operands[weight].dims[channel], value)
    return Contraction(tuple(n for n in factors if n != weight), weight, bias, channel, result)


def _result_channel(index_map: IndexMap, channel: Dimension, value: torch.Tensor) -> int | None:
    """The result's dimension of the weight's output channels, counted from the right."""
    dims = index_map.outputs[0].expanded(value.dim())
    places = [i - len(dims) for i, d in enumerate(dims) if d.indices == channel.indices]
    return places[0] if len(places) == 1 else None


@dataclass
class Edges:
    """What is quantized.

    Attributes:
        integer: the calls that run on integers, with the activations that each reads rounded, in graph order.
        contractions: those of them that are products.
        source: for a value that is rounded, the value whose range counts: they share one scale.
        results: values that are rounded for whoever reads them, in graph order.
        floats: the products that stay in float, and why.
    """

    integer: dict[Node, tuple[Node, ...]] = field(default_factory=dict)
    contractions: dict[Node, Contraction] = field(default_factory=dict)
    source: dict[Node, Node] = field(default_factory=dict)
    results: list[Node] = field(default_factory=list)
    floats: dict[Node, str] = field(default_factory=dict)

    def add(self, inputs: Iterable[Node], outputs: Iterable[Node], placement: Placement) -> None:
        """Rounds inputs and outputs of the program too, whoever reads them."""
        self.source |= {node: node for node in inputs}
        for node in outputs:
            if node.op == "call_function" and node not in self.results:
                self.results.append(node)
            self.source[node] = _source(node, self.integer, placement)

    def observed(self) -> list[Node]:
        """The values whose ranges must be known."""
        return list(dict.fromkeys(self.source.values()))


def find_edges(
    program: Program, placement: Placement, left_out: Callable[[Node], str], *, full: bool = False
) -> Edges:
    """Decides from the outputs back: a value is rounded where an integer kernel reads it.

    Sums, joins and pools run on integers where an integer kernel reads their results; then they read integers too.

    Args:
        program: whose calls are looked at.
        placement: the kernels that there are.
        left_out: says why a call is to stay in float; "" if it is not.
        full: whatever has an integer kernel runs on integers, whether it pays or not, and gives integers.
    """
    kernels = placement.requantising | placement.same_scale | (placement.covering if full else frozenset())
    edges = Edges()
    wanted: set[Node] = set()
    asked: set[Node] = set()
    """Results that become integers: those that are wanted, and those that only an absorbed activation reads."""
    chosen: dict[Node, tuple[Node, ...]] = {}
    for node in reversed(list(program.calls())):
        if node.target is operator.getitem:
            asked.update(node.all_input_nodes if full or node in asked else ())
            continue
        reads = _reads(node, full or node in asked, kernels, placement, edges, left_out)
        if reads:
            if aten_name(node) in placement.rounds_result or (full and _is_activation(node)):
                given = _last_absorbed(node, placement)
                if given not in wanted or any(given not in chosen.get(u, ()) for u in given.users):
                    edges.results.append(given)
            chosen[node] = reads
            wanted.update(reads)
            asked.update(reads)
        elif node in asked and _is_absorbed(node, placement):
            asked.update(n for n in node.all_input_nodes if len(n.users) == 1)
    edges.results.reverse()
    edges.integer = dict(reversed(chosen.items()))
    edges.contractions = {n: c for n, c in reversed(edges.contractions.items()) if n in chosen}
    for node in [*wanted, *edges.results]:
        edges.source[node] = _source(node, edges.integer, placement)
    return edges


def _reads(
    node: Node,
    asked: bool,
    kernels: frozenset[str],
    placement: Placement,
    edges: Edges,
    left_out: Callable[[Node], str],
) -> tuple[Node, ...]:
    """The activations that a call reads as integers; none if it stays in float."""
    if aten_name(node) in kernels:
        reads = _tensors(node) if asked and not left_out(node) else ()
        if not all(_is_activation(n) for n in reads):
            return ()
        added_to = _added_to(reads) if aten_name(node) in placement.skips else None
        return tuple(n for n in reads if n is not added_to)
    found = contraction_of(node)
    if isinstance(found, str):
        if (
            isinstance(node.target, torch._ops.OpOverload)
            and op_info(node.target).role is QuantRole.CONTRACTION
        ):
            edges.floats[node] = found
        return ()
    why = left_out(node) or _no_kernel(node, found, placement)
    if why:
        edges.floats[node] = why
        return ()
    bound = bind(node)
    edges.contractions[node] = found
    return tuple(n for a in found.activations if isinstance(n := bound[a], Node))


def _added_to(reads: tuple[Node, ...]) -> Node | None:
    """The product whose kernel adds the others: the last that nothing else reads."""
    return next(
        (n for n in reversed(reads) if len(n.users) == 1 and not isinstance(contraction_of(n), str)), None
    )


def _no_kernel(node: Node, found: Contraction, placement: Placement) -> str:
    if aten_name(node) in placement.left_out:
        return f"{placement.name} has no integer kernel for it"
    if not found.weight and not placement.product_of_activations:
        return "products of two activations stay in float"
    return may_overflow(node, found, placement)


def may_overflow(node: Node, found: Contraction, placement: Placement) -> str:
    """Why the sums of a product may not fit into an integer kernel's accumulator; "" if they do."""
    largest = (
        placement.activations.largest * (placement.weights if found.weight else placement.activations).largest
    )
    most, count = _ACCUMULATOR // largest, _products(node, found)
    return (
        "" if count is not None and count <= most else f"its sums of more than {most} products may overflow"
    )


def _products(node: Node, found: Contraction) -> int | None:
    """How many products are summed for one result, at most; None if that varies."""
    factor = bind_values(node)[found.weight or found.activations[0]]
    assert isinstance(factor, torch.Tensor)
    if not found.weight:
        return factor.shape[-1] if isinstance(factor.shape[-1], int) else None
    channels = 1 if found.channel is None else factor.shape[found.channel]
    return factor.numel() // max(channels, 1)


def _tensors(node: Node) -> tuple[Node, ...]:
    """The tensors that a call computes with, each once; none if a number stands in the place of one."""
    given = list(node.args[:2]) if aten_name(node) in ("add", "mul") else [node.args[0]]
    operands = [x for a in given for x in (a if isinstance(a, (list, tuple)) else [a])]
    nodes = dict.fromkeys(x for x in operands if isinstance(x, Node))
    return tuple(nodes) if all(isinstance(x, Node) for x in operands) else ()


def _is_activation(node: Node) -> bool:
    value = node.meta.get("val")
    return node.op != "get_attr" and isinstance(value, torch.Tensor) and value.dtype is torch.float32


def _last_absorbed(node: Node, placement: Placement) -> Node:
    """The value that a kernel gives: after the activations that are part of it."""
    while len(node.users) == 1 and _is_absorbed(user := next(iter(node.users)), placement):
        node = user
    return node


def _is_absorbed(node: Node, placement: Placement) -> bool:
    """Whether a call is an activation that clips at zero, which is where the integers of its result begin."""
    if aten_name(node) not in placement.absorbed:
        return False
    bound = bind(node)
    return all(bound.get(name, 0) == 0 for name in ("min", "min_val"))


def _source(node: Node, integer: dict[Node, tuple[Node, ...]], placement: Placement) -> Node:
    """Follows a value back through calls that only move values, and to what it is a part of."""
    while True:
        whole = node.args[0] if node.target is operator.getitem else node
        if (
            not isinstance(whole, Node)
            or aten_name(whole) not in placement.same_scale
            or whole not in integer
        ):
            return node
        (node,) = integer[whole]
