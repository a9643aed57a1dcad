"""What several recordings of one pattern have in common: equal literals stay, differing ones are wildcards."""

import torch
from torch.fx import Node

from fxopt.program.inference import value_key
from fxopt.rewriting.pattern import (
    Argument,
    Bind,
    BindLiteral,
    Listed,
    Literal,
    TemplateNode,
    Use,
    Wild,
    used_calls,
)
from fxopt.rewriting.recorder import Recording
from fxopt.rewriting.rule import Parameter

__all__ = ["Changed", "binds", "depth_of", "template_nodes", "unified"]


def template_nodes(recording: Recording) -> tuple[TemplateNode, ...]:
    """A recording's calls as template calls, every literal fixed; sizes that are symbols are wildcards."""
    order = {n: i for i, n in enumerate(recording.calls)}
    names = {n: name for name, n in recording.placeholders.items()}

    def argument(value: object) -> Argument:
        if isinstance(value, Node):
            return Use(order[value]) if value in order else Bind(names[value])
        if isinstance(value, (list, tuple)):
            return Listed(tuple(map(argument, value)))
        return Wild() if isinstance(value, torch.SymInt) else Literal(value)

    return tuple(
        TemplateNode(
            i,
            n.target,
            tuple(map(argument, n.args)),
            tuple((k, argument(v)) for k, v in n.kwargs.items()),
        )
        for n, i in order.items()
    )


Changed = tuple[Parameter, object, object]


def unified(
    a: tuple[TemplateNode, ...], b: tuple[TemplateNode, ...], changed: Changed | None
) -> tuple[TemplateNode, ...] | None:
    """What two recordings have in common, differing literals as wildcards; None if they are different graphs."""
    if [n.target for n in a] != [n.target for n in b]:
        return None
    nodes = []
    for x, y in zip(a, b, strict=True):
        args = [_unified_argument(p, q, changed) for p, q in zip(x.args, y.args, strict=True)]
        kwargs = [
            (k, _unified_argument(p, q, changed)) for (k, p), (_, q) in zip(x.kwargs, y.kwargs, strict=True)
        ]
        if any(arg is None for arg in args) or any(arg is None for _, arg in kwargs):
            return None
        nodes.append(
            TemplateNode(
                x.index,
                x.target,
                tuple(arg for arg in args if arg is not None),
                tuple((k, arg) for k, arg in kwargs if arg is not None),
            )
        )
    return tuple(nodes)


def _literal_value(argument: Argument) -> object:
    """The Python value of an argument made of literals only, else the argument itself."""
    if isinstance(argument, Literal):
        return argument.value
    if isinstance(argument, Listed) and all(isinstance(i, Literal) for i in argument.items):
        return [i.value for i in argument.items if isinstance(i, Literal)]
    return argument


def _unified_argument(a: Argument, b: Argument, changed: Changed | None) -> Argument | None:
    if isinstance(a, (Wild, BindLiteral)):
        return a
    x, y = _literal_value(a), _literal_value(b)
    if changed is not None and not isinstance(x, (Use, Bind, Listed)):
        parameter, base, value = changed
        if value_key(x) == value_key(base) and value_key(y) == value_key(value):
            return BindLiteral(parameter.name, parameter.kind)
    if isinstance(a, Listed) and isinstance(b, Listed) and len(a.items) == len(b.items):
        items = [_unified_argument(p, q, changed) for p, q in zip(a.items, b.items, strict=True)]
        return None if any(i is None for i in items) else Listed(tuple(i for i in items if i is not None))
    if isinstance(a, (Use, Bind)) or isinstance(b, (Use, Bind)):
        return a if a == b else None
    if isinstance(a, Literal) and isinstance(b, Literal):
        return a if value_key(a.value) == value_key(b.value) else Wild()
    return Wild()


def binds(nodes: tuple[TemplateNode, ...], name: str) -> bool:
    """Whether a literal argument stands somewhere in the calls."""

    def inside(argument: Argument) -> bool:
        if isinstance(argument, Listed):
            return any(map(inside, argument.items))
        return isinstance(argument, BindLiteral) and argument.name == name

    return any(inside(a) for n in nodes for a in (*n.args, *(v for _, v in n.kwargs)))


def depth_of(nodes: tuple[TemplateNode, ...]) -> int:
    """The longest chain of calls."""
    depth: list[int] = []
    for node in nodes:
        uses = [u for a in (*node.args, *(v for _, v in node.kwargs)) for u in used_calls(a)]
        depth.append(1 + max((depth[u] for u in uses), default=0))
    return max(depth, default=0)
