"""Motifs: a pass's own pattern planted in a program, and near-misses of it.

Uniform random programs find none of the classic pass bugs, planted motifs find all of them. A motif is a plain function in
the manner of a rule's pattern; near-misses are made from it: an inner value gets another user, a weight becomes an input,
two plantings share a weight, the motif is planted behind itself.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch.fx import Node

from fxopt.rewriting.recorder import Recording, RecordingError, record
from fxopt.rewriting.rule import ArgumentKind, Parameter, Rule, rule_parameters
from fxopt.rewriting.sizes import NoSize, size_node
from fxopt.rewriting.template import example_arguments
from fxopt.testing.builder import ProgramBuilder
from fxopt.testing.choice import Choose

__all__ = ["plant"]

Motif = Callable[..., object]


def plant(draw: Choose, b: ProgramBuilder, motif: Motif, pool: Sequence[Node]) -> list[Node]:
    """Plants a motif; returns its results, and inner values that must get another user.

    Args:
        draw: choices.
        b: the program.
        motif: annotated as a rule's pattern is.
        pool: values that may serve as its arguments.
    """
    parameters, examples = _examples(motif)
    literals, tensors = draw.of(examples)
    dynamic = not draw.chance(4)
    shapes = {n: _shape(b, p, t, dynamic) for p in parameters if (t := tensors.get(n := p.name)) is not None}
    recording = _record(b, motif, parameters, literals, tensors, shapes)
    if recording is None:
        shapes = {n: list(t.shape) for n, t in tensors.items()}
        recording = _record(b, motif, parameters, literals, tensors, shapes)
    if recording is None:
        return []
    nodes = {
        p.name: _argument(draw, b, p, tensors[p.name].dtype, shapes[p.name], pool) for p in parameters if p.name in tensors
    }
    return _emit(draw, b, recording, nodes)


_Example = tuple[dict[str, object], dict[str, torch.Tensor]]


@cache
def _examples(motif: Motif) -> tuple[tuple[Parameter, ...], list[_Example]]:
    """A motif's arguments and values under which it runs: searched for once."""
    rule = Rule(motif, motif)
    return rule_parameters(rule), example_arguments(rule)


def _shape(b: ProgramBuilder, parameter: Parameter, tensor: torch.Tensor, dynamic: bool) -> list[int | torch.SymInt]:
    shape: list[int | torch.SymInt] = list(tensor.shape)
    if dynamic and parameter.kind is ArgumentKind.TENSOR and len(shape) >= 2:
        shape[0] = b.batch
    return shape


def _record(
    b: ProgramBuilder,
    motif: Motif,
    parameters: Sequence[Parameter],
    literals: dict[str, object],
    tensors: dict[str, torch.Tensor],
    shapes: dict[str, list[int | torch.SymInt]],
) -> Recording | None:
    with b.program.fake_mode:
        fakes = {n: torch.empty(tuple(shapes[n]), dtype=t.dtype) for n, t in tensors.items()}
    values = {p.name: fakes[p.name] if p.name in fakes else literals.get(p.name) for p in parameters}
    try:
        return record(b.program, motif, values)
    except RecordingError:
        return None


def _argument(
    draw: Choose, b: ProgramBuilder, parameter: Parameter, dtype: torch.dtype, shape: list[int | torch.SymInt], pool: Sequence[Node]
) -> Node:
    """A node for an argument: a weight for a `Const` (once in eight an input), a value of the pool or a new input."""
    key = list(map(str, shape))
    if parameter.kind is ArgumentKind.CONST and not draw.chance(8):
        sizes = [int(d) for d in shape]
        same = [w for w in b.program.weight_nodes() if list(map(str, w.meta["val"].shape)) == key and w.meta["val"].dtype == dtype]
        if same and draw.chance(3):
            return draw.of(same)
        kind = "positive" if "var" in parameter.name else draw.of(("normal", "normal", "normal", "constant", "integers"))
        return b.weight(sizes, kind=kind, seed=draw.below(8), dtype=dtype)
    fitting = [p for p in pool if list(map(str, b.value(p).shape)) == key and b.value(p).dtype == dtype]
    if fitting and not draw.chance(5):
        return draw.latest(fitting)
    bounds = {} if dtype.is_floating_point or dtype is torch.bool else {"low": 0, "high": 2}
    return b.input(shape, dtype=dtype, **bounds)


def _emit(draw: Choose, b: ProgramBuilder, recording: Recording, nodes: dict[str, Node]) -> list[Node]:
    env: dict[Node, Node] = {placeholder: nodes[name] for name, placeholder in recording.placeholders.items()}
    sources = list(nodes.values())
    inner: list[Node] = []

    def argument(value: object) -> object:
        if isinstance(value, Node):
            return env[value]
        if isinstance(value, (list, tuple)):
            return [argument(v) for v in value]
        if isinstance(value, torch.SymInt):
            return size_node(b.call, value.node.expr, sources)
        return value

    try:
        for call in recording.calls:
            env[call] = b.call(call.target, *map(argument, call.args), **{k: argument(v) for k, v in call.kwargs.items()})
            if call not in recording.outputs and isinstance(call.meta["val"], torch.Tensor):
                inner.append(env[call])
    except NoSize:
        return []
    results = [env[o] for o in recording.outputs if isinstance(o, Node)]
    return [*results, draw.of(inner)] if inner and draw.chance(6) else results
