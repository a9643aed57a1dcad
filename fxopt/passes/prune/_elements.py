"""Elements and blocks: zeros inside of weights, which no call gets smaller by."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fxopt.analysis.channels import Constants, Product

__all__ = ["Grid", "grids_of"]


@dataclass(frozen=True)
class Grid:
    """A weight as a matrix: a row for each output channel, the last index of a column that of the input channel.

    Attributes:
        weight: its name.
        dims: of the weight, in the order of the matrix; the first makes the rows.
        channels: how many input channels a row has.
        shape: of the permuted weight.
    """

    weight: str
    dims: tuple[int, ...]
    channels: int
    shape: tuple[int, ...]

    def matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        """[rows, columns] of what has the weight's shape."""
        return tensor.permute(self.dims).reshape(self.shape[0], -1)

    def back(self, matrix: torch.Tensor) -> torch.Tensor:
        """What has the weight's shape, from a matrix."""
        return matrix.reshape(self.shape).permute(torch.tensor(self.dims).argsort().tolist())

    def tiles(self, matrix: torch.Tensor, tile: tuple[int, ...]) -> torch.Tensor:
        """Means over tiles, those at the edges over what they hold."""
        rows, columns = matrix.shape
        padded = F.pad(matrix, (0, -columns % tile[1], 0, -rows % tile[0]))
        ones = F.pad(torch.ones_like(matrix), (0, -columns % tile[1], 0, -rows % tile[0]))
        sums, counts = (F.avg_pool2d(m[None], tile, tile)[0] for m in (padded, ones))
        return sums / counts

    def spread(self, chosen: torch.Tensor, tile: tuple[int, ...]) -> torch.Tensor:
        """Tiles as elements of the matrix."""
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        return chosen.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 1)[:rows, :columns]

    def pattern(self, matrix: torch.Tensor, keep: int, of: int) -> torch.Tensor:
        """Which elements go so that of each `of` neighbours in a row `keep` stay: those of least importance."""
        order = matrix.reshape(-1, of).argsort(dim=1, stable=True)
        gone = torch.zeros(order.shape, dtype=torch.bool).scatter_(1, order[:, : of - keep], True)
        return gone.reshape(matrix.shape)


def grids_of(constants: Constants) -> Iterator[Grid]:
    """The weights of products, each once, in the order of the graph."""
    seen: set[str] = set()
    for products in constants.products.values():
        for product in products:
            node = product.weight.node
            if node.op == "get_attr" and str(node.target) not in seen:
                seen.add(str(node.target))
                yield _grid(product)


def _grid(product: Product) -> Grid:
    shape, dims = product.tensor.shape, product.weight.dims
    rows = next(i for i, d in enumerate(dims) if d and set(d) <= set(product.rows))
    contracted = [i for i, d in enumerate(dims) if i != rows and d and set(d) <= set(product.channels)]
    inner = [i for i in range(len(shape)) if i != rows and i not in contracted]
    order = (rows, *inner, *contracted)
    channels = math.prod(shape[i] for i in contracted)
    return Grid(str(product.weight.node.target), order, channels, tuple(shape[i] for i in order))
