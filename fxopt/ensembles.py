"""Ensembles: several programs of one signature become one program, with one file.

What the members have in common (the same preprocessing, the same weights) is computed once.

>>> import torch
>>> from fxopt.frontend import trace
>>> members = [trace(torch.nn.Linear(2, 3).eval(), torch.zeros(4, 2)) for _ in range(3)]
>>> x = torch.ones(4, 2)
>>> torch.allclose(ensemble(members)(x), sum(m(x) for m in members) / 3)
True
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch.fx import Graph, Node

from fxopt.errors import ArtifactError, InputError, nearest
from fxopt.ops import canonical_arguments
from fxopt.pipeline import PassManager
from fxopt.program import (
    ConstantSpec,
    Origin,
    Program,
    Signature,
    Spec,
    Symbol,
    TensorSpec,
    expect_program,
    origins_of,
)
from fxopt.program.revive import Size, revive, sizes_of
from fxopt.program.sharing import share_weights, shared_table

__all__ = ["Reduce", "class_axis", "ensemble"]

aten = torch.ops.aten

Reduce = Literal["mean", "mean-probabilities", "vote"]

_CLEANING = "eliminate-common-subexpressions,eliminate-dead-code"


def ensemble(
    programs: Sequence[Program], *, weights: Sequence[float] | None = None, reduce: Reduce = "mean"
) -> Program:
    """Makes one program of several.

    Args:
        programs: that take and return the same; how they compute it may differ. They stay as they are.
        weights: how much each counts; by default all alike.
        reduce: "mean" of the outputs (of logits), "mean-probabilities" (the mean of their softmax), or "vote":
            each member's best class, so that outputs are shares of votes. Classes stand along axis 1 of
            outputs with four dimensions and more, else along the last; ties go to the first class.

    Returns:
        A program with the first one's names. Weights and calls that are equal are there once.

    Raises:
        InputError: no programs, other weights than programs, signatures that differ, an output that is no
            tensor of floats.
    """
    if not isinstance(programs, Iterable):
        raise InputError(f"ensemble takes a list of programs, got {programs!r}")
    members = [expect_program(p, "ensemble") for p in programs]
    if not members:
        raise InputError("ensemble: there are no programs; expected a list of them")
    if reduce not in _COMBINE:
        close = nearest(str(reduce), _COMBINE)
        hint = f"did you mean {close!r}?" if close else f"there are {', '.join(_COMBINE)}"
        raise InputError(f"ensemble: unknown reduce {reduce!r}; {hint}")
    factors = _factors(weights, len(members))
    for index, member in enumerate(members):
        problem = _difference(members[0].signature, member.signature) if index else _objection(member)
        if problem:
            raise InputError(f"ensemble: program {index} ({member.name}) {problem}")
    merged = _merged(members, factors, reduce)
    result = PassManager.parse(_CLEANING).run(merged).program
    result.history = (f"ensemble(reduce={reduce}, weights={[round(f, 6) for f in factors]})",)
    return result


def class_axis(rank: int) -> int:
    """Where the classes of logits stand: axis 1 of images and volumes, else the last."""
    return 1 if rank in (4, 5) else rank - 1


def _factors(weights: Sequence[float] | None, count: int) -> list[float]:
    given = [1.0] * count if weights is None else [float(w) for w in weights]
    if len(given) != count:
        raise InputError(f"ensemble: {len(given)} weights for {count} programs")
    total = sum(given)
    if not all(math.isfinite(w) and w >= 0 for w in given) or total <= 0:
        raise InputError(f"ensemble: weights are {given}; expected numbers from 0, one of them above")
    return [w / total for w in given]


def _objection(program: Program) -> str:
    """Why the outputs can't be averaged; empty if they can."""
    for spec in program.signature.computed_outputs:
        if not isinstance(spec, TensorSpec) or not spec.dtype.is_floating_point:
            return f"returns {spec}; only tensors of floats can be averaged"
        if not spec.shape:
            return f"returns {spec}, which has no classes and no batch"
    return "" if program.signature.computed_outputs else "returns no tensor"


