"""What the weights that read channels see of them over calibration data: means and products of all pairs.

A row of such a weight meets the same features wherever it stands: input channels of a linear layer, those in each
place of the window of a convolution. They are got from the op itself, called with a weight of ones and zeros.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Interpreter, Node

from fxopt.analysis.channels import Product
from fxopt.analysis.channels.reading import run_bound
from fxopt.errors import InputError
from fxopt.passes.prune._gradients import split_item
from fxopt.program import Program

__all__ = [
    "Moments",
    "channel_dim",
    "matrix_of",
    "moments_of",
    "own_bias",
    "readers_of",
    "row_dim",
    "weight_of",
]

_BYTES = 1 << 29
"""Of sums held at once; where weights need more, the data is gone through again."""


def readers_of(products: Mapping[Node, Sequence[Product]]) -> dict[str, Product]:
    """By name, the weights that meet channels in one call, as matrices: y = x w + b."""
    found = {str(p.weight.node.target): p for own in products.values() for p in own if _is_matrix(p)}
    return dict(found)


def _is_matrix(product: Product) -> bool:
    node = product.weight.node
    if node.op != "get_attr" or len(node.users) != 1 or not product.is_plain:
        return False
    own = set(product.rows) & product.x.indices  # of a grouped convolution: rows see channels of their own
    return not own and len(_dims(product, product.rows)) == len(_dims(product, product.channels)) == 1


def moments_of(
    program: Program, readers: Mapping[str, Product], data: Iterable[object], purpose: str
) -> Iterator[tuple[str, tuple["Moments", "Moments"]]]:
    """For each weight the moments of what it sees, those of batches of even and of odd number.

    Args:
        program: run as it is.
        readers: products by the name of the weight.
        data: a tensor, an argument tuple or a dict by name each; what is beyond the program's inputs is ignored.
        purpose: what needs the data, for messages.

    Raises:
        InputError: no data, data that does not fit, or values that are NaN or infinite.
    """
    batches = [split_item(program, item, number=i)[0] for i, item in enumerate(data)]
    if not batches:
        raise InputError(f"the calibration data is empty: {purpose} needs at least one batch")
    for part in _parts(readers):
        sums = {name: (Moments(), Moments()) for name in part}
        watcher = _Watcher(program, part, sums)
        for number, batch in enumerate(batches):
            watcher.half = number % 2
            with torch.no_grad():
                watcher.run(*batch)
        for name, halves in sums.items():
            if not all(h.is_finite for h in halves):
                raise InputError(f"over the calibration data {name} sees values that are NaN or infinite")
            yield name, halves


def _parts(readers: Mapping[str, Product]) -> Iterator[dict[str, Product]]:
    """Weights whose sums are held at once."""
    part: dict[str, Product] = {}
    held = 0
    for name, product in readers.items():
        needed = 2 * 8 * _length(product) ** 2
        if part and held + needed > _BYTES:
            yield part
            part, held = {}, 0
        part[name] = product
        held += needed
    if part:
        yield part


class Moments:
    """Second moments of features f[n, k] and their sums, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.moments: torch.Tensor | float = 0.0
        self.totals: torch.Tensor | float = 0.0

    def add(self, features: torch.Tensor) -> None:
        """Adds a batch."""
        f = features if features.dtype == torch.float64 else features.float()
        self.moments += (f.T @ f).double()
        self.totals += f.double().sum(0)
        self.count += len(f)

    def __add__(self, other: "Moments") -> "Moments":
        found = Moments()
        found.count = self.count + other.count
        found.moments, found.totals = self.moments + other.moments, self.totals + other.totals
        return found

    def gram(self, *, centred: bool) -> torch.Tensor:
        """Means of products of features, f64[k, k]; of their deviations from the mean, if a bias takes that up."""
        gram, mean = self.moments / self.count, self.mean
        assert isinstance(gram, torch.Tensor)
        return gram - torch.outer(mean, mean) if centred else gram

    @property
    def is_finite(self) -> bool:
        """Whether no value was NaN or infinite."""
        return bool(torch.as_tensor(self.moments).isfinite().all())

    @property
    def mean(self) -> torch.Tensor:
        """Of each feature, f64[k]."""
        return torch.as_tensor(self.totals / self.count)


class _Watcher(Interpreter):
    """Runs the program and adds up what the weights see; memory is freed after the last use."""

    def __init__(
        self, program: Program, readers: Mapping[str, Product], sums: Mapping[str, tuple[Moments, Moments]]
    ) -> None:
        super().__init__(program.graph_module)
        self._watched = {p.reading.node.name: (p, sums[n]) for n, p in readers.items()}
        self.half: int
        """0 or 1: of the batch that is run next."""

    def run_node(self, n: Node) -> Any:
        """The value of a node."""
        watched = self._watched.get(n.name)
        if watched is not None:
            product, halves = watched
            x = self.env[next(a for a in n.all_input_nodes if a.name == product.x.node.name)]
            halves[self.half].add(_features(product, x))
        return super().run_node(n)


def _dims(product: Product, names: Sequence[str]) -> list[int]:
    return [i for i, d in enumerate(product.weight.dims) if set(d) & set(names)]


def row_dim(product: Product) -> int:
    """The dimension of the weight that its rows, one an output channel, lie along."""
    return _dims(product, product.rows)[0]


def channel_dim(product: Product) -> int:
    """The dimension of the weight that the channels it reads lie along."""
    return _dims(product, product.channels)[0]


def own_bias(product: Product) -> str | None:
    """The name of the call's bias, if nothing else reads it."""
    bias = product.bias
    own = bias is not None and bias.node.op == "get_attr" and len(bias.node.users) == 1
    return str(bias.node.target) if bias is not None and own else None


def _length(product: Product) -> int:
    """How many elements one row of the weight holds."""
    return product.tensor.numel() // product.tensor.shape[row_dim(product)]


def matrix_of(product: Product, tensor: torch.Tensor) -> torch.Tensor:
    """A weight as [rows, k]: k runs over what one row holds."""
    return tensor.detach().movedim(row_dim(product), 0).flatten(1).clone()


def weight_of(product: Product, matrix: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The weight of a matrix."""
    row = row_dim(product)
    return matrix.reshape(like.movedim(row, 0).shape).movedim(0, row).contiguous()


def _features(product: Product, x: torch.Tensor) -> torch.Tensor:
    """What each element of a row is multiplied by, f[n, k]: the call itself, with a row for each element."""
    weight = product.tensor
    row = row_dim(product)
    count = _length(product)
    each = torch.eye(count, dtype=weight.dtype, device=weight.device)
    each = each.reshape([count, *(s for i, s in enumerate(weight.shape) if i != row)])
    operands = {product.x: x, product.weight: each.movedim(0, row)}
    if product.bias is not None:
        operands[product.bias] = torch.zeros(count, dtype=weight.dtype, device=weight.device)
    result = run_bound(product.reading.op, product.reading.rebound(operands))
    assert isinstance(result, torch.Tensor)
    return _by_rows(product, result)


def _by_rows(product: Product, result: torch.Tensor) -> torch.Tensor:
    """A result of the call as f[n, rows]."""
    dim = next(i for i, axis, _ in product.reading.outputs[0].places() if axis == product.out)
    return result.movedim(dim, -1).flatten(0, -2) if result.dim() > 1 else result[None]
