"""Zeros in weights."""

from collections.abc import Iterable

import torch

from fxopt.program import Program, trained_as

__all__ = ["with_zeros", "zeroed"]


def zeroed(tensor: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """A copy with zeros where the mask is true; of a parameter, one."""
    return trained_as(tensor.detach().masked_fill(gone.to(tensor.device), 0), [tensor])


def with_zeros(program: Program, masks: Iterable[tuple[str, torch.Tensor]]) -> Program:
    """A copy with zeros where the masks are true; the caller's weights stay as they are."""
    masked = program.copy()
    for name, gone in masks:
        masked.weights[name] = zeroed(masked.weights[name], gone)
    return masked
