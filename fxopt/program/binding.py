"""Arguments of a call to leaves in the traced order, in any mix of positions and names.

>>> tree = pytree.tree_structure(((0, 0), {"scale": 0}))
>>> bind_arguments(tree, ("x", "y", "scale"), (1,), {"scale": 3, "y": 2}, ())
[1, 2, 3]
"""

import difflib
from collections.abc import Mapping, Sequence

from torch.utils import _pytree as pytree

from fxopt.errors import InputError
from fxopt.program.containers import match_tree

__all__ = ["NO_DEFAULT", "bind_arguments"]

NO_DEFAULT = object()
"""In the place of a leaf's default: it must be given."""


def bind_arguments(
    tree: pytree.TreeSpec,
    arguments: tuple[str, ...],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    defaults: Sequence[object],
) -> list[object]:
    """The leaves of a call in the order of the traced one.

    Args:
        tree: the traced call's `(args, kwargs)`.
        arguments: names for positions, at least as many as the traced call had.
        args: given by position.
        kwargs: given by name.
        defaults: for each leaf its value where it may be left out, else `NO_DEFAULT`.

    Raises:
        InputError: an argument is missing, unknown, given twice, one too many, or of another structure.
    """
    positional, named = tree.children()
    names = [*arguments[: positional.num_children], *named.context]
    given = _given(names, arguments, args, kwargs)
    leaves: list[object] = []
    start = 0
    for name, child in zip(names, [*positional.children(), *named.children()], strict=True):
        end = start + child.num_leaves
        if name in given:
            leaves += match_tree(child, given[name], name)
        else:
            leaves += _defaults(name, names, defaults[start:end], child.num_leaves)
        start = end
    return leaves


def _given(
    names: list[str], positions: tuple[str, ...], args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """The arguments by name."""
    if len(args) > len(positions):
        raise InputError(
            f"got {len(args)} positional arguments, the model takes {len(positions)} ({', '.join(positions)})"
        )
    given = dict(zip(positions, args, strict=False))
    twice = next((name for name in given if name in kwargs), None)
    if twice is not None:
        raise InputError(f"argument {twice!r} is given twice, by position and by name")
    given |= kwargs
    for name in [n for n in given if n not in names]:
        if name not in positions:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"the model takes {', '.join(names)}"
            raise InputError(f"unknown argument {name!r}; {hint}")
        if given.pop(name) is not None:
            raise InputError(
                f"argument {name!r} was left out when the model was traced: trace it with an example of it"
            )
    return given


def _defaults(name: str, names: list[str], defaults: Sequence[object], count: int) -> list[object]:
    """The values that an argument was fixed at, if it was."""
    if len(defaults) != count or any(d is NO_DEFAULT for d in defaults):
        raise InputError(f"missing argument {name!r}; the model takes {', '.join(names)}")
    return list(defaults)
