"""Outputs back into the model's containers, as a function made once: pytree's own way costs microseconds a node.

>>> from torch.utils import _pytree as pytree
>>> assembler(pytree.tree_structure({"y": 0, "z": (1, [2])}), {})(["a", "b", "c"])
{'y': 'a', 'z': ('b', ['c'])}
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

from torch.utils import _pytree as pytree

__all__ = ["Assembler", "assembler"]

Assembler = Callable[[Sequence[object]], object]
"""Computed outputs in order -> the model's result."""


class _Writer:
    """Writes the expression that builds the containers around `flat[0]`, `flat[1]`, ..."""

    def __init__(self, constants: Mapping[int, object]) -> None:
        self.constants = constants
        self.names: dict[str, object] = {}
        self.leaves = itertools.count()
        self.computed = itertools.count()

    def text(self, spec: pytree.TreeSpec) -> str:
        if spec.is_leaf():
            leaf = next(self.leaves)
            if leaf in self.constants:
                return self.bind(self.constants[leaf])
            return f"flat[{next(self.computed)}]"
        children = [self.text(child) for child in spec.children()]
        if spec.type is tuple:
            return f"({''.join(f'{child}, ' for child in children)})"
        if spec.type is list:
            return f"[{', '.join(children)}]"
        if spec.type is dict:
            keys = map(self.bind, spec.context)
            return f"{{{', '.join(f'{k}: {c}' for k, c in zip(keys, children, strict=True))}}}"
        build = self.bind(pytree.SUPPORTED_NODES[spec.type].unflatten_fn)
        return f"{build}([{', '.join(children)}], {self.bind(spec.context)})"

    def bind(self, value: object) -> str:
        name = f"v{len(self.names)}"
        self.names[name] = value
        return name


def assembler(tree: pytree.TreeSpec, constants: Mapping[int, object]) -> Assembler:
    """The function that puts outputs into a tree.

    Args:
        tree: of the result.
        constants: leaves, by number, that are no computed outputs, and their values.
    """
    writer = _Writer(constants)
    text = f"lambda flat: {writer.text(tree)}"
    function: Assembler = eval(text, writer.names)
    return function
