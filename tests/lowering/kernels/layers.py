"""A quantized program taken apart at every value that it rounds: each layer is fed the simulation's numbers.

`Layers.of(program, *args)` makes of a chain `round, layer, round, layer` a program that takes what each `round` gives as an
input and returns what each layer makes of it, rounded. Run on a target it shows each layer's own difference from the
simulation, in steps of the scale, and not what became of it further on.
"""

from dataclasses import dataclass

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxopt.lowering import lower
from fxopt.ops import fake_quantize
from fxopt.program import Program
from fxopt.program.signature import Signature

__all__ = ["Difference", "Layers"]


@dataclass(frozen=True)
class Difference:
    """Of a target's integers from the simulation's.

    Attributes:
        steps: the largest.
        others: by layer, how many of its values are not equal.
        counts: by layer, how many values it has.
        floats: of the values that are no integers, the largest relative to the largest value.
    """

    steps: float
    others: tuple[int, ...]
    counts: tuple[int, ...]
    floats: float

    @property
    def ok(self) -> bool:
        """Whether it is within one step, and in one of a thousand of a layer's values (or one value) at most."""
        few = all(n <= max(1, count // 1000) for n, count in zip(self.others, self.counts, strict=True))
        return self.steps <= 1 and few and self.floats <= 1e-4


def is_rounding(node: Node) -> bool:
    """Whether a node rounds an activation by numbers that are fixed."""
    if node.target is not fake_quantize:
        return False
    x, scale = node.args[:2]
    return isinstance(x, Node) and isinstance(scale, Node) and x.op != "get_attr" and scale.op == "get_attr"


@dataclass(frozen=True)
class Layers:
    """The program taken apart, what its inputs are fed, and by output the scale that it is rounded by (None: floats)."""

    program: Program
    inputs: list[torch.Tensor]
    scales: list[float | None]

    @classmethod
    def of(cls, program: Program, *args: torch.Tensor) -> "Layers":
        """Takes a program apart and runs it on arguments, to see what each layer is fed."""
        rounded = [n for n in program.calls() if is_rounding(n)]
        apart = _taken_apart(program, rounded)
        values = _values(program, rounded, program.signature.flatten_inputs(args))
        scales: list[float | None] = [float(program.weights[str(n.args[1].target)]) for n in rounded]
        floats: list[float | None] = [None for _ in apart.output_nodes()[len(rounded) :]]
        return cls(apart, [*program.signature.flatten_inputs(args), *values], scales + floats)

    def difference(self, target: str, program: Program | None = None) -> Difference:
        """How a target's file differs from the simulation.

        Args:
            target: its name.
            program: what to lower, if not the program taken apart: one that is wrong on purpose.
        """
        wanted = self.program.run_flat(self.inputs)
        got = lower(program or self.program, target, verify=False).run_flat(self.inputs)
        steps = [
            ((a - b) / s).abs().round().flatten()
            for a, b, s in zip(got, wanted, self.scales, strict=True)
            if s is not None
        ]
        floats = [
            float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
            for a, b, s in zip(got, wanted, self.scales, strict=True)
            if s is None and isinstance(b, torch.Tensor) and b.numel()
        ]
        most = max((float(s.max()) for s in steps if s.numel()), default=0.0)
        others = tuple(int((s > 0).sum()) for s in steps)
        return Difference(most, others, tuple(s.numel() for s in steps), max(floats, default=0.0))


def _taken_apart(program: Program, rounded: list[Node]) -> Program:
    graph, mapping = Graph(), {}
    for node in program.placeholders():
        mapping[node] = graph.node_copy(node)
    fed: dict[Node, Node] = {}
    for i, node in enumerate(rounded):
        fed[node] = graph.placeholder(f"layer_{i}")
        fed[node].meta["val"] = node.meta["val"]
    made: list[Node] = []
    for node in program.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        new = mapping[node] = graph.node_copy(node, lambda n: mapping[n])
        if node in fed:
            made.append(new)
            numbers = [mapping[n] if isinstance(n, Node) else n for n in node.args[1:]]
            mapping[node] = graph.call_function(fake_quantize, (fed[node], *numbers))
            mapping[node].meta.update(node.meta)
    outputs = [mapping[n] for n in program.output_nodes() if isinstance(n, Node)]
    graph.output((*made, *outputs))
    return Program(
        graph,
        program.weights,
        _signature(program, rounded, [*made, *outputs]),
        fake_mode=program.fake_mode,
        symbol_names=program.symbol_names,
    )


def _signature(program: Program, rounded: list[Node], outputs: list[Node]) -> Signature:
    inputs = program.signature.tensor_inputs
    layers = tuple(program.spec(f"layer_{i}", n.meta["val"]) for i, n in enumerate(rounded))
    specs = (*inputs, *layers)
    return Signature(
        specs,
        tuple(program.spec(f"out_{i}", n.meta["val"]) for i, n in enumerate(outputs)),
        pytree.tree_structure((tuple(range(len(specs))), {})),
        pytree.tree_structure(tuple(range(len(outputs)))),
        symbols=program.signature.symbols,
    )


def _values(program: Program, rounded: list[Node], tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    class Watcher(torch.fx.Interpreter):
        def run_node(self, n: Node) -> object:
            found[n.name] = super().run_node(n)
            return found[n.name]

    found: dict[str, object] = {}
    with torch.no_grad():
        Watcher(program.graph_module, garbage_collect_values=True).run(*tensors)
    return [found[n.name] for n in rounded]  # type: ignore[misc]
