"""Value ranges of integer inputs, read off the graph: an embedding's index lies below its number of rows.

Where the graph says nothing the example's own range counts, 0 and 1 included (a mask may be all ones in the
example).
"""

import dataclasses

import torch
from torch.fx import Node

from fxopt.ops.info import op_key
from fxopt.program.program import Program
from fxopt.program.signature import Signature, Spec, TensorSpec

__all__ = ["with_value_ranges"]

_CARRIERS = frozenset(
    {
        "reshape", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "flatten", "to",
        "index_select", "index", "cat", "repeat", "gather", "chunk", "split", "getitem", "masked_fill",
        "where", "flip", "roll", "stack",
    }
)  # fmt: skip
"""Ops whose output values are values of their input."""

_INDEXING = {
    "embedding": ("weight", 1),
    "embedding_bag": ("weight", 1),
    "index_select": ("self", 2),
    "gather": ("self", 2),
}
"""Ops that read an index: the indexed argument's position is 0, the index's position."""


def _integers(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and not dtype.is_complex and dtype is not torch.bool


def _rows(user: Node, node: Node) -> int | None:
    """How many values the use allows, if `node` is the index of an indexing op."""
    parts = op_key(user.target).split(".")
    name = parts[1] if len(parts) > 1 else ""
    entry = _INDEXING.get(name)
    if entry is None or len(user.args) <= entry[1] or user.args[entry[1]] is not node:
        return None
    table = user.args[0]
    if not isinstance(table, Node) or not isinstance(table.meta.get("val"), torch.Tensor):
        return None
    axis = user.args[1] if name in ("index_select", "gather") else 0
    size = table.meta["val"].shape[axis]
    return size if isinstance(size, int) else None


def _bound(start: Node) -> int | None:
    """The smallest table that the input's values index, through ops that carry values."""
    seen: set[Node] = set()
    todo = [start]
    bounds: list[int] = []
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        for user in node.users:
            rows = _rows(user, node)
            if rows is not None:
                bounds.append(rows)
            elif user.op == "call_function" and _carries(user):
                todo.append(user)
    return min(bounds, default=None)


def _carries(node: Node) -> bool:
    value = node.meta.get("val")
    dtype = value.dtype if isinstance(value, torch.Tensor) else None
    parts = op_key(node.target).split(".")
    return (dtype is None or _integers(dtype)) and (parts[1] if len(parts) > 1 else parts[0]) in _CARRIERS


def with_value_ranges(program: Program, examples: list[torch.Tensor]) -> Signature:
    """The program's signature with `low` and `high` on its integer inputs."""
    nodes = iter(program.placeholders())
    tensors = iter(examples)
    specs: list[Spec] = []
    for spec in program.signature.inputs:
        if not isinstance(spec, TensorSpec):
            specs.append(spec)
            continue
        node, example = next(nodes), next(tensors, None)
        specs.append(_ranged(spec, node, example) if _integers(spec.dtype) else spec)
    return dataclasses.replace(program.signature, inputs=tuple(specs))


def _ranged(spec: TensorSpec, node: Node, example: torch.Tensor | None) -> TensorSpec:
    bound = _bound(node)
    if bound is not None:
        return dataclasses.replace(spec, low=0, high=bound - 1)
    if example is None or example.numel() == 0 or example.is_meta:
        return dataclasses.replace(spec, low=0, high=1)
    low, high = int(example.min()), int(example.max())
    return dataclasses.replace(spec, low=min(low, 0), high=max(high, 1))
