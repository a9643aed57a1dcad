"""A data set as a run sees it: steps in order, what each costs, and how their results become one.

Arrays by input name are records along axis 0, run in batches; anything else is a list of calls. What a model does not
take is found to the record and set aside, so that one bad record does not end a run of many hours.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils import _pytree as pytree

from fxopt.errors import InputError
from fxopt.program.records import MOST_RECORDS, DataError, columns, fixed_batch, record_count
from fxopt.program.signature import Signature, TensorSpec

__all__ = ["Calls", "DataSet", "Model", "Piece", "Rows", "open_data"]


class Model(Protocol):
    """What runs: an artifact or a program."""

    signature: Signature

    def attempt(self, tensors: list[torch.Tensor]) -> list[object]:
        """The computed outputs of a call that the signature takes; an InputError if an op does not."""


@dataclass(frozen=True)
class Piece:
    """What became of some records that follow one another.

    Attributes:
        start: the first record.
        stop: the one behind the last.
        outputs: the computed outputs in order; None if the records were set aside.
        reason: why they were.
    """

    start: int
    stop: int
    outputs: tuple[object, ...] | None
    reason: str = ""


class DataSet(ABC):
    """Steps of a run, each a call of the model; they can be run in any order, on any process.

    Attributes:
        signature: what the model takes.
        count: records in all.
        batch: records of a step; the last may have fewer.
        costs: of each step, in elements of its inputs.
    """

    signature: Signature
    count: int
    batch: int
    costs: Sequence[int]

    def bounds(self, step: int) -> tuple[int, int]:
        """The first record of a step, and the one behind its last."""
        start = step * self.batch
        return start, min(start + self.batch, self.count)

    def run(self, model: Model, start: int, stop: int) -> list[Piece]:
        """Runs some records; where the model does not take them, their halves, down to those that are to blame."""
        try:
            return [Piece(start, stop, self.kept(model.attempt(self.inputs(start, stop)), start, stop))]
        except InputError as error:
            if stop - start == 1:
                return [Piece(start, stop, None, str(error))]
            middle = (start + stop) // 2
            return self.run(model, start, middle) + self.run(model, middle, stop)

    @abstractmethod
    def inputs(self, start: int, stop: int) -> list[torch.Tensor]:
        """What the model takes for some records, in the order of `signature.tensor_inputs`.

        Raises:
            InputError: it does not take them.
        """

    @abstractmethod
    def kept(self, results: Sequence[object], start: int, stop: int) -> tuple[object, ...]:
        """What of the model's results belongs to the records.

        Raises:
            DataError: that can't be told.
        """

    @abstractmethod
    def digest(self) -> str:
        """A hash of the data and of how it is split: what was made of other data is not gone on with."""

    @abstractmethod
    def outputs(self, pieces: Sequence[Piece]) -> object:
        """The results in order, in the model's own containers."""

    @abstractmethod
    def arrays(self, pieces: Sequence[Piece]) -> dict[str, torch.Tensor]:
        """The results in order, by output name."""


def open_data(data: object, signature: Signature, batch: int | None = None) -> DataSet:
    """A user's data.

    Args:
        data: arrays or tensors by input name, axis 0 the records; or an iterable of calls, each a tensor, a tuple of
            positional arguments or a dict of named ones.
        signature: what the model takes.
        batch: records at a time, of arrays.

    Raises:
        InputError: it is neither, or empty.
        DataError: arrays that do not fit the model.
    """
    if isinstance(data, Mapping):
        return Rows(data, signature, batch)
    if isinstance(data, (str, bytes, torch.Tensor, np.ndarray)) or not isinstance(data, Iterable):
        raise InputError(
            f"the data is a {type(data).__name__}; expected a dict of arrays by input name, or a list of calls: [(x, ...), ...]"
        )
    if batch is not None:
        raise InputError("batch= is for arrays by input name; each item of a list is a call of its own")
    return Calls(list(data), signature)


