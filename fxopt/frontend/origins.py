"""Provenance of captured nodes: module path, the user's file and line."""

import re

from torch.fx import Node

from fxopt.frontend.frames import innermost, parse_frames, place_of
from fxopt.ops.info import op_key
from fxopt.program.program import COND, Origin

__all__ = ["module_entry", "node_line", "node_origin"]


def _stack_trace(node: Node) -> str:
    return str(node.meta.get("stack_trace") or "")


def node_origin(node: Node) -> Origin:
    """The origin of a node that torch.export made: the innermost frame that is not torch's own."""
    frame = innermost(parse_frames(_stack_trace(node)))
    module, _ = module_entry(node)
    op = COND if COND in node.meta else op_key(node.target)
    return Origin(module, "", 0, op) if frame is None else Origin(module, frame.file, frame.line, op)


def module_entry(node: Node) -> tuple[str, str]:
    """Path and class of the module that a node was captured in; empty for the model's own forward."""
    entries = list((node.meta.get("nn_module_stack") or {}).values())
    if not entries:
        return "", ""
    path, kind = entries[-1]
    if str(path).startswith("_empty_nn_module_stack"):  # torch's word for none
        return "", ""
    # A module called again has its call's number behind its path.
    path = re.sub(r"@\d+", "", str(path).replace("L['self'].", "").replace("L['self']", ""))
    return path, kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def node_line(node: Node) -> str:
    """` at file:line (source), module path` for messages, empty if unknown."""
    place = place_of(parse_frames(_stack_trace(node)))
    module, _ = module_entry(node)
    if place:
        return f" at {place}, module {module}" if module else f" at {place}"
    return f" in module {module}" if module else ""