def _difference(first: Signature, other: Signature) -> str:
    """Where a signature is not the first one's, the names of inputs and sizes aside; empty if it is."""
    if first.input_tree != other.input_tree:
        return f"is called in another way than program 0: {other.input_tree} against {first.input_tree}"
    if first.output_tree != other.output_tree:
        return "returns other containers than program 0"
    renamed: dict[str, str] = {}
    sides = ((first.inputs, other.inputs, "takes"), (first.outputs, other.outputs, "returns"))
    for ours, theirs, verb in sides:
        for a, b in zip(ours, theirs, strict=True):
            if not _same_spec(a, b, renamed):
                return f"{verb} {b}, program 0 {a}"
    return ""


def _same_spec(a: Spec, b: Spec, renamed: dict[str, str]) -> bool:
    if isinstance(a, TensorSpec) and isinstance(b, TensorSpec):
        same = (a.dtype, len(a.shape), a.device) == (b.dtype, len(b.shape), b.device)
        return same and all(_same_dim(x, y, renamed) for x, y in zip(a.shape, b.shape, strict=True))
    if isinstance(a, ConstantSpec) and isinstance(b, ConstantSpec):
        return type(a.value) is type(b.value) and a.value == b.value
    return type(a) is type(b)


def _same_dim(a: int | str, b: int | str, renamed: dict[str, str]) -> bool:
    """Equal numbers; names stand for one another, the same ones each time. What is computed is seen later."""
    if isinstance(a, int) or isinstance(b, int):
        return a == b
    if a.isidentifier() and b.isidentifier():
        return renamed.setdefault(b, a) == a
    return not (a.isidentifier() or b.isidentifier())


def _merged(members: Sequence[Program], factors: Sequence[float], reduce: Reduce) -> Program:
    shared = share_weights({str(i): m for i, m in enumerate(members)})
    signature, sizes = _common(members)
    table = shared_table(shared)
    graph = Graph()
    inputs = [_placeholder(graph, node) for node in members[0].placeholders()]
    stored: dict[str, Node] = {}
    results = [
        _member(graph, program, inputs, stored, number) for number, program in enumerate(shared.values())
    ]
    combine = _Combination(graph, table, factors)
    specs = [s for s in signature.computed_outputs if isinstance(s, TensorSpec)]
    outputs = [
        _COMBINE[reduce](combine, list(values), spec) for *values, spec in zip(*results, specs, strict=True)
    ]
    graph.output(tuple(outputs))
    graph.output_node().meta = {}
    try:
        program = revive(graph, table, signature, sizes)
    except ArtifactError as error:
        raise InputError(f"ensemble: the programs don't go together: {error}") from error
    program.name = f"Ensemble{len(members)}"
    program.ties = {
        alias: name for p in reversed(shared.values()) for alias, name in p.ties.items() if alias not in table
    }
    program.properties = frozenset.intersection(*(m.properties for m in members))
    return program


def _placeholder(graph: Graph, node: Node) -> Node:
    made = graph.create_node("placeholder", node.name, name=node.name)
    made.meta = {}
    return made


def _member(
    graph: Graph, program: Program, inputs: list[Node], stored: dict[str, Node], number: int
) -> list[Node]:
    """Copies a member's calls; its module paths begin with its number."""
    made: dict[Node, Node] = dict(zip(program.placeholders(), inputs, strict=True))
    for node in program.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            if name not in stored:
                stored[name] = graph.create_node("get_attr", name, name=node.name)
                stored[name].meta = {}
            made[node] = stored[name]
        elif node.op == "call_function":
            made[node] = graph.node_copy(node, lambda n: made[n])
            made[node].meta = {"origins": tuple(_numbered(o, number) for o in origins_of(node))}
    return [made[n] for n in program.output_nodes() if isinstance(n, Node)]


def _numbered(origin: Origin, number: int) -> Origin:
    return dataclasses.replace(origin, module=f"{number}.{origin.module}".removesuffix("."))


