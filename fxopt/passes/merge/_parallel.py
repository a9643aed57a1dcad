"""Layers of constant weights that read the same tensor, and the weights of the one layer that does their work."""

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.program import Program, trained_as
from fxopt.rewriting import Rewriter

__all__ = ["common_name", "groups_of", "replace_by_pieces", "stacked_weights"]

Arguments = Mapping[str, object]


def groups_of(
    rewriter: Rewriter, layers: Sequence[Node], alike: Callable[[Arguments], object], rule: str
) -> list[list[Node]]:
    """Two or more layers that read one tensor, are `alike`, and whose weights nothing else reads.

    Each group is in an order in which that of the graph has no part: as one comes upon its layers from the outputs on.
    Layers beside others that can't be with them are refused.
    """
    found: dict[object, list[Node]] = defaultdict(list)
    beside: dict[object, list[tuple[Node, str]]] = defaultdict(list)
    for node in layers:
        given = bind(node)
        why = _objection(rewriter, given)
        if why:
            beside[given["input"]].append((node, why))
        else:
            weight = rewriter.value(given["weight"])
            assert weight is not None
            found[given["input"], weight.dtype, weight.requires_grad, alike(given)].append(node)
    groups = [nodes for nodes in found.values() if len(nodes) > 1]
    for x in dict.fromkeys(n.args[0] for nodes in groups for n in nodes):
        for node, why in beside[x]:
            rewriter.refuse(node, why, rule=rule)
    return _in_output_order(rewriter.program, groups)


def _objection(rewriter: Rewriter, given: Arguments) -> str:
    """Why a layer's weights can't be among those of another; empty if they can."""
    stored = [given["weight"], *([] if given["bias"] is None else [given["bias"]])]
    values = [v for s in stored if (v := rewriter.value(s)) is not None and not v.is_meta]
    if len(values) < len(stored):
        return "a weight is not known at compile time"
    if values[0].dim() == 1:
        return "its weight is a vector: its result has no axis of outputs"
    if any(isinstance(s, Node) and len(s.users) > 1 for s in stored):
        return "a weight has another user, for which it stays"
    if values[-1].requires_grad != values[0].requires_grad:
        return "weight and bias do not train together"
    return "the bias is no vector" if len(values) > 1 and values[1].dim() != 1 else ""


def _in_output_order(program: Program, groups: Sequence[list[Node]]) -> list[list[Node]]:
    """Each group sorted by a walk from the outputs through operands in their order."""
    if not groups:
        return []
    place: dict[Node, int] = {}
    todo = [(program.graph.output_node(), False)]
    seen: set[Node] = set()
    while todo:
        node, done = todo.pop()
        if done:
            place[node] = len(place)
        elif node not in seen:
            seen.add(node)
            todo.append((node, True))
            todo += [(n, False) for n in reversed(node.all_input_nodes)]
    return [sorted(group, key=lambda n: place.get(n, len(place))) for group in groups]


def stacked_weights(rewriter: Rewriter, layers: Sequence[Node]) -> dict[str, Node | None]:
    """The layers' rows one below the other, as `weight` and `bias`; no bias if none has one. Inside a rewrite."""
    given = [bind(n) for n in layers]
    weights = [w for g in given if (w := rewriter.value(g["weight"])) is not None]
    biases = [rewriter.value(g["bias"]) for g in given]
    made: dict[str, Node | None] = {"bias": None}
    made["weight"] = _stored(rewriter, weights, weights, [g["weight"] for g in given])
    if any(b is not None for b in biases):
        rows = [w.new_zeros(w.shape[0]) if b is None else b for w, b in zip(weights, biases, strict=True)]
        made["bias"] = _stored(rewriter, rows, biases, [g["bias"] for g in given])
    return made


def _stored(
    rewriter: Rewriter, rows: Sequence[torch.Tensor], sources: Sequence[object], places: Sequence[object]
) -> Node:
    names = [str(p.target) for p in places if isinstance(p, Node)]
    whole = torch.cat([r.detach() for r in rows])
    return rewriter.constant(trained_as(whole, sources), name=common_name(names))


def replace_by_pieces(rewriter: Rewriter, layers: Sequence[Node], whole: Node, dim: int) -> None:
    """Each layer becomes its part of a result along a dimension. Inside a rewrite."""
    sizes = [n.meta["val"].shape[dim] for n in layers]
    pieces = rewriter.call("aten.split_with_sizes", whole, sizes, dim)
    for index, node in enumerate(layers):
        rewriter.replace(node, rewriter.call(operator.getitem, pieces, index))


def common_name(names: Sequence[str]) -> str:
    """One name for several weights: what they share, and what they don't in a row.

    >>> common_name(["encoder.query.weight", "encoder.key.weight"]), common_name(["a.w", "b"])
    ('encoder.query_key.weight', 'a_w_b')
    """
    parts = [name.split(".") for name in names]
    start = _shared(parts)
    end = _shared([p[start:][::-1] for p in parts])
    own = ["_".join(p[start : len(p) - end]) for p in parts]
    return ".".join([*parts[0][:start], "_".join(own), *parts[0][len(parts[0]) - end :]])


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """How many parts all begin with; one is left to each."""
    most = min(map(len, parts)) - 1
    return next((i for i in range(most) if len({p[i] for p in parts}) > 1), most)
