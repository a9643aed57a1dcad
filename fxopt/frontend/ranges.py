"""Value ranges of integer inputs, read off the graph: an embedding's index lies below its number of rows.

Where the graph says nothing the example's own range counts, 0 and 1 included (a mask may be all ones in the
example).
"""

import dataclasses
from collections.abc import Iterator

import torch
from torch.fx import Node

from fxopt.ops import bind, op_key
from fxopt.program.program import Program
from fxopt.program.signature import Signature, Spec, TensorSpec

__all__ = ["table_rows", "with_value_ranges", "within_tables"]

_CARRIED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "reshape", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "flatten", "to",
            "index_select", "index", "repeat", "gather", "chunk", "split", "masked_fill", "flip", "roll",
        ),
        ("self",),
    ),
    "cat": ("tensors",),
    "stack": ("tensors",),
    "where": ("self", "other"),
}  # fmt: skip
"""Ops whose output values are values of these arguments."""

_INDEXED: dict[str, tuple[str, str]] = {
    "embedding": ("weight", "indices"),
    "embedding_bag": ("weight", "indices"),
    "index": ("self", "indices"),
    "index_put": ("self", "indices"),
    "index_select": ("self", "index"),
    "index_copy": ("self", "index"),
    "index_add": ("self", "index"),
    "index_fill": ("self", "index"),
    "gather": ("self", "index"),
    "scatter": ("self", "index"),
    "scatter_add": ("self", "index"),
    "take_along_dim": ("self", "indices"),
}
"""Ops that read an index: the argument that is indexed, the argument that indexes it."""


def _integers(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and not dtype.is_complex and dtype is not torch.bool


def _op(node: Node) -> str:
    parts = op_key(node.target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _members(argument: object) -> list[object]:
    return list(argument) if isinstance(argument, (list, tuple)) else [argument]


def _rows(user: Node, node: Node) -> Iterator[int | None]:
    """How many values each use of `node` as an index allows; None where the size varies."""
    arguments = bind(user)
    classes = arguments.get("num_classes")
    if _op(user) == "one_hot" and isinstance(classes, int):
        yield classes
    table_name, index_name = _INDEXED.get(_op(user), ("", ""))
    table, indices = arguments.get(table_name), arguments.get(index_name)
    if not isinstance(table, Node) or not isinstance(table.meta.get("val"), torch.Tensor):
        return
    for position, index in enumerate(_members(indices)):
        axis = position if isinstance(indices, (list, tuple)) else arguments.get("dim", 0)
        if index is not node or not isinstance(axis, int):
            continue
        shape = table.meta["val"].shape or (1,)  # a number is indexed as a vector of one element
        size = shape[axis]
        yield size if isinstance(size, int) else None


def _carries(user: Node, node: Node) -> bool:
    """Whether the values of a call's result are values of `node`."""
    value = user.meta.get("val")
    if isinstance(value, torch.Tensor) and not _integers(value.dtype):
        return False
    if _op(user) == "getitem":
        return True
    arguments = bind(user)
    return any(m is node for name in _CARRIED.get(_op(user), ()) for m in _members(arguments.get(name)))


def table_rows(start: Node, *, varying: int | None = None) -> int | None:
    """The rows of the smallest table that a node's values index, through ops that carry values; None if of none.

    Args:
        start: whose values are read.
        varying: for how many rows a table counts whose size varies; by default for none.
    """
    seen: set[Node] = set()
    todo = [start]
    bounds: list[int] = []
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        for user in node.users:
            if user.op == "call_function":
                bounds += (rows for r in _rows(user, node) if (rows := varying if r is None else r))
                if _carries(user, node):
                    todo.append(user)
    return min(bounds, default=None)


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
    bound = table_rows(node)
    if bound is not None:
        return dataclasses.replace(spec, low=0, high=bound - 1)
    if example is None or example.numel() == 0 or example.is_meta:
        return dataclasses.replace(spec, low=0, high=1)
    low, high = int(example.min()), int(example.max())
    return dataclasses.replace(spec, low=min(low, 0), high=max(high, 1))


def within_tables(program: Program) -> Signature:
    """The program's signature, `high` of its integer inputs lowered to the rows of what they index at any size."""
    nodes = iter(program.placeholders())
    specs = [_below(s, next(nodes)) if isinstance(s, TensorSpec) else s for s in program.signature.inputs]
    return dataclasses.replace(program.signature, inputs=tuple(specs))


def _below(spec: TensorSpec, node: Node) -> TensorSpec:
    bound = table_rows(node, varying=1) if _integers(spec.dtype) else None
    if bound is None or spec.high is None or spec.high < bound:
        return spec
    return dataclasses.replace(spec, low=min(spec.low or 0, bound - 1), high=bound - 1)
