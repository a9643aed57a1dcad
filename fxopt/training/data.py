"""Data in batches: an item is `(*args, target)`, or the arguments alone where no target is needed.

>>> import torch
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Linear(4, 2).eval(), torch.zeros(3, 4), dynamic_shapes=({0: "batch"},))
>>> batches = Batches([(torch.ones(3, 4), torch.zeros(3))], program.signature)
>>> [batch.has_target for batch in batches.epoch(0)]
[True]
"""

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import count

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import InputError
from fxopt.program import Signature
from fxopt.training.seeds import seed_all, seed_of

__all__ = ["Batch", "Batches", "Share"]

_END = object()


@dataclass(frozen=True)
class Batch:
    """One item of the data: a call of the model, and what it should give."""

    args: tuple[object, ...]
    kwargs: dict[str, object]
    target: object = None
    has_target: bool = False

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device."""
        args, kwargs, target = (on_device(v, device) for v in (self.args, self.kwargs, self.target))
        assert isinstance(args, tuple) and isinstance(kwargs, dict)
        return Batch(args, kwargs, target, self.has_target)


def on_device(value: object, device: torch.device) -> object:
    """Containers with their tensors on a device."""
    return pytree.tree_map_only(torch.Tensor, lambda t: t.to(device, non_blocking=True), value)


@dataclass(frozen=True)
class Share:
    """Which of the items a process takes: every `count`-th, from `index` on."""

    index: int = 0
    count: int = 1


class Batches:
    """The data of a run, in the same order whenever an epoch is asked for again.

    Args:
        data: items, again at each iteration; an iterator is read once and kept.
        signature: of the model.
        share: of several processes; data with a sampler that shares it itself is left to that.
        seed: of the run.
        what: the data is, for messages.

    Raises:
        InputError: it is no iterable of items, or empty.
    """

    def __init__(
        self,
        data: Iterable[object],
        signature: Signature,
        *,
        share: Share | None = None,
        seed: int = 0,
        what: str = "data",
    ) -> None:
        expected = "expected batches: [(x, ..., target), ...], a DataLoader or the like"
        if isinstance(data, (torch.Tensor, Mapping, str)) or not isinstance(data, Iterable):
            raise InputError(f"{what} is a {type(data).__name__}; {expected}")
        self.data: Iterable[object] = list(data) if isinstance(data, Iterator) else data
        self.what, self.seed = what, seed
        self.names = _names(signature)
        self.positional = signature.input_tree.child(0).num_children
        sharing = hasattr(getattr(data, "sampler", None), "set_epoch")
        self.share = share if share is not None and not sharing else Share()
        items = len(self.data) if isinstance(self.data, Sized) else sum(1 for _ in self.data)
        if not items:
            raise InputError(f"{what} is empty: there is nothing to train on; {expected}")
        self.steps = items // self.share.count
        if not self.steps:
            raise InputError(f"{what} has {items} batches, fewer than the {self.share.count} processes")

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            number: of the epoch, which decides the order where the data is shuffled.
            skip: how many of the first ones to leave out.

        Raises:
            InputError: an item is no call of the model; the data gave nothing.
        """
        self._start(number)
        items = iter(self.data)
        last, taken = self.steps * self.share.count, 0
        for index in count():
            seed_all(self.seed, "data", number, index)
            item = next(items, _END) if index < last else _END
            if item is _END:
                break
            if index % self.share.count == self.share.index:
                taken += 1
                if taken > skip:
                    yield self._batch(item, index)
        if not taken:
            raise InputError(f"{self.what} gave nothing in epoch {number + 1}: it can't be read again")

    def _start(self, number: int) -> None:
        """The epoch's order: samplers are told its number, generators of their own get its seed."""
        seed_all(self.seed, "order", number)
        sampler = getattr(self.data, "sampler", None)
        if sampler is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(number)
        for owner in (self.data, sampler):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed_of(self.seed, "generator", number))

    def _batch(self, item: object, index: int) -> Batch:
        if isinstance(item, Mapping):
            return self._named(item, index)
        values = tuple(item) if isinstance(item, (tuple, list)) else (item,)
        arguments = len(self.names)
        if len(values) not in (arguments, arguments + 1):
            raise self._wrong(index, f"{len(values)} entries")
        has_target = len(values) > arguments
        named = dict(zip(self.names[self.positional :], values[self.positional : arguments], strict=True))
        return Batch(values[: self.positional], named, values[-1] if has_target else None, has_target)

    def _named(self, item: Mapping[object, object], index: int) -> Batch:
        """A dict by argument name; the one entry that is no argument is the target."""
        extra = [name for name in item if name not in self.names]
        if any(name not in item for name in self.names) or len(extra) > 1:
            raise self._wrong(index, f"the entries {', '.join(map(str, item))}")
        kwargs = {name: item[name] for name in self.names}
        return Batch((), kwargs, item[extra[0]] if extra else None, bool(extra))

    def _wrong(self, index: int, found: str) -> InputError:
        call = ", ".join(self.names)
        return InputError(f"batch {index} of {self.what} has {found}; expected ({call}) or ({call}, target)")


def _names(signature: Signature) -> tuple[str, ...]:
    """The arguments that the model was traced with, those by position first, then those by name."""
    args, kwargs = signature.input_tree.children()
    positional = args.num_children
    known = signature.arguments[:positional]
    if len(known) < positional:
        known = tuple(f"argument {i}" for i in range(positional))
        if positional == len(signature.inputs) - kwargs.num_leaves:
            known = tuple(s.name for s in signature.inputs[:positional])
    return (*known, *map(str, kwargs.context or ()))
