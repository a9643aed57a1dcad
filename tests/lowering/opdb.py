"""The entries of torch's own operator database as models, and what becomes of each at every target."""

import random
from collections.abc import Callable, Generator, Iterator, Sequence
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


def entries(names: Sequence[str] = ()) -> Iterator[Entry]:
    """The entries with float32 of these names, by default all, in the database's order."""
    from torch.testing._internal import common_methods_invocations as database

    # Ops that draw are called with a seed that the database sets, which no program would know of.
    database.wrapper_set_seed = lambda op, *args, **kwargs: op(*args, **kwargs)
    for info in database.op_db:
        name = f"{info.name}.{info.variant_test_name}" if info.variant_test_name else info.name
        if torch.float32 not in info.dtypes or (names and name not in names):
            continue
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        # Closed at once: a generator that is collected while something is traced runs its end inside the tracing.
        samples = info.sample_inputs_func(info, "cpu", torch.float32, False)
        sample = next(iter(samples))
        if isinstance(samples, Generator):
            samples.close()
        arguments = ((sample.input, *sample.args), sample.kwargs)
        tensors = tuple(x.detach() for x in pytree.tree_leaves(arguments) if isinstance(x, torch.Tensor))
        yield Entry(name, Applied(info.op, arguments).eval(), tensors)