def _common(members: Sequence[Program]) -> tuple[Signature, list[Size]]:
    """The first one's signature and sizes, within what all members take."""
    first = members[0].signature
    symbols, sizes = dict(first.symbols), {s.name: s for s in sizes_of(members[0])}
    inputs = list(first.inputs)
    for member in members[1:]:
        names = dict(_renamings(member.signature, first))
        for name, symbol in member.signature.symbols.items():
            ours = symbols.get(names.get(name, ""))
            if ours is not None:
                symbols[ours.name] = Symbol(
                    ours.name, max(ours.min, symbol.min), _least(ours.max, symbol.max)
                )
        for size in sizes_of(member):
            mine = sizes.get(names.get(size.name, ""))
            if mine is not None:
                low, high = max(mine.low, size.low), _least(mine.high, size.high)
                sizes[mine.name] = dataclasses.replace(mine, low=low, high=high)
        inputs = [_narrowed(a, b) for a, b in zip(inputs, member.signature.inputs, strict=True)]
    for size in sizes.values():
        if size.high is not None and size.low > size.high:
            raise InputError(f"ensemble: no size of {size.name} is taken by all programs")
    fitting = [
        dataclasses.replace(s, example=min(max(s.example, s.low), s.high or s.example))
        for s in sizes.values()
    ]
    return dataclasses.replace(first, inputs=tuple(inputs), symbols=symbols), fitting


def _renamings(signature: Signature, first: Signature) -> Iterator[tuple[str, str]]:
    """The first one's name of each size, by the signature's own."""
    for a, b in zip(signature.tensor_inputs, first.tensor_inputs, strict=True):
        for mine, theirs in zip(a.shape, b.shape, strict=True):
            if isinstance(mine, str) and isinstance(theirs, str):
                yield mine, theirs


def _least(a: int | None, b: int | None) -> int | None:
    known = [v for v in (a, b) if v is not None]
    return min(known) if known else None


def _narrowed(a: Spec, b: Spec) -> Spec:
    """An input whose values both members take."""
    if not isinstance(a, TensorSpec) or not isinstance(b, TensorSpec):
        return a
    lows = [v for v in (a.low, b.low) if v is not None]
    return dataclasses.replace(a, low=max(lows) if lows else None, high=_least(a.high, b.high))


class _Combination:
    """The calls that make one output of the members'."""

    def __init__(self, graph: Graph, table: dict[str, torch.Tensor], factors: Sequence[float]) -> None:
        self.graph, self.table, self.factors = graph, table, factors

    def call(self, op: torch._ops.OpOverload, *args: object) -> Node:
        """Adds a canonical call."""
        positional, named = canonical_arguments(op, args, {})
        node = self.graph.create_node("call_function", op, positional, named)  # type: ignore[arg-type]  # fx's types
        node.meta = {"origins": (Origin(op="ensemble"),)}
        return node

    def mean(self, values: Sequence[Node]) -> Node:
        """The weighted mean."""
        if len(set(self.factors)) > 1:
            values = [
                self.call(aten.mul.Tensor, v, f) for v, f in zip(values, self.factors, strict=True) if f
            ]
        total = values[0]
        for value in values[1:]:
            total = self.call(aten.add.Tensor, total, value)
        alike = len(set(self.factors)) == 1 and len(values) > 1
        return self.call(aten.mul.Tensor, total, self.factors[0]) if alike else total

    def classes(self, spec: TensorSpec) -> Node:
        """The numbers of the classes, shaped to stand along their axis."""
        axis = class_axis(len(spec.shape))
        count = spec.shape[axis]
        if not isinstance(count, int):
            raise InputError(f"ensemble: {spec} has no fixed number of classes along axis {axis} to vote on")
        name = f"classes.{count}.{len(spec.shape)}"
        self.table[name] = torch.arange(count).reshape([-1] + [1] * (len(spec.shape) - 1 - axis))
        node = self.graph.create_node("get_attr", name)
        node.meta = {}
        return node


def _mean(combination: _Combination, values: list[Node], spec: TensorSpec) -> Node:
    return combination.mean(values)


def _mean_probabilities(combination: _Combination, values: list[Node], spec: TensorSpec) -> Node:
    axis = class_axis(len(spec.shape))
    return combination.mean([combination.call(aten.softmax.int, v, axis, None) for v in values])


def _vote(combination: _Combination, values: list[Node], spec: TensorSpec) -> Node:
    axis, classes = class_axis(len(spec.shape)), combination.classes(spec)
    votes = []
    for value in values:
        best = combination.call(aten.argmax.default, value, axis, True)
        chosen = combination.call(aten.eq.Tensor, best, classes)
        votes.append(combination.call(aten.to.dtype, chosen, spec.dtype))
    return combination.mean(votes)


_COMBINE: Mapping[str, Callable[[_Combination, list[Node], TensorSpec], Node]] = {
    "mean": _mean,
    "mean-probabilities": _mean_probabilities,
    "vote": _vote,
}
