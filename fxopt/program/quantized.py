"""Inputs and outputs that are integers: what floats they stand for, and runs in those floats.

>>> pixels = Quantized(0.5, 128)
>>> pixels.integers(torch.tensor([-1.0, 0.2, 500.0]))
tensor([126, 128, 255], dtype=torch.uint8)
>>> pixels.floats(torch.tensor([126], dtype=torch.uint8))
tensor([-1.])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from fxopt.ops import quantize

if TYPE_CHECKING:
    from fxopt.program.signature import Signature

__all__ = ["InFloats", "Quantized", "in_floats"]

_TYPES = {"uint8": torch.uint8, "int8": torch.int8}


@dataclass(frozen=True)
class Quantized:
    """How integers stand for floats: `(q - zero_point) * scale`."""

    scale: float
    zero_point: int
    kind: str = "uint8"
    """The type of the integers: uint8 or int8."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the integers."""
        return _TYPES[self.kind]

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """The integers nearest to floats, halves to even, clipped to what the type holds."""
        limits = torch.iinfo(self.dtype)
        numbers = torch.tensor(self.scale), torch.tensor(self.zero_point)
        return quantize(x, *numbers, limits.min, limits.max).to(self.dtype)

    def floats(self, q: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The floats that integers stand for."""
        return (q.to(dtype) - self.zero_point) * torch.tensor(self.scale, dtype=dtype)

    def __str__(self) -> str:
        return f"{self.kind}, scale {self.scale:.9g}, zero point {self.zero_point}"


class _Runs(Protocol):
    signature: "Signature"

    def run_flat(self, tensors: list[torch.Tensor]) -> Sequence[object]: ...

    def __call__(self, *args: object, **kwargs: object) -> object: ...


class InFloats:
    """Something that takes and gives integers, run with the floats that they stand for."""

    def __init__(self, inner: _Runs) -> None:
        self._inner = inner
        self.signature = inner.signature.in_floats()

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Rounds what is an integer inside, and turns the results into floats."""
        inner = self._inner.signature
        return inner.outputs_in_floats(self._inner.run_flat(inner.inputs_in_integers(tensors)))

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Runs on the model's own arguments.

        Raises:
            InputError: they do not fit the signature.
        """
        return self.signature.unflatten_outputs(self.run_flat(self.signature.flatten_inputs(args, kwargs)))


def in_floats(run: _Runs) -> "_Runs | InFloats":
    """A program or artifact as one that takes and gives floats; itself if it does."""
    takes = run.signature
    return InFloats(run) if takes.integer_inputs or takes.integer_outputs else run
