"""Which weights train: what is computed from a parameter of the model is a parameter too.

>>> import torch
>>> weight, mean = torch.nn.Parameter(torch.ones(2)), torch.zeros(2)
>>> type(trained_as(weight * 2, [weight, mean])).__name__, type(trained_as(mean + 1, [mean])).__name__
('Parameter', 'Tensor')
"""

from collections.abc import Iterable

import torch

__all__ = ["trained_as"]


def trained_as(tensor: torch.Tensor, sources: Iterable[object]) -> torch.Tensor:
    """A new weight in the place of others: a parameter, if one of those is, that learns if one of those does.

    Args:
        tensor: its values.
        sources: what it was computed from; what is no parameter (a buffer, a literal) does not count.
    """
    parameters = [s for s in sources if isinstance(s, torch.nn.Parameter)]
    if not parameters or not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor.detach()
    return torch.nn.Parameter(tensor.detach(), requires_grad=any(p.requires_grad for p in parameters))
