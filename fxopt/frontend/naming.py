"""Names: identifiers for nodes, the user's names for sizes, names for outputs.

>>> identifier("layer1.0.conv"), identifier("input"), identifier("3d")
('layer1_0_conv', 'input_', '_3d')
"""

import builtins
import keyword
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from fxopt.frontend.origins import module_entry
from fxopt.ops.info import op_key

__all__ = ["NodeNames", "call_name", "identifier", "output_names", "unique"]


def identifier(name: str) -> str:
    """A Python identifier for a name: no keyword, no builtin."""
    text = re.sub(r"\W", "_", name)
    if not text or text[0].isdigit():
        text = f"_{text}"
    return f"{text}_" if keyword.iskeyword(text) or hasattr(builtins, text) else text


def unique(name: str, taken: Iterable[str]) -> str:
    """The name, with a number behind it if it is taken."""
    taken = set(taken)
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


class NodeNames:
    """Names for calls: a layer of one op has its module's name (`conv1`), other calls their op's (`add`)."""

    def __init__(self, graph: Graph) -> None:
        self._calls = Counter(_layer_call(n) for n in graph.nodes if n.op == "call_function")

    def layer(self, node: Node) -> str:
        """What the layer of a captured call is called, if the call is all that it does; else empty."""
        call = _layer_call(node)
        last = call[0].rsplit(".", 1)[-1]
        return last if call[1] and self._calls[call] == 1 and last.isidentifier() else ""


def _layer_call(node: Node) -> tuple[str, str]:
    """Path and call of the layer that a node belongs to; empty where it is in no layer of torch's own."""
    path, kind = module_entry(node)
    if not kind.startswith("torch.nn.modules.") or kind.startswith("torch.nn.modules.container."):
        return "", ""
    stack = node.meta.get("nn_module_stack") or {}
    return path, str(next(reversed(stack)))


def call_name(target: object) -> str:
    """`conv2d` for `aten.conv2d.default`, the function's name for sizes."""
    parts = op_key(target).split(".")
    return parts[1] if len(parts) == 3 else parts[-1]


def output_names(tree: pytree.TreeSpec, taken: Iterable[str]) -> list[str]:
    """`output`, `output_1`, or the keys of dicts and fields of classes; never an input's name."""
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(tree.num_leaves)), tree))
    return list(_distinct((_output_name(path) for path, _ in paths), frozenset(taken)))


def _output_name(path: Iterable[object]) -> str:
    parts = [str(next((getattr(k, a) for a in ("key", "name", "idx") if hasattr(k, a)), k)) for k in path]
    return "_".join(parts) if parts and not parts[0].isdigit() else "_".join(["output", *parts])


def _distinct(names: Iterable[str], inputs: frozenset[str]) -> Iterator[str]:
    taken = set(inputs)
    for name in names:
        fresh = unique(f"{name}_out" if name in inputs else name, taken)
        taken.add(fresh)
        yield fresh
