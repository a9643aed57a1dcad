"""Refits the weights that read pruned channels, so that what they give changes least over calibration data.

What the channels that go gave to a weight is fitted by those that stay, by least squares (He et al. 2017, "Channel
Pruning for Accelerating Very Deep Neural Networks"; Kwon et al. 2022 for attention heads); its bias takes the means
up. A ridge keeps channels that are seldom active, or alike, from large weights; how much of it generalises is
decided by what half of the batches says of the other half.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch.fx import Node

from fxopt.analysis.channels import Product
from fxopt.passes.prune._masks import zeroed
from fxopt.passes.prune._moments import (
    Moments,
    channel_dim,
    matrix_of,
    moments_of,
    own_bias,
    readers_of,
    weight_of,
)
from fxopt.program import Program, trained_as

__all__ = ["compensated"]

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, math.inf)
"""Of the mean variance of a channel that stays; infinite: the weights stay as they are."""


def compensated(
    program: Program,
    masks: Mapping[str, torch.Tensor],
    products: Mapping[Node, Sequence[Product]],
    data: Iterable[object],
) -> dict[str, torch.Tensor]:
    """The weights and biases that are refit, with the zeros of their masks.

    Args:
        program: the whole one, left as it is.
        masks: elements of weights that become zero, bool by name.
        products: by call, what meets known weights.
        data: a tensor, an argument tuple or a dict by name each; what is beyond the program's inputs is ignored.

    Raises:
        InputError: no data, data that does not fit, or values that are NaN or infinite.
    """
    readers = {
        name: product
        for name, product in readers_of(products).items()
        if name in masks and _gone(product, masks[name]).any()
    }
    made: dict[str, torch.Tensor] = {}
    for name, halves in moments_of(program, readers, data, "compensate"):
        made |= _refit(program, readers[name], masks, halves)
    return made


def _refit(
    program: Program, product: Product, masks: Mapping[str, torch.Tensor], halves: tuple[Moments, Moments]
) -> dict[str, torch.Tensor]:
    """A weight, and its bias where it has one of its own."""
    name, bias = str(product.weight.node.target), own_bias(product)
    old = program.weights[name]
    matrix = matrix_of(product, old).double()
    kept = ~_gone(product, masks[name])
    whole = halves[0] + halves[1]
    gram = whole.gram(centred=bias is not None)
    ridge = _ridge([h.gram(centred=bias is not None) for h in halves if h.count], matrix, kept)
    change = _change(gram, matrix, kept, ridge)
    found = {name: weight_of(product, matrix + change, old)}
    if bias is not None:
        added = program.weights[bias]
        found[bias] = added.detach().double() - (change @ whole.mean).reshape(added.shape)
    return {n: _like(t, program.weights[n], masks.get(n)) for n, t in found.items()}


def _like(tensor: torch.Tensor, old: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """A weight in the place of another, with the zeros of its mask."""
    new = trained_as(tensor.to(old.dtype), [old])
    return new if mask is None else zeroed(new, mask)


def _ridge(grams: Sequence[torch.Tensor], matrix: torch.Tensor, kept: torch.Tensor) -> float:
    """The ridge by which each half tells most of the other."""
    if len(grams) < 2:
        return _RIDGES[1]
    losses = [
        sum(_loss(held, _change(fitted, matrix, kept, r)) for fitted, held in (grams, reversed(grams)))
        for r in _RIDGES
    ]
    return _RIDGES[losses.index(min(losses))]


def _loss(gram: torch.Tensor, change: torch.Tensor) -> float:
    """The mean square of what a change of weights f64[rows, k] makes."""
    return float(((change @ gram) * change).sum())


def _change(gram: torch.Tensor, matrix: torch.Tensor, kept: torch.Tensor, ridge: float) -> torch.Tensor:
    """What is added to weights f64[rows, k]: those that go become zero, the others make up for them."""
    change = torch.where(kept, 0.0, -matrix)
    if math.isfinite(ridge):
        own = gram[kept][:, kept]
        weight = ridge * own.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        system = own + weight * torch.eye(len(own), dtype=own.dtype, device=own.device)
        change[:, kept] = torch.linalg.solve(system, gram[kept][:, ~kept] @ matrix[:, ~kept].T).T
    return change


def _gone(product: Product, mask: torch.Tensor) -> torch.Tensor:
    """Which of a row's elements, bool[k], belong to channels that are zero throughout."""
    dim = channel_dim(product)
    channels = mask.movedim(dim, 0).flatten(1).all(1)
    spread = torch.zeros_like(mask).movedim(dim, -1) | channels
    return matrix_of(product, spread.movedim(-1, dim))[0]
