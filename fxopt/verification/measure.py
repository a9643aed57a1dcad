"""Two tensors against each other: outer differences, kinds of non-finite values, errors in two norms.

>>> a, b = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])
>>> measured_error(a, b)
Error(l2=0.5, max=0.5, index=(1,))
>>> outer_difference(a, b.double())
'it has dtype f64, not f32'
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fxopt.program import dtype_name

__all__ = [
    "Error",
    "alike",
    "bits",
    "error_histogram",
    "kinds",
    "largest_difference",
    "measured_error",
    "outer_difference",
    "plain_tensor",
    "value_at",
]


@dataclass(frozen=True)
class Error:
    """How far a tensor is from another: in the L2 norm, in the maximum norm, and where that is reached."""

    l2: float = 0.0
    max: float = 0.0
    index: tuple[int, ...] = ()


def plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Detached, on the CPU, a complex one as pairs of reals."""
    tensor = tensor.detach().cpu()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def alike(values: Iterable[object], like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors of one's shape, plain."""
    plain, shape = [plain_tensor(v) for v in values if isinstance(v, torch.Tensor)], plain_tensor(like).shape
    return tuple(v for v in plain if v.shape == shape)


def outer_difference(original: object, candidate: object) -> str:
    """How the candidate differs in kind, dtype or shape; empty if it does not."""
    if not isinstance(original, torch.Tensor):
        number = isinstance(candidate, (int, float)) or (
            isinstance(candidate, torch.Tensor) and candidate.numel() == 1
        )
        return "" if number else f"it is a {type(candidate).__name__}, not a number"
    if not isinstance(candidate, torch.Tensor):
        return f"it is a {type(candidate).__name__}, not a tensor"
    if candidate.shape != original.shape:
        return f"it has shape {tuple(candidate.shape)}, not {tuple(original.shape)}"
    if candidate.dtype != original.dtype:
        return f"it has dtype {dtype_name(candidate.dtype)}, not {dtype_name(original.dtype)}"
    return ""


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The elements' bits as integers."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(integers[tensor.dtype.itemsize])


def kinds(tensor: torch.Tensor) -> torch.Tensor:
    """For each element 0 if it is finite, 1 for NaN, 2 for +inf, 3 for -inf."""
    return torch.isnan(tensor) * 1 + torch.isposinf(tensor) * 2 + torch.isneginf(tensor) * 3


def measured_error(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor | None = None) -> Error:
    """The norms of `a - b` where both are finite.

    Args:
        a: any float dtype.
        b: the same shape.
        where: only these elements (a bool tensor of the same shape).
    """
    x, y = a.double(), b.double()
    counted = torch.isfinite(x) & torch.isfinite(y)
    if where is not None:
        counted &= where
    difference = torch.where(counted, (x - y).abs(), 0.0)
    if difference.numel() == 0:
        return Error()
    largest = float(difference.max())
    if largest == 0:
        return Error()
    # Scaled, so that squares of huge or tiny differences neither overflow nor vanish.
    length = largest * float((difference / largest).norm())
    flat = int(difference.argmax())
    return Error(
        length, largest, tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), difference.shape))
    )


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest absolute difference; infinite where one is not finite and the other is something else."""
    if a.dtype.is_floating_point:
        return math.inf if bool((kinds(a) != kinds(b)).any()) else measured_error(a, b).max
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0


def error_histogram(a: torch.Tensor, b: torch.Tensor) -> dict[str, int]:
    """How many elements of two tensors differ by how much, by power of ten, smallest first.

    >>> error_histogram(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.5, 3.04]))
    {'0': 1, '1e-2': 1, '1e-1': 1}
    """
    difference = (a.double() - b.double()).abs().flatten()
    apart = difference[torch.isfinite(difference) & (difference > 0)]
    counts = {"0": int((difference == 0).sum()) + int((~torch.isfinite(a) & _same_kind(a, b)).sum())}
    exponents, numbers = torch.floor(torch.log10(apart)).unique(return_counts=True)
    counts |= {f"1e{int(e)}": int(n) for e, n in zip(exponents, numbers, strict=True)}
    counts["not finite"] = difference.numel() - sum(counts.values())
    return {name: count for name, count in counts.items() if count}


def _same_kind(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return kinds(a) == kinds(b)


def value_at(value: object, index: tuple[int, ...]) -> float:
    """One element of a tensor as a float; a number itself."""
    if isinstance(value, torch.Tensor):
        return float(value[index]) if value.numel() and len(index) == value.dim() else math.nan
    return float(value) if isinstance(value, (int, float)) else math.nan
