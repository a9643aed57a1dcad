"""Provenance of captured nodes: module path, the user's file and line."""

import re

from torch.fx import Node

from fxopt.ops.info import op_key
from fxopt.program.program import Origin

__all__ = ["node_line", "node_origin"]

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in ')


def node_origin(node: Node) -> Origin:
    """The origin of a node that torch.export made: the innermost user frame that is not torch's own."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")]
    file, line = (own or frames or [("", "0")])[-1]
    return Origin(_module_path(node), file, int(line), op_key(node.target))


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    entries = list(stack.values())
    if not entries:
        return ""
    path = str(entries[-1][0])
    path = path.replace("L['self'].", "").replace("L['self']", "")
    return re.sub(r"@\d+", "", path)


def node_line(node: Node) -> str:
    """` at file:line (module)` for messages, empty if unknown."""
    origin = node_origin(node)
    place = f"{origin.file}:{origin.line}" if origin.file else ""
    module = f"module {origin.module}" if origin.module else ""
    both = ", ".join(p for p in (place, module) if p)
    return f" at {both}" if both else ""
