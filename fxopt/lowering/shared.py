"""What targets do alike: names for generated code, calls without their defaults, calls that do nothing."""

import keyword
import re
from collections.abc import Iterable

import torch
from torch.fx import Node

from fxopt.ops.info import op_key
from fxopt.ops.schema import argument_kinds

__all__ = ["Names", "essential_arguments", "skipped_input"]

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
