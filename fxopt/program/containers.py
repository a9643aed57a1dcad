"""Containers by their keys: what a pytree holds, whatever class it is of.

A signature that was read from a file knows no classes, a model's own signature does; a value fits either if
it holds the same things under the same keys.

>>> tree = pytree.tree_structure({"a": 0, "b": (0, 0)})
>>> match_tree(tree, {"b": [2, 3], "a": 1}, "x")
[1, 2, 3]
"""

import contextlib
from collections.abc import Iterator, Mapping

from torch.utils import _pytree as pytree

from fxopt.errors import InputError

__all__ = ["field_names", "keyed_containers", "match_tree", "numpy_hint", "short_text", "tree_text"]

Key = str | int


def field_names(tree: pytree.TreeSpec) -> list[Key] | None:
    """The keys of a mapping-like container: a dict's, a named tuple's fields, a registered class's key words.

    None for lists, tuples and classes that name nothing.
    """
    if tree.type in (tuple, list):
        return None
    context = tree.context
    for candidate in (context, context[0] if isinstance(context, (tuple, list)) and context else None):
        if (
            isinstance(candidate, (list, tuple))
            and len(candidate) == tree.num_children
            and all(isinstance(k, (str, int)) for k in candidate)
        ):
            return list(candidate)
    fields = getattr(context, "_fields", None) or getattr(tree.type, "_fields", None)
    return list(fields) if fields is not None and len(fields) == tree.num_children else None


@contextlib.contextmanager
def keyed_containers() -> Iterator[None]:
    """Gives classes that were registered without keys some, which torch.export asks for: fields or positions."""
    bare = {k: node for k, node in pytree.SUPPORTED_NODES.items() if node.flatten_with_keys_fn is None}
    pytree.SUPPORTED_NODES.update({kind: _keyed(node) for kind, node in bare.items()})
    try:
        yield
    finally:
        pytree.SUPPORTED_NODES.update(bare)


def _keyed(node: pytree.NodeDef) -> pytree.NodeDef:
    def flatten(value: object) -> tuple[list[tuple[pytree.KeyEntry, object]], object]:
        contents, context = node.flatten_fn(value)
        leaves = [pytree.tree_structure(0)] * len(contents)
        names = field_names(pytree.TreeSpec(node.type, context, leaves)) or range(len(contents))
        return [(pytree.MappingKey(k), c) for k, c in zip(names, contents, strict=True)], context

    return node._replace(flatten_with_keys_fn=flatten)


def _children(value: object) -> list[tuple[object, object]] | None:
    """Keys and contents of a container, positions as keys where it has no others; None for a leaf."""
    if isinstance(value, Mapping):
        return list(value.items())
    contents, tree = pytree.tree_flatten(value, is_leaf=lambda v: v is not value)
    if tree.is_leaf():
        return None
    keys: list[Key] = field_names(tree) or list(range(len(contents)))
    return list(zip(keys, contents, strict=True))


def match_tree(tree: pytree.TreeSpec, value: object, path: str) -> list[object]:
    """The leaves of a value in the order of a tree.

    Args:
        tree: the structure expected.
        value: what was given.
        path: what to call it in messages.

    Raises:
        InputError: it has another structure; says where and how.
    """
    if tree.is_leaf():
        return [value]
    children = _children(value)
    keys: list[Key] = field_names(tree) or list(range(tree.num_children))
    if children is None:
        raise InputError(f"input {path} must be {tree_text(tree)}, got {short_text(value)}")
    given = dict(children)
    if field_names(tree) is None and len(given) == len(keys):
        given = dict(zip(keys, given.values(), strict=True))
    missing = [k for k in keys if k not in given]
    unknown = [k for k in given if k not in keys]
    if missing or unknown:
        problem = f"{missing[0]!r} is missing" if missing else f"{unknown[0]!r} is unknown"
        if field_names(tree) is None:
            problem = f"got {len(given)}"
        raise InputError(f"input {path} must be {tree_text(tree)}: {problem}")
    parts = zip(keys, tree.children(), strict=True)
    return [leaf for k, child in parts for leaf in match_tree(child, given[k], f"{path}[{k!r}]")]


def tree_text(tree: pytree.TreeSpec) -> str:
    """A structure in words: `a dict of 'a', 'b'`, `a tuple of 2`."""
    names = field_names(tree)
    kind = tree.type.__name__
    if names is None:
        return f"a {kind} of {tree.num_children}"
    return f"a {kind} of {', '.join(map(repr, names))}"


def numpy_hint(name: str, value: object) -> str:
    """`pass torch.from_numpy(x)` for an array of numpy's, empty for anything else."""
    is_array = type(value).__module__ == "numpy" and hasattr(value, "__array__")
    return f"pass torch.from_numpy({name})" if is_array else ""


def short_text(value: object) -> str:
    """A value in few words, for messages."""
    text = (
        f"a tensor of shape {tuple(value.shape)}"
        if hasattr(value, "shape")
        else " ".join(repr(value).split())
    )
    return text if len(text) <= 60 else text[:57] + "..."
