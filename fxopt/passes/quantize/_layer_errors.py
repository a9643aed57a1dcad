"""What the rounding of each layer does, to its own result and to the outputs: one pass over the data for all layers.

Of each layer alone: it reads what it reads without any rounding. What that comes to at the outputs is its first-order
part. For an error e of the layer's result it is J e, whose squared norm is the mean of (v^T J e)^2 over random v of
independent normal numbers (Hutchinson, 1990), and v^T J of all layers is one backward pass.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from fxopt.analysis.cost import Cost
from fxopt.ops import bind, fake_quantize, round_blocks
from fxopt.passes._names import aten_name
from fxopt.passes.quantize._calibration import called, each_batch
from fxopt.passes.quantize._edges import product_of
from fxopt.passes.quantize._left_out import weight_behind
from fxopt.program import Program, origins_of

__all__ = ["LayerError", "layer_errors"]

_PROBES = 8
"""Random directions for each batch."""


@dataclass
class LayerError:
    """A product with rounded operands; sums over the data.

    Attributes:
        node: the call.
        module: where it stands in the model; "" at its root.
        weight: the name of its weight; "" for a product of two activations.
        bits: of what it reads, and of its weight; 32 where that is not rounded.
        flops: of a call at the sizes of the example.
        weight_bytes: of the rounded weight, as stored.
    """

    node: Node
    module: str
    weight: str
    bits: tuple[int, int]
    flops: int
    weight_bytes: int
    signal: float = 0.0
    """The sum of squares of its results."""
    noise: float = 0.0
    """That of what rounding adds to them."""
    output: float = 0.0
    """The squared error that this makes at the outputs, to first order, each relative to its output's own size."""
    output_of_weights: float = 0.0
    """The same if only the weight were rounded."""
    low: float = 0.0
    high: float = 0.0
    """The least and the largest value that it reads."""
    values: int = 0
    clipped: int = 0
    """How many values it read, and how many of them lie beyond the integers' range."""

    @property
    def name(self) -> str:
        """What a pattern calls it by: its module, else its weight."""
        return self.module or self.weight


@dataclass
class _Site:
    """Where an error enters the values of a batch."""

    layer: LayerError
    added: torch.Tensor
    error: torch.Tensor
    error_of_weights: torch.Tensor


@dataclass
class _Values:
    """The values of a batch: without rounding, and of what is rounded with it."""

    plain: dict[Node, Any] = field(default_factory=dict)
    rounded: dict[Node, Any] = field(default_factory=dict)


def layer_errors(program: Program, data: Iterable[object], *, outputs: bool = True) -> list[LayerError]:
    """What rounding does, layer by layer, in graph order.

    Args:
        program: a quantized one.
        data: as for calibration.
        outputs: also what it does to the outputs, by one run forward and eight back for each batch, whose values are
            all kept until then; else the values of one run.

    Raises:
        InputError: no data, or data that does not fit.
    """
    walk = _Walk(program, outputs=outputs)
    each_batch(program, data, walk.run)
    return list(walk.layers.values())


