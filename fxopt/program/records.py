"""Data files: an .npz with one array per input name, axis 0 the records; and calls of a model made of them."""

import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from fxopt.errors import FxoptError
from fxopt.program.signature import ConstantSpec, Signature, TensorSpec

__all__ = [
    "MOST_RECORDS",
    "Arrays",
    "DataError",
    "calls",
    "columns",
    "fixed_batch",
    "read_npz",
    "record_count",
    "write_npz",
]

Arrays = Mapping[str, np.ndarray]
_NPZ = "an .npz with one array per input name, as numpy.savez(path, x=...) writes it"
MOST_RECORDS = 256
"""Records a call where the model takes any number."""


class DataError(FxoptError):
    """A data file that can't be read or does not fit the model."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a data file by name.

    Raises:
        DataError: The file is missing, is no .npz, or holds other things than numbers.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"can't read {path}: it is {_other_than_npz(file)}; expected {_NPZ}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"can't read {path}: {reason or error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc" or array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
            raise DataError(
                f"{path}: the array {name!r} holds {array.dtype}, expected numbers that torch has"
            )
    return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}


def _other_than_npz(file: IO[bytes]) -> str:
    """What a file is that is no .npz."""
    file.seek(0)
    return "a single array" if file.read(6) == b"\x93NUMPY" else "damaged, or no .npz file"


def calls(arrays: Arrays, signature: Signature, *, batch: int | None = None) -> list[tuple[object, ...]]:
    """The records of a data file as argument tuples.

    Arrays that fit the model as they are make one call. Else axis 0 of each is the records, fed in batches.

    Args:
        arrays: One array per input name; arrays that the model has no input for are left out.
        signature: What the model takes.
        batch: Records a call; by default what the signature fixes, or a moderate number.

    Raises:
        DataError: An input has no array or one of another kind, the arrays differ in length or hold less than
            one batch.
    """
    specs = signature.tensor_inputs
    tensors = columns(arrays, signature)
    if batch is None and all(_fits(t, spec) for t, spec in zip(tensors, specs, strict=True)):
        return [_arguments(signature, tensors)]
    count = record_count(tensors, specs)
    fixed = fixed_batch(specs)
    step = batch or fixed or min(count, MOST_RECORDS)
    # Where the batch is fixed, what is left over after the last whole batch can't be fed.
    end = count - count % step if fixed else count
    if not end:
        raise DataError(f"the data has {count} records, one batch of the model takes {step}")
    return [_arguments(signature, [t[i : i + step] for t in tensors]) for i in range(0, end, step)]


def columns(arrays: Mapping[Any, object], signature: Signature) -> list[torch.Tensor]:
    """The array of each tensor input, in its dtype.

    Args:
        arrays: by input name; those that the model has no input for are left out.
        signature: what the model takes.

    Raises:
        DataError: an input has no array or one of another kind, or there is no record.
    """
    specs = signature.tensor_inputs
    missing = [spec.name for spec in specs if spec.name not in arrays]
    if missing:
        had = ", ".join(map(str, arrays)) or "none"
        raise DataError(f"the data has no array named {missing[0]!r}; it has {had}")
    tensors = [_cast(_tensor(arrays[spec.name], spec), spec) for spec in specs]
    if any(t.dim() and not len(t) for t in tensors):
        raise DataError("the data has no records: axis 0 of every array must be the records")
    return tensors


def _tensor(values: object, spec: TensorSpec) -> torch.Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"the data for {spec.name!r} is no array: {str(error).splitlines()[0]}") from error


def record_count(tensors: Sequence[torch.Tensor], specs: Sequence[TensorSpec]) -> int:
    """How many records the arrays of the inputs hold.

    Raises:
        DataError: they differ in that.
    """
    lengths = {spec.name: len(t) if t.dim() else None for t, spec in zip(tensors, specs, strict=True)}
    count = next(iter(lengths.values()), None)
    if count is None or set(lengths.values()) != {count}:
        raise DataError(f"axis 0 of every array must be the records, found lengths {lengths}")
    return count


def _cast(tensor: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """The records in the dtype of an input; digits that are lost are told, another kind of number is refused.

    Raises:
        DataError: floating-point numbers for an input of integers, or the like.
    """
    stands_for = spec.stands_for_floats
    if stands_for is not None and tensor.is_floating_point():
        return stands_for.integers(tensor.float())
    given, wanted = (str(d).removeprefix("torch.") for d in (tensor.dtype, spec.dtype))
    if not torch.can_cast(tensor.dtype, spec.dtype):
        raise DataError(f"the array {spec.name!r} holds {given}, the model takes {wanted}: convert it")
    cast = tensor.to(spec.dtype)
    same = torch.equal(cast.to(tensor.dtype).nan_to_num(), tensor.nan_to_num())
    if not same and not spec.dtype.is_floating_point:
        raise DataError(f"the array {spec.name!r} holds {given} beyond what {wanted}, the model's, can hold")
    if not same:
        warnings.warn(f"the array {spec.name!r} holds {given}: rounded to {wanted}", stacklevel=2)
    return cast


def _fits(tensor: torch.Tensor, spec: TensorSpec) -> bool:
    """Whether a tensor has the rank and the fixed sizes of an input."""
    sizes = zip(tensor.shape, spec.shape, strict=False)
    few = not spec.shape or isinstance(spec.shape[0], int) or len(tensor) <= MOST_RECORDS
    return few and tensor.dim() == len(spec.shape) and all(isinstance(d, str) or d == s for s, d in sizes)


def fixed_batch(specs: Iterable[TensorSpec]) -> int | None:
    """The number of records that a call has to have, None if it may vary."""
    sizes = [spec.shape[0] for spec in specs if spec.shape]
    return next((size for size in sizes if isinstance(size, int)), None)


def _arguments(signature: Signature, tensors: list[torch.Tensor]) -> "tuple[object, ...]":
    """The arguments of one call, by position; an argument that was fixed when tracing has its value."""
    given = iter(tensors)
    leaves = [s.value if isinstance(s, ConstantSpec) else next(given) for s in signature.inputs]
    args, kwargs = pytree.tree_unflatten(leaves, signature.input_tree)
    return (*args, *(kwargs[name] for name in signature.arguments if name in kwargs))


def write_npz(path: Path, tensors: Mapping[str, object]) -> None:
    """Write tensors by name, for inputs that can be given back with `--inputs`.

    Raises:
        DataError: The file can't be written.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        tensor = torch.as_tensor(value).detach().cpu()
        arrays[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    try:
        np.savez(path, **arrays)  # type: ignore[arg-type]  # its stub takes any keyword for `allow_pickle`
    except OSError as error:
        raise DataError(f"can't write {path}: {error.strerror or error}") from error
