"""The entries of torch's own operator database as models, and what becomes of each at every target."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

__all__ = ["Entry", "entries"]


class Applied(nn.Module):
    """An operator of a sample's tensors; all other arguments are fixed."""

    def __init__(self, function: Callable[..., object], arguments: object) -> None:
        super().__init__()
        leaves, self._tree = pytree.tree_flatten(arguments)
        self._leaves = [None if isinstance(x, torch.Tensor) else x for x in leaves]
        self._places = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
        self._function = function

    def forward(self, *tensors: torch.Tensor) -> object:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._tree)
        return self._function(*args, **kwargs)


@dataclass(frozen=True)
class Entry:
    """One entry with its first float32 sample."""

    name: str
    model: nn.Module
    inputs: tuple[torch.Tensor, ...]


def entries() -> Iterator[Entry]:
    """All entries with float32, in the database's order."""
    from torch.testing._internal.common_methods_invocations import op_db

    for info in op_db:
        if torch.float32 not in info.dtypes:
            continue
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        sample = next(iter(info.sample_inputs("cpu", torch.float32)))
        arguments = ((sample.input, *sample.args), sample.kwargs)
        tensors = tuple(x.detach() for x in pytree.tree_leaves(arguments) if isinstance(x, torch.Tensor))
        name = f"{info.name}.{info.variant_test_name}" if info.variant_test_name else info.name
        yield Entry(name, Applied(info.op, arguments).eval(), tensors)
