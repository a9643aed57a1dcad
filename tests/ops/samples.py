"""An entry's samples as calls that can be run again with other arguments."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxopt.ops import (
    OpInfo,
    argument_kinds,
    bind_call,
    canonical_arguments,
    is_pure,
    op_info,
    resolve_op,
)


@dataclass
class Outcome:
    """Problems, and how many times the fact was put to the test."""

    problems: list[str] = field(default_factory=list)
    looked: int = 0

    def expect(self, ok: bool, problem: str) -> None:
        self.looked += 1
        if not ok:
            self.problems.append(problem)


@dataclass
class Case:
    """One sample call in canonical form, its arguments by schema name."""

    op: torch._ops.OpOverload
    bound: dict[str, object]

    def __str__(self) -> str:
        shown = ", ".join(f"{k}={_text(v)}" for k, v in self.bound.items())
        return f"{self.op}({shown})"

    def run(self, /, **changed: object) -> list[torch.Tensor]:
        """Output tensors with some arguments changed."""
        return [t for t in pytree.tree_leaves(self.value(**changed)) if isinstance(t, torch.Tensor)]

    def value(self, /, **changed: object) -> object:
        bound = {**self.bound, **changed}
        kinds = argument_kinds(self.op)
        with torch.no_grad():
            return self.op(
                *(bound[k.name] for k in kinds if not k.keyword_only),
                **{k.name: bound[k.name] for k in kinds if k.keyword_only},
            )

    def tensors(self, name: str) -> list[torch.Tensor]:
        """The tensors of an argument; none where it is a number or not given."""
        return [t for t in pytree.tree_leaves(self.bound.get(name)) if isinstance(t, torch.Tensor)]

    def tensor_names(self) -> list[str]:
        return [k.name for k in argument_kinds(self.op) if k.base == "Tensor" and self.tensors(k.name)]

    def mapped(self, name: str, function: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, object]:
        """The argument with each of its tensors mapped."""
        value = pytree.tree_map(lambda t: function(t) if isinstance(t, torch.Tensor) else t, self.bound[name])
        return {name: value}

    def node(self) -> Node:
        """The call in a graph, tensors as placeholders."""
        graph = Graph()

        def place(value: object) -> object:
            if isinstance(value, torch.Tensor):
                node = graph.placeholder("x")
                node.meta["val"] = value
                return node
            return [place(v) for v in value] if isinstance(value, list) else value

        kinds = argument_kinds(self.op)
        args = tuple(place(self.bound[k.name]) for k in kinds if not k.keyword_only)
        return graph.call_function(
            self.op, args, {k.name: place(self.bound[k.name]) for k in kinds if k.keyword_only}
        )


def _text(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else repr(value)


def cases(info: OpInfo) -> list[Case]:
    """The samples of an entry, those that belong to another entry (an overload's own) left out."""
    found = []
    for args, kwargs in info.samples() if info.samples else ():
        op = resolve_op(info.op, args, kwargs)
        if op_info(op) is info:
            positional, named = canonical_arguments(op, args, kwargs)
            found.append(Case(op, bind_call(op, positional, named)))
    return found


def pure_cases(info: OpInfo) -> list[Case]:
    return [c for c in cases(info) if is_pure(c.node())]
