"""Arguments of a call to leaves in the traced order, in any mix of positions and names.

>>> tree = pytree.tree_structure(((0, 0), {"scale": 0}))
>>> bind_arguments(tree, ("x", "y", "scale"), (1,), {"scale": 3, "y": 2}, Known())
[1, 2, 3]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch.utils import _pytree as pytree

from fxopt.errors import InputError, nearest
from fxopt.program.containers import match_tree

__all__ = ["Known", "bind_arguments", "same_literal"]

Literal = int | float | bool | str | None


@dataclass(frozen=True)
class Known:
    """What is known of the arguments of a model: defaults by argument, and leaves that were fixed at trace time."""

    defaults: Mapping[str, Literal] = field(default_factory=dict)
    fixed: Mapping[int, Literal] = field(default_factory=dict)


def same_literal(expected: object, given: object) -> bool:
    """Whether two literals are one: `1`, `1.0` and `True` are not, NaN is itself."""
    return type(expected) is type(given) and (expected == given or (expected != expected and given != given))


def bind_arguments(
    tree: pytree.TreeSpec,
    arguments: tuple[str, ...],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    known: Known,
) -> list[object]:
    """The leaves of a call in the order of the traced one.

    Args:
        tree: the traced call's `(args, kwargs)`.
        arguments: names for positions, at least as many as the traced call had.
        args: given by position.
        kwargs: given by name.
        known: what may be left out, or given though it was left out, and at which value.

    Raises:
        InputError: an argument is missing, unknown, given twice, one too many, of another structure, or left out
            though its default is not what the model was traced with.
    """
    positional, named = tree.children()
    names = [*arguments[: positional.num_children], *named.context]
    given = _given(names, arguments, args, kwargs, known.defaults)
    leaves: list[object] = []
    start = 0
    for name, child in zip(names, [*positional.children(), *named.children()], strict=True):
        if name in given:
            leaves += match_tree(child, given[name], name)
        elif name in known.defaults and child.is_leaf() and start in known.fixed:
            leaves.append(_default(name, known.defaults[name], known.fixed[start]))
        else:
            raise InputError(f"missing argument {name!r}; the model takes {', '.join(names)}")
        start += child.num_leaves
    return leaves


def _given(
    names: list[str],
    positions: tuple[str, ...],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    defaults: Mapping[str, Literal],
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
            close = nearest(name, names)
            hint = f"did you mean {close!r}?" if close else f"the model takes {', '.join(names)}"
            raise InputError(f"unknown argument {name!r}; {hint}")
        value = given.pop(name)
        if name not in defaults or not same_literal(defaults[name], value):
            raise InputError(
                f"argument {name!r} was left out when the model was traced: trace it with an example of it"
            )
    return given


def _default(name: str, default: Literal, fixed: Literal) -> Literal:
    """The default of an argument that was left out."""
    if not same_literal(fixed, default):
        raise InputError(
            f"argument {name!r} was fixed at {fixed!r} when the model was traced; left out it is {default!r}: "
            f"pass {name}={fixed!r}, or trace again without it"
        )
    return default