class Rows(DataSet):
    """Arrays by input name, axis 0 the records, in batches.

    A model whose batch is fixed gets the last records padded with copies of the very last; what comes out for
    these is cut off.

    Args:
        arrays: by input name.
        signature: what the model takes.
        batch: records at a time; by default what the signature fixes, or a moderate number.
    """

    def __init__(self, arrays: Mapping[Any, object], signature: Signature, batch: int | None = None) -> None:
        self.signature = signature
        self.tensors = columns(arrays, signature)
        self.count = record_count(self.tensors, signature.tensor_inputs)
        self.fixed = fixed_batch(signature.tensor_inputs)
        if self.fixed is not None and batch not in (None, self.fixed):
            raise InputError(f"the model takes {self.fixed} records at a time, batch is {batch}")
        first = signature.tensor_inputs[0].shape[0]
        for spec in signature.computed_outputs:
            lead = spec.shape[0] if isinstance(spec, TensorSpec) and spec.shape else 0
            if isinstance(lead, int) and lead != first:
                raise _no_records(spec.name)
        self.batch = batch or self.fixed or min(self.count, MOST_RECORDS)
        whole = sum(t[0].numel() for t in self.tensors)
        steps = -(-self.count // self.batch)
        self.costs = [whole * (stop - start) for start, stop in map(self.bounds, range(steps))]

    def inputs(self, start: int, stop: int) -> list[torch.Tensor]:
        """The rows, and copies of the last where the batch is fixed."""
        tensors = [t[start:stop] for t in self.tensors]
        missing = (self.fixed or 0) - (stop - start)
        if missing > 0:
            tensors = [torch.cat([t, t[-1:].expand(missing, *t.shape[1:])]) for t in tensors]
        self.signature.check_sizes(tensors)
        return tensors

    def kept(self, results: Sequence[object], start: int, stop: int) -> tuple[object, ...]:
        """The rows of the records, without those of the copies."""
        rows = self.fixed or stop - start
        for spec, result in zip(self.signature.computed_outputs, results, strict=True):
            if not isinstance(result, torch.Tensor) or result.shape[:1] != (rows,):
                raise _no_records(spec.name)
        return tuple(r[: stop - start] for r in results)  # type: ignore[index]  # tensors

    def digest(self) -> str:
        """A hash of the arrays and the size of a batch."""
        return _digest([self.batch, *self.tensors])

    def outputs(self, pieces: Sequence[Piece]) -> object:
        """The model's own containers, as of one call with all records."""
        return self.signature.unflatten_outputs(list(self.arrays(pieces).values()))

    def arrays(self, pieces: Sequence[Piece]) -> dict[str, torch.Tensor]:
        """One row a record; a record that was set aside has NaN, or 0 where the dtype has none."""
        names = [s.name for s in self.signature.computed_outputs]
        like = next(p.outputs for p in pieces if p.outputs is not None)
        return {
            name: torch.cat([_rows(p, i, like[i]) for p in pieces])  # type: ignore[arg-type]  # rows, as just seen
            for i, name in enumerate(names)
        }


class Calls(DataSet):
    """A list of calls, which may differ in size.

    Args:
        items: a tensor, a tuple of positional arguments, or a dict of named ones, each.
        signature: what the model takes.

    Raises:
        InputError: there is none.
    """

    batch = 1

    def __init__(self, items: Sequence[object], signature: Signature) -> None:
        if not items:
            raise InputError("the data is empty: there is nothing to run")
        self.items, self.signature = items, signature
        self.count = len(items)
        self.costs = [max(1, sum(map(_elements, pytree.tree_leaves(item)))) for item in items]

    def inputs(self, start: int, stop: int) -> list[torch.Tensor]:
        """The tensors of the call."""
        args, kwargs = _arguments(self.items[start])
        return self.signature.flatten_inputs(args, kwargs)

    def kept(self, results: Sequence[object], start: int, stop: int) -> tuple[object, ...]:
        """All of it."""
        return tuple(results)

    def digest(self) -> str:
        """A hash of the calls."""
        return _digest([(leaf, ";") for item in self.items for leaf in pytree.tree_leaves(item)])

    def outputs(self, pieces: Sequence[Piece]) -> object:
        """A result for each call, in memory of its own; None for one that was set aside."""
        return [
            None if p.outputs is None else self.signature.unflatten_outputs([_copy(v) for v in p.outputs])
            for p in pieces
        ]

    def arrays(self, pieces: Sequence[Piece]) -> dict[str, torch.Tensor]:
        """Stacked where all have one shape; else `NAME.values`, one after the other, flat, and `NAME.shapes`."""
        found: dict[str, torch.Tensor] = {}
        like = next(p.outputs for p in pieces if p.outputs is not None)
        for i, spec in enumerate(self.signature.computed_outputs):
            tensors = [_result(p, i, torch.as_tensor(like[i])) for p in pieces]
            if len({t.shape for t in tensors}) == 1:
                found[spec.name] = torch.stack(tensors)
            else:
                found[f"{spec.name}.values"] = torch.cat([t.flatten() for t in tensors])
                found[f"{spec.name}.shapes"] = torch.tensor([t.shape for t in tensors])
        return found


def _no_records(output: str) -> DataError:
    return DataError(
        f"the output {output!r} has no axis of records, so those of several batches can't be joined: "
        "give the data as a list of calls"
    )


def _rows(piece: Piece, index: int, like: torch.Tensor) -> torch.Tensor:
    if piece.outputs is not None:
        return piece.outputs[index]  # type: ignore[return-value]  # a tensor, as `like` is
    return _filler(like, (piece.stop - piece.start, *like.shape[1:]))


def _result(piece: Piece, index: int, like: torch.Tensor) -> torch.Tensor:
    if piece.outputs is not None:
        return torch.as_tensor(piece.outputs[index])
    return _filler(like, like.shape)


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _filler(like: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    value = float("nan") if like.dtype.is_floating_point or like.dtype.is_complex else 0
    return torch.full(tuple(shape), value, dtype=like.dtype)


def _arguments(item: object) -> tuple[tuple[object, ...], dict[str, object]]:
    if isinstance(item, Mapping):
        return (), {str(k): v for k, v in item.items()}
    return (tuple(item) if isinstance(item, (tuple, list)) else (item,)), {}


def _elements(leaf: object) -> int:
    return leaf.numel() if isinstance(leaf, torch.Tensor) else 1


def _digest(values: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(list(values)):
        if isinstance(leaf, torch.Tensor):
            flat = leaf.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()
