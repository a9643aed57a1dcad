"""The criterion `obs`: what it costs that channels go if the others make up for them.

How much the mean square of what a weight gives over calibration data grows when it no longer reads some channels
and all others are refit: with the weight W[rows, k] and the second moments H[k, k] of what it sees, the trace of
W_g (H^-1)_gg^-1 W_g^T (the optimal brain surgeon of Hassibi and Stork 1993, by groups as in Kurtic et al. 2023,
"ZipLM"). The least go first, and what is left is judged anew: of two channels alike only one is cheap.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from fxopt.analysis.channels import Product
from fxopt.passes.prune._moments import (
    channel_dim,
    matrix_of,
    moments_of,
    own_bias,
    readers_of,
    weight_of,
)
from fxopt.program import Program

__all__ = ["Surgeon", "costs_of", "surgeons_of"]

_RIDGE = 1e-2
"""Of the mean variance of a channel: channels alike over little data are not quite."""


_ROUNDS = 32
"""In which the groups of a layer go; in each, what others are worth is taken from the round before."""


@dataclass(frozen=True, eq=False)
class Surgeon:
    """One weight that reads channels.

    Attributes:
        product: what it does.
        matrix: f64[rows, k].
        inverse: of the second moments, f64[k, k].
    """

    product: Product
    matrix: torch.Tensor
    inverse: torch.Tensor

    def columns(self, index: np.ndarray) -> torch.Tensor:
        """Which columns of the matrix groups hold, int[groups, of each], of channels int[groups, width]."""
        places = torch.arange(self.matrix.shape[1]).expand(self.matrix.shape)
        dim = channel_dim(self.product)
        by_channel = weight_of(self.product, places, self.product.tensor).movedim(dim, 0)
        ((row, _),) = [
            (i, d) for i, d in enumerate(self.product.weight.dims) if set(d) & set(self.product.rows)
        ]
        one_row = by_channel.select(row + 1 if row < dim else row, 0).reshape(len(by_channel), -1)
        return one_row[torch.from_numpy(index.copy())].flatten(1)


class _Left:
    """What is left of one weight while groups go."""

    def __init__(self, surgeon: Surgeon, index: np.ndarray) -> None:
        self.matrix, self.inverse = surgeon.matrix, surgeon.inverse
        self.own = surgeon.columns(index).to(self.matrix.device)

    def costs(self) -> torch.Tensor:
        """Of each group that is left."""
        blocks = self.inverse[self.own[:, :, None], self.own[:, None, :]]
        columns = self.matrix[:, self.own].movedim(0, 2)
        solved: torch.Tensor = torch.linalg.solve(blocks, columns)
        return (solved * columns).sum((1, 2)).cpu()

    def remove(self, going: torch.Tensor) -> None:
        """Takes groups away and refits the others."""
        goes = torch.zeros(len(self.inverse), dtype=torch.bool, device=self.inverse.device)
        goes[self.own[going].flatten()] = True
        made_up = torch.linalg.solve(self.inverse[goes][:, goes], self.inverse[goes][:, ~goes])
        self.matrix = self.matrix[:, ~goes] - self.matrix[:, goes] @ made_up
        self.inverse = self.inverse[~goes][:, ~goes] - self.inverse[~goes][:, goes] @ made_up
        stay = torch.ones(len(self.own), dtype=torch.bool)
        stay[going] = False
        self.own = ((~goes).cumsum(0) - 1)[self.own[stay.to(self.own.device)]]


def costs_of(readers: Sequence[tuple[Surgeon, np.ndarray]]) -> torch.Tensor:
    """What each group costs when it goes, f64[groups], those before it gone: never less than theirs.

    Args:
        readers: weights that read the groups' channels, with the positions of each, int[groups, width].
    """
    left = [_Left(*reader) for reader in readers]
    alive = torch.arange(len(readers[0][1]))
    found = torch.zeros(len(alive), dtype=torch.float64)
    count, least = math.ceil(len(alive) / _ROUNDS), 0.0
    while len(alive):
        costs = torch.stack([one.costs() for one in left]).sum(0)
        going = costs.argsort(stable=True)[:count]
        found[alive[going]] = costs[going].clamp(min=least)
        least = float(found[alive[going]].max())
        for one in left:
            one.remove(going)
        stay = torch.ones(len(alive), dtype=torch.bool)
        stay[going] = False
        alive = alive[stay]
    return found


def surgeons_of(
    program: Program,
    products: Mapping[Node, Sequence[Product]],
    data: Iterable[object],
    names: Collection[str],
) -> dict[str, Surgeon]:
    """The weights that read channels, by name, of those that are asked for.

    Raises:
        InputError: no data, data that does not fit, or values that are NaN or infinite.
    """
    readers = {n: p for n, p in readers_of(products).items() if n in names}
    found = {}
    for name, halves in moments_of(program, readers, data, "obs"):
        product = readers[name]
        gram = (halves[0] + halves[1]).gram(centred=own_bias(product) is not None)
        ridge = _RIDGE * gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        inverse = torch.linalg.inv(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        found[name] = Surgeon(product, matrix_of(product, program.weights[name]).double(), inverse)
    return found
