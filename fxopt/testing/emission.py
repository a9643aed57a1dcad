"""A recorded motif's calls made in a program, some of them with other literals.

>>> from fxopt.rewriting.recorder import record
>>> b = ProgramBuilder()
>>> x = b.input((b.batch, 4))
>>> recording = record(b.program, lambda x: x.sum(1).relu(), {"x": b.value(x)})
>>> results, inner = emitted(b, recording, {"x": x}, {(0, 1): [0]})
>>> [list(b.value(n).shape) for n in (*results, *inner)]
[[4], [4]]
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.ops import resolve_op
from fxopt.rewriting.recorder import Recording
from fxopt.rewriting.sizes import NoSize, size_node
from fxopt.testing.builder import ProgramBuilder

__all__ = ["NoSize", "SizeOf", "Spot", "emitted"]

Spot = tuple[int, int | str]
"""A call by number and its argument, by position or name."""


@dataclass(frozen=True)
class SizeOf:
    """A literal that is read from a tensor argument of the motif."""

    name: str
    axis: int


def emitted(
    b: ProgramBuilder,
    recording: Recording,
    nodes: Mapping[str, Node | float],
    literals: Mapping[Spot, object],
) -> tuple[list[Node], list[Node]]:
    """The motif's results, and the tensors on the way to them.

    Args:
        b: the program.
        recording: of the motif.
        nodes: its tensor arguments by name; a number may stand for one.
        literals: what stands at some spots instead.

    Raises:
        NoSize: a size can't be computed.
        Exception: an op does not take these arguments.
    """
    env: dict[Node, object] = {p: nodes[name] for name, p in recording.placeholders.items() if name in nodes}
    sources = [n for n in nodes.values() if isinstance(n, Node)]

    def argument(value: object) -> object:
        if isinstance(value, Node):
            return env[value]
        if isinstance(value, (list, tuple)):
            return [argument(v) for v in value]
        if isinstance(value, torch.SymInt):
            return size_node(b.call, value.node.expr, sources)
        if isinstance(value, SizeOf):
            return b.call(torch.ops.aten.sym_size.int, nodes[value.name], value.axis)
        return value

    inner: list[Node] = []
    for at, call in enumerate(recording.calls):
        args = [argument(literals.get((at, i), a)) for i, a in enumerate(call.args)]
        kwargs = {k: argument(literals.get((at, k), v)) for k, v in call.kwargs.items()}
        env[call] = made = b.call(_overload(call, args, kwargs), *args, **kwargs)
        if call not in recording.outputs and isinstance(made.meta["val"], torch.Tensor):
            inner.append(made)
    results = [env[o] for o in recording.outputs if isinstance(o, Node)]
    return [r for r in results if isinstance(r, Node)], inner


def _overload(call: Node, args: list[object], kwargs: dict[str, object]) -> object:
    """The call's op, or where a number has come to stand for a tensor the overload that takes it."""
    target = call.target
    was = [isinstance(a, Node) for a in call.args]
    if not isinstance(target, torch._ops.OpOverload) or was == [isinstance(a, Node) for a in args]:
        return target
    return resolve_op(target.overloadpacket, args, kwargs)
