"""Zeros in weights, outside of a pass."""

from collections.abc import Iterable

import torch

from fxopt.program import Program

__all__ = ["with_zeros"]


def with_zeros(program: Program, masks: Iterable[tuple[str, torch.Tensor]]) -> Program:
    """A copy with zeros where the masks are true; the caller's weights stay as they are."""
    masked = program.copy()
    for name, gone in masks:
        tensor = masked.weights[name].detach()
        masked.weights[name] = tensor.masked_fill(gone.to(tensor.device), 0)
    return masked
