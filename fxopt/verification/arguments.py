"""Arguments of calls with something else in the place of each node.

>>> from torch.fx import Graph
>>> x = Graph().placeholder("x")
>>> with_values([x, 2, (x, None)], lambda node: node.name)
['x', 2, ('x', None)]
"""

from collections.abc import Callable

from torch.fx import Node

__all__ = ["with_values"]


def with_values(argument: object, value: Callable[[Node], object]) -> object:
    """The argument, each node in it replaced; lists, tuples, dicts and slices are made anew."""
    if isinstance(argument, Node):
        return value(argument)
    if isinstance(argument, list):
        return [with_values(a, value) for a in argument]
    if isinstance(argument, tuple):
        return tuple(with_values(a, value) for a in argument)
    if isinstance(argument, dict):
        return {k: with_values(a, value) for k, a in argument.items()}
    if isinstance(argument, slice):
        return slice(*(with_values(a, value) for a in (argument.start, argument.stop, argument.step)))
    return argument
