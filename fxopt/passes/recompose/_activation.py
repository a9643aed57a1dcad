"""Activation functions written out: a core, such as `erf`, of arithmetic in x, and arithmetic in x and the core."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.passes.recompose._polynomial import Polynomial, Reader, close, is_arithmetic
from fxopt.rewriting import Rewriter

__all__ = ["Core", "Form", "core_of", "recompose"]

_ATOMS = 12
"""Values below a core that are tried as x."""


@dataclass(frozen=True)
class Core:
    """A call of a function that is no arithmetic."""

    node: Node
    operand: Node
    between: tuple[Node, ...] = ()
    """The calls between the two."""


@dataclass(frozen=True)
class Form:
    """One way to write an activation function: a core of `argument`, in x, and a `result`, in x and the core."""

    core: Callable[[Node], Core | None]
    argument: Polynomial
    result: Polynomial
    op: str
    options: Mapping[str, object] = field(default_factory=dict)


def core_of(*names: str) -> Callable[[Node], Core | None]:
    """The cores that are calls of one of these ops of `aten`."""

    def core(node: Node) -> Core | None:
        if aten_name(node) not in names:
            return None
        operand = bind(node)["self"]
        return Core(node, operand) if isinstance(operand, Node) else None

    return core


def recompose(rewriter: Rewriter, rule: str, forms: tuple[Form, ...]) -> None:
    """Replaces each activation function that is written out in one of these forms, in graph order."""
    for node in rewriter.nodes():
        for form in forms:
            core = None if node._erased else form.core(node)
            if core is not None:
                _recompose(rewriter, rule, form, core)


def _recompose(rewriter: Rewriter, rule: str, form: Form, core: Core) -> None:
    """Replaces one where its arithmetic is that of the form."""
    for x in _values_below(core.operand):
        below, above = Reader(x), Reader(x, core.node)
        argument = below.read(core.operand)
        root = _root(core.node, above, form) if _alike(argument, form.argument) else None
        if root is None or argument is None:
            continue
        inner = {core.node, *core.between, *below.calls, *above.inner(root)} - {x}
        why = _difference(argument, form.argument) or _difference(above.read(root), form.result)
        why = why or _other_user(inner, root)
        if why:
            rewriter.refuse(root, why, rule=rule)
            return
        with rewriter.rewrite(rule, root):
            rewriter.replace(root, rewriter.call(form.op, x, **form.options))
        return


def _alike(a: Polynomial | None, b: Polynomial) -> bool:
    return a is not None and a.keys() == b.keys()


def _values_below(operand: Node) -> list[Node]:
    """What an operand may be arithmetic in, itself first."""
    found = [operand]
    for node in found:
        if is_arithmetic(node) and len(found) < _ATOMS:
            found += [n for n in node.all_input_nodes if n not in found]
    return [n for n in found if isinstance(n.meta["val"], torch.Tensor)]


def _root(core: Node, above: Reader, form: Form) -> Node | None:
    """The first arithmetic in x and the core that is the form's result; else the last that has its terms."""
    found, todo = None, [core]
    for node in todo:
        result = above.read(node)
        if result is not None and close(result, form.result):
            return node
        if _alike(result, form.result):
            found = node
        todo += [u for u in node.users if above.read(u) is not None][:1]
    return found


def _difference(found: Polynomial | None, wanted: Polynomial) -> str:
    """Which coefficient is another; empty if none is."""
    assert found is not None
    if close(found, wanted):
        return ""
    return f"its coefficients are {_listed(found)}, not {_listed(wanted)}"


def _listed(a: Polynomial) -> str:
    return ", ".join(f"{a[powers]:.15g}" for powers in sorted(a))


def _other_user(inner: set[Node], root: Node) -> str:
    for node in inner:
        user = next((u for u in node.users if u not in inner and u is not root), None)
        if user is not None:
            return f"{node.name} has another user, {user.name}"
    return ""
