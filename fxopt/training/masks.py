"""Pruned weights stay pruned: zeros that stand in a weight at the start are zeros after every step.

Gradients are zeroed before the optimizer sees them, so that momentum and norms don't count what is pruned, and
weights after its step, since no optimizer promises to leave alone what has no gradient.

>>> weight = torch.nn.Parameter(torch.tensor([[0.0, 1.0]]))
>>> masks = Masks({"w": weight})
>>> weight.grad = torch.ones(1, 2)
>>> masks.mask_gradients(); weight.grad
tensor([[0., 1.]])
"""

from collections.abc import Mapping

import torch

__all__ = ["Masks"]


class Masks:
    """Where weights are zero.

    A weight that is zero throughout is no pruned one but one that has not learned yet: a fresh bias, the last
    scale of a residual branch.

    Args:
        parameters: by name, as they are at the start.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        self._zeros: list[tuple[torch.Tensor, torch.Tensor]] = []
        for weight in parameters.values():
            zeros = weight.detach() == 0
            if bool(zeros.any()) and not bool(zeros.all()):
                self._zeros.append((weight, zeros))

    def mask_gradients(self) -> None:
        """Zeroes the gradients of zeros."""
        for weight, zeros in self._zeros:
            if weight.grad is not None:
                weight.grad.masked_fill_(zeros, 0.0)

    def mask_weights(self) -> None:
        """Zeroes the weights again."""
        with torch.no_grad():
            for weight, zeros in self._zeros:
                weight.masked_fill_(zeros, 0.0)