class _Walk:
    """Runs a program call by call, a batch at a time."""

    def __init__(self, program: Program, *, outputs: bool) -> None:
        self._program, self._outputs = program, outputs
        self._weights = _of_weights(program)
        self.layers = dict(_layers(program, self._weights))
        self._noise = torch.Generator().manual_seed(0)

    def run(self, *tensors: torch.Tensor) -> None:
        """One batch."""
        values, given, sites = _Values(), iter(tensors), list[_Site]()
        with torch.set_grad_enabled(self._outputs):
            for node in self._program.graph.nodes:
                if node.op == "placeholder":
                    values.plain[node] = next(given)
                elif node.op == "get_attr":
                    values.plain[node] = self._program.weights[str(node.target)].detach()
                elif node.op == "call_function":
                    sites += self._call(node, values)
            if self._outputs and sites:
                self._to_outputs(sites, values.plain)

    def _call(self, node: Node, values: _Values) -> list[_Site]:
        plain = values.plain[node] = called(node, values.plain.__getitem__, rounds=False)
        if node.target in (fake_quantize, round_blocks):
            with torch.no_grad():
                values.rounded[node] = called(node, values.plain.__getitem__)
                error = values.rounded[node] - plain
            owner = self._alone(node)
            return [] if owner is None else [self._site(owner, node, values, error, torch.zeros_like(error))]
        if node in self._weights:
            values.rounded[node] = called(node, lambda n: values.rounded.get(n, values.plain[n]))
        layer = self.layers.get(node)
        if layer is None:
            return []
        with torch.no_grad():
            error = called(node, lambda n: values.rounded.get(n, values.plain[n])) - plain
            of_weights = called(node, self._only_weights(values)) - plain
            layer.signal += float(plain.double().square().sum())
            layer.noise += float(error.double().square().sum())
            self._see(layer, node, values.plain)
        return [self._site(layer, node, values, error, of_weights)]

    def _only_weights(self, values: _Values) -> Callable[[Node], Any]:
        return lambda n: values.rounded.get(n, values.plain[n]) if n in self._weights else values.plain[n]

    def _site(
        self, layer: LayerError, node: Node, values: _Values, error: torch.Tensor, of_weights: torch.Tensor
    ) -> _Site:
        """A zero that is added to the value of a node, by which outputs can be differentiated."""
        added = torch.zeros_like(error, requires_grad=self._outputs)
        if self._outputs:
            values.plain[node] = values.plain[node] + added
        return _Site(layer, added, error, of_weights)

    def _alone(self, node: Node) -> LayerError | None:
        """The layer that a rounding belongs to which no layer reads: that whose result it rounds."""
        if node in self._weights or any(u in self.layers for u in node.users):
            return None
        at: Node | None = node
        while at is not None and at not in self.layers:
            at = next(iter(at.all_input_nodes), None)
        return None if at is None else self.layers[at]

    @staticmethod
    def _see(layer: LayerError, node: Node, plain: dict[Node, Any]) -> None:
        """The range of what a layer reads."""
        x = _rounded_activation(node)
        if x is None or not plain[x].numel():
            return
        low, high = (float(v) for v in torch.aminmax(plain[x].detach()))
        layer.low, layer.high = min(layer.low, low), max(layer.high, high)
        layer.values += plain[x].numel()
        scale, zero, least, most = (x.args[i] for i in (1, 2, 3, 4))
        steps = torch.round(plain[x] / plain[scale]) + plain[zero]  # type: ignore[index]
        layer.clipped += int(((steps < least) | (steps > most)).sum())

    def _to_outputs(self, sites: list[_Site], plain: dict[Node, Any]) -> None:
        found = [plain[n] for n in self._program.output_nodes() if isinstance(n, Node)]
        outputs = [y for y in found if isinstance(y, torch.Tensor) and y.grad_fn is not None]
        for _ in range(_PROBES if outputs else 0):
            towards = []
            for y in outputs:
                size = float(y.detach().double().square().sum()) ** 0.5 or 1.0
                towards.append(torch.randn(y.shape, generator=self._noise).to(y.dtype) / size)
            gradients = torch.autograd.grad(
                outputs, [s.added for s in sites], towards, retain_graph=True, allow_unused=True
            )
            for site, gradient in zip(sites, gradients, strict=True):
                if gradient is not None:
                    site.layer.output += float((gradient * site.error).sum()) ** 2 / _PROBES
                    site.layer.output_of_weights += (
                        float((gradient * site.error_of_weights).sum()) ** 2 / _PROBES
                    )


def _of_weights(program: Program) -> set[Node]:
    """The values that come from weights alone."""
    found: set[Node] = set()
    for node in program.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (node.op == "call_function" and inputs and found.issuperset(inputs)):
            found.add(node)
    return found


def _layers(program: Program, weights: set[Node]) -> Iterator[tuple[Node, LayerError]]:
    """The products of which an operand is rounded."""
    flops = Cost.compute(program).flops_at()
    for node in program.calls():
        found = product_of(node, weights.__contains__)
        if isinstance(found, str):
            continue
        bound, x = bind(node), _rounded_activation(node)
        weight = _rounding_of(bound.get(found.weight)) if found.weight else None
        if x is None and weight is None:
            continue
        module = _module_of(node)
        bits = (32 if x is None else _bits(x), 32 if weight is None else _bits(weight))
        size = 0 if weight is None else weight.meta["val"].numel() * bits[1] // 8
        yield node, LayerError(node, module, _name_of(bound.get(found.weight)), bits, flops[node], size)


def _module_of(node: Node) -> str:
    """The module of a product, not that of a norm that was folded into it."""
    origins = [o for o in origins_of(node) if o.module]
    own = [o for o in origins if aten_name(node) in o.op]
    return next((o.module for o in (*own, *origins)), "")


def _name_of(weight: object) -> str:
    """The name of a weight, rounded or not; "" for what is none."""
    source = weight_behind(weight) if isinstance(weight, Node) else None
    return str(source.target) if source is not None and source.op == "get_attr" else ""


def _rounded_activation(node: Node) -> Node | None:
    """The first rounded value that a product reads and that is no weight."""
    return next((n for n in node.all_input_nodes if n.target is fake_quantize and not _is_weight(n)), None)


def _is_weight(node: Node) -> bool:
    source = node.args[0]
    return isinstance(source, Node) and source.op == "get_attr"


def _rounding_of(value: object) -> Node | None:
    """The rounding of a weight, which blocks are reshaped after."""
    while isinstance(value, Node) and value.op == "call_function":
        if value.target is fake_quantize:
            return value
        value = value.args[0]
    return None


def _bits(node: Node) -> int:
    low, high = node.args[3], node.args[4]
    assert isinstance(low, int) and isinstance(high, int)
    return (high - low).bit_length()
