"""Which calls a user leaves as they are."""

from fnmatch import fnmatchcase

from torch.fx import Node

from fxopt.ops import fake_quantize, op_key
from fxopt.passes._names import aten_name
from fxopt.program import origins_of

__all__ = ["left_out", "weight_behind"]


def left_out(node: Node, ignore: tuple[str, ...]) -> str:
    """Why a call is left as it is; "" if it is not.

    Args:
        node: the call.
        ignore: patterns of module paths and op names, `*` for any letters; of a call at the model's root, which has no
            path, of the weights that it reads.
    """
    modules = [o.module for o in origins_of(node) if o.module]
    names = [*(modules or _weight_names(node)), aten_name(node)]
    found = next((p for p in ignore if any(fnmatchcase(n, p) for n in names)), None)
    return "" if found is None else f"it matches ignore={found}"


def _weight_names(node: Node) -> list[str]:
    """The names of the weights that a call reads, rounded ones too."""
    return [str(w.target) for n in node.all_input_nodes if (w := weight_behind(n)).op == "get_attr"]


def weight_behind(value: Node) -> Node:
    """The weight that is rounded, by blocks too; any other value itself."""
    while value.op == "call_function" and (
        value.target is fake_quantize or op_key(value.target) == "aten.reshape.default"
    ):
        source = value.args[0]
        assert isinstance(source, Node)
        value = source
    return value
