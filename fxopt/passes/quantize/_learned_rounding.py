"""Rounding that is learned: whether each weight goes up or down, by what the layer's results are off by.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020, arXiv:2004.10568: a soft choice for
each weight, a rectified sigmoid, learned by Adam under a penalty that lets go of what is undecided, later and later. The
squared error of the results is taken by its second moments, which is that over all the data at each step: nothing is
drawn at random, and memory does not grow with the data. The paper's steps without the penalty, at first, are left out:
with them results were as far off or further.
"""

import math
from dataclasses import dataclass

import torch

from fxopt.passes.quantize._optimal_rounding import Steps

__all__ = ["Learning", "Moments", "learn_rounding"]

_LOW, _HIGH = -0.1, 1.1
"""To what a sigmoid is stretched before it is clipped to 0 and 1."""
_SHARP, _BLUNT = 20.0, 2.0
"""The exponent of the penalty, at first and at last."""


@dataclass(frozen=True)
class Learning:
    """How choices are learned.

    Attributes:
        steps: of Adam.
        learning_rate: of Adam.
        penalty: the weight of what is undecided, beside an error that is one a weight when rounded to the nearest.
    """

    steps: int
    learning_rate: float
    penalty: float


@dataclass(frozen=True)
class Moments:
    """Sums over the data: of what a layer reads, x without any rounding and r with that of the layers before.

    Attributes:
        read: of `r r^T`, float64[matrices, in, in].
        crossed: of `x r^T`, float64[matrices, in, in].
    """

    read: torch.Tensor
    crossed: torch.Tensor


def learn_rounding(weights: torch.Tensor, moments: Moments, steps: Steps, learning: Learning) -> torch.Tensor:
    """Weights rounded up or down such that results are near to those without rounding.

    Args:
        weights: float64[matrices, out, in].
        moments: of what each matrix reads.
        steps: what weights may be, of the shape of the weights.
        learning: how it is done.

    Returns:
        float64[matrices, out, in]; a row that would not come nearer than with the nearest values has those.
    """
    nearest = steps.nearest(weights)
    wanted = weights @ moments.crossed
    down = torch.floor(weights / steps.scale) + steps.zero_point
    up = _learned(weights, wanted, moments.read, steps, down, learning)
    rounded = (torch.where(up, down + 1, down).clamp(steps.low, steps.high) - steps.zero_point) * steps.scale
    better = _errors(rounded, wanted, moments.read) < _errors(nearest, wanted, moments.read)
    return torch.where(better[..., None], rounded, nearest)


def _errors(weights: torch.Tensor, wanted: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """The squared error of each result, but for what no choice changes."""
    return ((weights @ read - 2 * wanted) * weights).sum(-1)


def _learned(
    weights: torch.Tensor,
    wanted: torch.Tensor,
    read: torch.Tensor,
    steps: Steps,
    down: torch.Tensor,
    learning: Learning,
) -> torch.Tensor:
    """Which weights are rounded up."""
    share = (weights / steps.scale + steps.zero_point - down).clamp(0, 1)
    choice = torch.logit((share - _LOW) / (_HIGH - _LOW))
    off = steps.nearest(weights) - weights
    size = ((off @ read) * off).sum((-2, -1), keepdim=True) / off[0].numel()
    unit = steps.scale / size.clamp(min=torch.finfo(size.dtype).tiny)
    adam = torch.optim.Adam([choice], lr=learning.learning_rate)
    for step in range(learning.steps):
        sigmoid = torch.sigmoid(choice)
        soft = (sigmoid * (_HIGH - _LOW) + _LOW).clamp(0, 1)
        q = (down + soft).clamp(steps.low, steps.high)
        gradient = 2 * ((q - steps.zero_point) * steps.scale @ read - wanted) * unit
        beta = _BLUNT + 0.5 * (_SHARP - _BLUNT) * (1 + math.cos(math.pi * step / learning.steps))
        undecided = 2 * soft - 1
        gradient -= learning.penalty * 2 * beta * undecided.sign() * undecided.abs() ** (beta - 1)
        choice.grad = gradient * sigmoid * (1 - sigmoid) * (_HIGH - _LOW)
        adam.step()
    return torch.sigmoid(choice) > 0.5
