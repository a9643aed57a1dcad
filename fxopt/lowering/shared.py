"""What targets do alike: names for generated code, calls without their defaults, calls that do nothing."""

import keyword
import re
from collections.abc import Iterable

import torch
from torch.fx import Node

from fxopt.lowering.regions import Choice, choices
from fxopt.ops.info import op_key
from fxopt.ops.schema import argument_kinds, is_random
from fxopt.program.program import COND, Program, origins_of

__all__ = ["Names", "essential_arguments", "is_choice", "node_choices", "skipped_input"]

_DROPOUTS = frozenset(
    f"aten.{name}.default"
    for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
)


def skipped_input(node: Node) -> Node | None:
    """The input that stands for a call which does nothing at inference (dropout in eval mode), else None."""
    if not isinstance(node.target, torch._ops.OpOverload) or op_key(node.target) not in _DROPOUTS:
        return None
    x, train = node.args[0], node.args[2] if len(node.args) > 2 else node.kwargs.get("train")
    return x if isinstance(x, Node) and train is False else None


def is_choice(node: Node) -> bool:
    """Whether a call picks a result of two branches (a `where` that was a `torch.cond`)."""
    return node.target is torch.ops.aten.where.self and any(o.op == COND for o in origins_of(node))


def node_choices(program: Program) -> list[Choice[Node]]:
    """The branches of a program: which calls only one side of a `torch.cond` needs."""
    calls = list(program.calls())
    groups: dict[object, list[Node]] = {}
    for node in calls:
        if is_choice(node) and node.args[1] is not node.args[2]:
            groups.setdefault(node.args[0], []).append(node)
    if not groups:
        return []
    uses = {n: [(u, _place(u, n)) for u in n.users] for n in calls}
    # A draw is made whichever side is taken: those after it would draw other numbers else.
    kept = {n for n in calls if is_random(n) or any(u.op == "output" for u in n.users)}
    return choices(calls, uses, kept, list(groups.values()))


def _place(user: Node, node: Node) -> int:
    """In which argument alone a call uses a node; 0 if in several."""
    places = [i for i, a in enumerate(user.args) if a is node]
    return places[0] if len(places) == 1 else 0


def essential_arguments(node: Node) -> tuple[tuple[object, ...], dict[str, object]]:
    """A call's arguments without those at its end, and among its keywords, that are the schema's defaults."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return tuple(node.args), dict(node.kwargs)
    kinds = argument_kinds(node.target)
    defaults = {k.name: k.default for k in kinds if not k.required}
    args: list[object] = list(node.args)
    while (
        args
        and kinds[len(args) - 1].name in defaults
        and _same(args[-1], defaults[kinds[len(args) - 1].name])
    ):
        args.pop()
    kwargs: dict[str, object] = {
        k: v for k, v in node.kwargs.items() if not (k in defaults and _same(v, defaults[k]))
    }
    return tuple(args), kwargs


def _same(value: object, default: object) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
        return len(value) == len(default) and all(map(_same, value, default))
    return type(value) is type(default) and value == default


class Names:
    """Distinct ASCII identifiers, as near to the wanted ones as can be."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self.used = set(reserved)

    def new(self, wanted: str) -> str:
        """A name that was not given yet."""
        base = re.sub(r"\W", "_", wanted, flags=re.ASCII) or "x"
        if base[0].isdigit() or keyword.iskeyword(base):
            base = f"_{base}"
        name, i = base, 1
        while name in self.used:
            name, i = f"{base}_{i}", i + 1
        self.used.add(name)
        return name
