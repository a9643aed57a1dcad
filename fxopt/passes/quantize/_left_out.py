"""Which calls a user leaves as they are."""

from fnmatch import fnmatchcase

from torch.fx import Node

from fxopt.passes._names import aten_name
from fxopt.program import origins_of

__all__ = ["left_out"]


def left_out(node: Node, ignore: tuple[str, ...]) -> str:
    """Why a call is left as it is; "" if it is not.

    Args:
        node: the call.
        ignore: patterns of module paths and op names, `*` for any letters.
    """
    names = [o.module for o in origins_of(node)] + [aten_name(node)]
    found = next((p for p in ignore if any(fnmatchcase(n, p) for n in names)), None)
    return "" if found is None else f"it matches ignore={found}"
