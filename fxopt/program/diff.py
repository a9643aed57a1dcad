"""What differs between two programs, as text.

Names that only count on (`add_3` became `add_2` because an op went) are no difference: calls are aligned by
what they are, not by what they are called, and the second program is printed with the first one's names.
"""

import difflib
import hashlib
from collections.abc import Iterator

import torch
from torch.fx import Node

from fxopt.program.program import Program, origins_of
from fxopt.program.text import call_text, program_text, value_text

__all__ = ["program_diff"]


def program_diff(before: Program, after: Program) -> str:
    """A unified diff of the two texts, weights of other values below; empty if they are the same."""
    text = "\n".join(
        difflib.unified_diff(
            program_text(before).splitlines(),
            program_text(after, _names(before, after)).splitlines(),
            before.name,
            after.name,
            lineterm="",
            n=2,
        )
    )
    values = "\n".join(f"~ {name}: other values" for name in _changed_weights(before, after))
    return "\n".join(part for part in (text, values) if part)


def _changed_weights(before: Program, after: Program) -> Iterator[str]:
    for name, old in before.weights.items():
        new = after.weights.get(name)
        if new is None or new is old or new.shape != old.shape or new.dtype != old.dtype:
            continue
        if old.is_meta or new.is_meta or new.data_ptr() == old.data_ptr():
            continue
        same = torch.equal(old, new) or bool(((old == new) | ((old != old) & (new != new))).all())
        if not same:
            yield name


def _names(before: Program, after: Program) -> dict[Node, str]:
    """For each node of `after` the name of the node of `before` that it stands for, or a free name."""
    old, new = list(before.calls()), list(after.calls())
    twins: dict[Node, Node] = {}
    for keys in (_by_value, _by_kind):
        found = set(twins.values())
        left = [n for n in old if n not in found]
        right = [n for n in new if n not in twins]
        matcher = difflib.SequenceMatcher(None, keys(before, left), keys(after, right))
        for block in matcher.get_matching_blocks():
            pairs = zip(left[block.a :][: block.size], right[block.b :][: block.size], strict=True)
            twins.update((n, o) for o, n in pairs)
    placeholders = zip(after.placeholders(), before.placeholders(), strict=False)
    names = {n: o.name for n, o in (*twins.items(), *placeholders)}
    taken = {n.name for n in before.graph.nodes} | set(names.values())
    for node in new:
        if node not in names:
            names[node] = _free(node.name, taken)
            taken.add(names[node])
    return names


def _free(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate


def _by_value(program: Program, nodes: list[Node]) -> list[object]:
    """What each node computes from the inputs: equal for equal calls on equal values."""
    digests: dict[Node, str] = {n: f"input {i}" for i, n in enumerate(program.placeholders())}
    for node in program.calls():
        digests[node] = hashlib.blake2b(call_text(node, digests).encode(), digest_size=12).hexdigest()
    return [digests[n] for n in nodes]


def _by_kind(program: Program, nodes: list[Node]) -> list[object]:
    """Op, literals, type and place of each node, whatever it is called with."""
    return [
        (
            call_text(node, dict.fromkeys(node.all_input_nodes, "")),
            value_text(program, node.meta.get("val")),
            tuple(map(str, origins_of(node))),
        )
        for node in nodes
    ]
