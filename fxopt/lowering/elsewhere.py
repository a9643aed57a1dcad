"""A model on another device than its caller: tensors go there and come back."""

from typing import Protocol

import torch

from fxopt.lowering.artifact import Artifact
from fxopt.program.signature import Signature

__all__ = ["Elsewhere", "Movable"]


class Movable(Protocol):
    """An artifact or a program."""

    @property
    def signature(self) -> Signature:
        """Inputs, outputs, dynamic sizes."""

    def attempt(self, tensors: list[torch.Tensor]) -> list[object]:
        """The computed outputs of a call that the signature takes; an InputError if an op does not."""

    def to(self, device: str | torch.device) -> "Movable":
        """The same on another device."""


class Elsewhere(Artifact):
    """Takes tensors from any device and returns the results on the CPU.

    Args:
        model: what runs.
        device: where.

    Raises:
        InputError: it can't run there, or the device is not on this machine.
    """

    def __init__(self, model: Movable, device: torch.device) -> None:
        path, size = getattr(model, "path", None), getattr(model, "size", 0)
        super().__init__(getattr(model, "target", "program"), model.signature, path=path, size=size)
        self.model, self.device = model.to(device), device

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs on the tensors of `signature.tensor_inputs`; returns the computed outputs in order."""
        return self.attempt(tensors)

    def attempt(self, tensors: list[torch.Tensor]) -> list[object]:
        """`run_flat` of a call that the signature takes.

        Raises:
            InputError: an op does not take its sizes or values.
        """
        results = self.model.attempt([t.to(self.device, non_blocking=True) for t in tensors])
        return [r.cpu() if isinstance(r, torch.Tensor) else r for r in results]
