"""What several recordings of one pattern have in common: a literal that differs between them is a wildcard.

>>> a = (TemplateNode(0, "softmax", (Bind("x"), Literal(1)), ()),)
>>> b = (TemplateNode(0, "softmax", (Bind("x"), Literal(2)), ()),)
>>> unified(a, b)[0].args
(Bind(name='x'), Wild())
"""

from dataclasses import dataclass, replace

from fxopt.program import value_key
from fxopt.rewriting.rule import Parameter
from fxopt.rewriting.terms import Argument, Bind, BindLiteral, Listed, Literal, TemplateNode, Use, Wild

__all__ = ["Changed", "binds_literal", "inherited", "unified"]

_Nodes = tuple[TemplateNode, ...]


@dataclass(frozen=True)
class Changed:
    """A literal argument that had one value in the first recording, another in the second."""

    parameter: Parameter
    first: object
    second: object


def unified(a: _Nodes, b: _Nodes, changed: Changed | None = None) -> _Nodes | None:
    """What two recordings have in common; None if they are different graphs.

    Args:
        a: may have wildcards already.
        b: of the same pattern on other values.
        changed: where the two differ as this literal does, it stands.
    """
    if [n.target for n in a] != [n.target for n in b]:
        return None
    nodes: list[TemplateNode] = []
    for x, y in zip(a, b, strict=True):
        if len(x.args) != len(y.args) or len(x.kwargs) != len(y.kwargs):
            return None
        args = [_argument(p, q, changed) for p, q in zip(x.args, y.args, strict=True)]
        named = [(k, _argument(p, q, changed)) for (k, p), (_, q) in zip(x.kwargs, y.kwargs, strict=True)]
        if None in args or None in [v for _, v in named]:
            return None
        kept = tuple(v for v in args if v is not None)
        nodes.append(replace(x, args=kept, kwargs=tuple((k, v) for k, v in named if v is not None)))
    return tuple(nodes)


def inherited(nodes: _Nodes, full: _Nodes) -> _Nodes | None:
    """Nodes with the wildcards and bound literals of others that make the same calls; None if they don't."""
    if [n.target for n in nodes] != [n.target for n in full]:
        return None

    def merged(own: Argument, other: Argument) -> Argument:
        return other if isinstance(other, (Wild, BindLiteral)) and not isinstance(own, BindLiteral) else own

    return tuple(
        replace(
            n,
            args=tuple(map(merged, n.args, f.args)),
            kwargs=tuple((k, merged(a, b)) for (k, a), (_, b) in zip(n.kwargs, f.kwargs, strict=True)),
        )
        for n, f in zip(nodes, full, strict=True)
    )


def binds_literal(nodes: _Nodes, name: str) -> bool:
    """Whether a literal argument stands somewhere."""

    def inside(argument: Argument) -> bool:
        if isinstance(argument, Listed):
            return any(map(inside, argument.items))
        return isinstance(argument, BindLiteral) and argument.name == name

    return any(inside(a) for n in nodes for a in n.arguments)


def _plain(argument: Argument) -> object:
    """The Python value of an argument made of literals only, else the argument itself."""
    if isinstance(argument, Literal):
        return argument.value
    if isinstance(argument, Listed) and all(isinstance(i, Literal) for i in argument.items):
        return [i.value for i in argument.items if isinstance(i, Literal)]
    return argument


def _argument(a: Argument, b: Argument, changed: Changed | None) -> Argument | None:
    if isinstance(a, (Wild, BindLiteral)):
        return a
    x, y = _plain(a), _plain(b)
    if changed is not None and not isinstance(x, (Use, Bind, Listed)):
        moved = value_key(x) == value_key(changed.first) and value_key(y) == value_key(changed.second)
        if moved:
            return BindLiteral(changed.parameter.name, changed.parameter.kind)
    if isinstance(a, Listed) and isinstance(b, Listed) and len(a.items) == len(b.items):
        items = [_argument(p, q, changed) for p, q in zip(a.items, b.items, strict=True)]
        return None if None in items else Listed(tuple(i for i in items if i is not None))
    if isinstance(a, (Use, Bind)) or isinstance(b, (Use, Bind)) or a.uses or a.binds:
        return a if a == b else None
    if isinstance(a, Literal) and isinstance(b, Literal):
        return a if value_key(a.value) == value_key(b.value) else Wild()
    return Wild()
