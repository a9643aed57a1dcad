"""Inputs and outputs that a program marks (`TensorSpec.quantized`), as files have them: integers."""

import dataclasses

import torch
from torch.fx import Graph, Node

from fxopt.ops.quantized import dequantize, fake_quantize, to_integers
from fxopt.program.inference import fake_value, infer_value
from fxopt.program.program import Program
from fxopt.program.quantized import Quantized
from fxopt.program.signature import Signature, Spec, TensorSpec

__all__ = ["io_notes", "with_integer_io"]


def with_integer_io(program: Program) -> Program:
    """The program with integers for the inputs and outputs that it marks; itself if it marks none."""
    signature = program.signature
    if not any(_to_become(s) for s in (*signature.inputs, *signature.outputs)):
        return program
    return _Twin(program).run()


def io_notes(signature: Signature) -> tuple[str, ...]:
    """The inputs and outputs that stand for floats, a line each."""
    found = (("input", signature.integer_inputs), ("output", signature.integer_outputs))
    return tuple(f"{side} {name}: {q}" for side, values in found for name, q in values.items())


def _to_become(spec: Spec) -> Quantized | None:
    return spec.quantized if isinstance(spec, TensorSpec) and spec.dtype.is_floating_point else None


def _as_integers(spec: Spec, *, bounded: bool) -> Spec:
    """A spec of integers in place of floats."""
    numbers = _to_become(spec)
    if numbers is None:
        return spec
    assert isinstance(spec, TensorSpec)
    limits = torch.iinfo(numbers.dtype)
    low, high = (limits.min, limits.max) if bounded else (None, None)
    return dataclasses.replace(spec, dtype=numbers.dtype, low=low, high=high)


class _Twin:
    """One walk over the graph, building its twin."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = Graph()
        self.weights = dict(program.weights)
        self.twins: dict[Node, Node] = {}
        self.numbers: dict[Quantized, tuple[Node, Node]] = {}

    def run(self) -> Program:
        """Inputs as integers, then floats of them; the calls; outputs as integers."""
        old, signature = self.program, self.program.signature
        specs = dict(zip(old.placeholders(), signature.tensor_inputs, strict=True))
        results = [
            (node, _to_become(spec))
            for node, spec in zip(old.output_nodes(), signature.computed_outputs, strict=True)
            if isinstance(node, Node)
        ]
        for node in specs:
            self._copy(node)
        for node, spec in specs.items():
            numbers = _to_become(spec)
            if numbers is not None:
                self._take(node, numbers)
        self._copy_calls(self._unread(results))
        given = [self.twins[n] if numbers is None else self._give(n, numbers) for n, numbers in results]
        self.graph.output(tuple(given))
        self.graph.output_node().meta = {}
        return self._program()

    def _unread(self, results: list[tuple[Node, Quantized | None]]) -> set[Node]:
        """Roundings of outputs whose floats nothing reads: the integers alone are given."""
        floats = {node for node, numbers in results if numbers is None or not self._rounds_to(node, numbers)}
        return {n for n, _ in results if n not in floats and all(u.op == "output" for u in n.users)}

    def _copy_calls(self, unread: set[Node]) -> None:
        """All but what nothing reads: those roundings, and the numbers of those that are no more."""
        gone = unread | {n for n in self.twins if n.target is fake_quantize}
        for node in self.program.graph.nodes:
            numbers = node.op == "get_attr" and bool(node.users) and all(u in gone for u in node.users)
            if node not in self.twins and node not in unread and node.op != "output" and not numbers:
                self._copy(node)
            elif numbers:
                del self.weights[str(node.target)]

    def _copy(self, node: Node) -> None:
        twin = self.twins[node] = self.graph.node_copy(node, lambda n: self.twins[n])
        twin.name = node.name

    def _take(self, node: Node, numbers: Quantized) -> None:
        """The floats of an input; what rounds it to the same integers anew is they."""
        taken = self.twins[node]
        taken.meta["val"] = infer_value(self.program, torch.ops.aten.to.dtype, (node, numbers.dtype))
        floats = self._call(dequantize, (taken, *self._constants(numbers)), node)
        self.twins |= {user: floats for user in node.users if self._rounds_to(user, numbers)}
        self.twins[node] = floats

    def _give(self, node: Node, numbers: Quantized) -> Node:
        """The integers of an output: those that it was rounded to."""
        source = node if node in self.twins else node.args[0]
        value = self.twins[source]  # type: ignore[index]  # a rounding's first argument is a node
        limits = torch.iinfo(numbers.dtype)
        return self._call(to_integers, (value, *self._constants(numbers), limits.min, limits.max), node)

    def _rounds_to(self, node: Node, numbers: Quantized) -> bool:
        """Whether a call rounds to integers of these numbers."""
        if node.target is not fake_quantize:
            return False
        scale, zero_point = (self._weight(a) for a in node.args[1:3])
        limits = torch.iinfo(numbers.dtype)
        if scale is None or zero_point is None or scale.numel() != 1:
            return False
        same = (scale.item(), zero_point.item()) == (numbers.scale, numbers.zero_point)
        return same and node.args[3:] == (limits.min, limits.max)

    def _weight(self, argument: object) -> torch.Tensor | None:
        if isinstance(argument, Node) and argument.op == "get_attr":
            return self.program.weights[str(argument.target)]
        return None

    def _constants(self, numbers: Quantized) -> tuple[Node, Node]:
        if numbers not in self.numbers:
            self.numbers[numbers] = (
                self._constant("io_scale", torch.tensor(numbers.scale)),
                self._constant("io_zero_point", torch.tensor(numbers.zero_point)),
            )
        return self.numbers[numbers]

    def _constant(self, name: str, value: torch.Tensor) -> Node:
        free = next(n for i in range(len(self.weights) + 1) if (n := f"{name}_{i}") not in self.weights)
        self.weights[free] = value
        node = self.graph.get_attr(free)
        node.meta = {"val": fake_value(self.program, value)}
        return node

    def _call(self, op: torch._ops.OpOverload, args: tuple[object, ...], source: Node) -> Node:
        node = self.graph.call_function(op, args)  # type: ignore[arg-type]
        origins = source.meta.get("origins", ())
        node.meta = {"val": infer_value(self.program, op, args), "origins": origins}
        return node

    def _program(self) -> Program:
        old, signature = self.program, self.program.signature
        twin = old.copy()
        twin.graph, twin.weights = self.graph, self.weights
        twin.ties = {alias: name for alias, name in old.ties.items() if name in self.weights}
        twin.signature = dataclasses.replace(
            signature,
            inputs=tuple(_as_integers(s, bounded=True) for s in signature.inputs),
            outputs=tuple(_as_integers(s, bounded=False) for s in signature.outputs),
        )
        twin.touch()
        return twin
