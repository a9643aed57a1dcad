"""The calls that round, made once each: of a pass that inserts them."""

import operator

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from fxopt.analysis.ranges import Grid, Histogram, affine, symmetric
from fxopt.ops import choose_qparams, fake_quantize, round_blocks
from fxopt.passes.quantize._placement import Placement
from fxopt.rewriting import Rewriter

__all__ = ["Rounding", "activation_numbers", "block_numbers", "called_with", "weight_affine", "weight_scale"]


_SMALLEST_SCALE = 2.0**-60
_FEW_BITS = 3
"""At most so many, of a weight: its scale is not set by its largest value alone."""


class Rounding:
    """Makes the calls inside open rewrites; zero points are shared.

    Args:
        rewriter: of the program.
        placement: the numbers that kernels take.
    """

    def __init__(self, rewriter: Rewriter, placement: Placement) -> None:
        self.rewriter, self.placement = rewriter, placement
        self._zero_points: dict[int, Node] = {}
        self._by_block: dict[tuple[Node, int], Node] = {}
        self._dynamic: dict[Node, Node] = {}
        self._by_row: dict[Node, tuple[Node, Node]] = {}

    def weight(
        self, weight: Node, channel: int | None, least: torch.Tensor | None = None
    ) -> tuple[Node, torch.Tensor]:
        """A weight, rounded, and its scale.

        Args:
            weight: its node.
            channel: its axis of output channels, a scale for each; None for one scale.
            least: a scalar, or a number a channel, that the scale may not go below.
        """
        tensor = self.rewriter.value(weight)
        assert tensor is not None
        grid = self.placement.weights
        least = torch.zeros(()) if least is None else least
        if not grid.signed:
            scale, zero_point = weight_affine(tensor.detach(), grid, least)
            return self.by(weight, scale, grid, zero_point), scale
        scale = weight_scale(tensor.detach(), channel if self.placement.per_channel else None, grid, least)
        return self.by(weight, scale, grid), scale

    def blocks(self, weight: Node, block: int, *, symmetric: bool) -> Node:
        """A matrix rounded to 4 bits, a scale for each block of a row.

        Args:
            weight: its node, [out, in].
            block: the size of a block, which divides the inputs.
            symmetric: integers of -8 to 7, else 0 to 15 and a zero point for each block.
        """
        tensor = self.rewriter.value(weight)
        assert tensor is not None
        blocks = tensor.detach().reshape(len(tensor), -1, block)
        name = str(weight.target)
        numbers = block_numbers(blocks, symmetric=symmetric)
        stored = self.rewriter.constant(blocks, name=name, successor_of=weight)
        scale, zero_point = (
            self.rewriter.constant(t, name=f"{name}_{w}")
            for t, w in zip(numbers, ("scale", "zero_point"), strict=True)
        )
        low, high = (-8, 7) if symmetric else (0, 15)
        rounded = self.rewriter.call(fake_quantize, stored, scale, zero_point, low, high)
        return self.rewriter.call("aten.reshape", rounded, list(tensor.shape))

    def read_by_block(self, x: Node, block: int) -> Node:
        """What a product reads, rounded as its kernel does; once for all that read it."""
        if (x, block) not in self._by_block:
            call, shape = self.rewriter.call, list(x.meta["val"].shape)
            sizes = [
                call("aten.sym_size.int", x, i) if isinstance(s, torch.SymInt) else s
                for i, s in enumerate(shape)
            ]
            blocks = call("aten.reshape", x, [*sizes[:-1], shape[-1] // block, block])
            largest = call("aten.amax", call("aten.abs", blocks), [len(shape)])
            self._by_block[x, block] = call(round_blocks, x, largest, 127)
        return self._by_block[x, block]

    def by(self, weight: Node, scale: torch.Tensor, grid: Grid, zero_point: int = 0) -> Node:
        """A weight, rounded by a scale of its own."""
        constant = self.rewriter.constant(scale, name=f"{weight.target}_scale")
        return self.fake(weight, constant, zero_point, grid)

    def fake(self, x: Node, scale: Node, zero_point: int, grid: Grid) -> Node:
        """The call that rounds a value."""
        if zero_point not in self._zero_points:
            name = f"zero_point_{zero_point}"
            self._zero_points[zero_point] = self.rewriter.constant(torch.tensor(zero_point), name=name)
        zero = self._zero_points[zero_point]
        return self.rewriter.call(fake_quantize, x, scale, zero, grid.lowest, grid.high)

    def dynamic(self, x: Node) -> Node:
        """A value, rounded by its own range at each call; once for all that read it."""
        if x not in self._dynamic:
            grid, call = self.placement.activations, self.rewriter.call
            numbers = call(choose_qparams, x, grid.lowest, grid.high)
            scale, zero_point = (call(operator.getitem, numbers, i) for i in (0, 1))
            self._dynamic[x] = call(fake_quantize, x, scale, zero_point, grid.lowest, grid.high)
        return self._dynamic[x]

    def by_row(self, x: Node) -> tuple[Node, Node]:
        """A value whose rows are divided by their largest magnitudes, rounded, and those; once for all that read it."""
        if x not in self._by_row:
            call = self.rewriter.call
            largest = call("aten.amax", call("aten.abs", x), [x.meta["val"].dim() - 1], True)
            largest = call("aten.clamp_min", largest, _SMALLEST_SCALE)
            self._by_row[x] = self.dynamic(call("aten.div", x, largest)), largest
        return self._by_row[x]


def activation_numbers(seen: Histogram, method: str, placement: Placement) -> tuple[float, int]:
    """Scale and zero point of an activation.

    Args:
        seen: its values over the calibration data.
        method: how their range is chosen.
        placement: the integers that kernels take.
    """
    grid = placement.activations
    low, high = seen.range(method, grid, even=placement.symmetric)
    return (symmetric(high, grid), 0) if placement.symmetric else affine(low, high, grid)


def weight_affine(weight: torch.Tensor, grid: Grid, least: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The one scale and zero point by which an unsigned grid covers a weight.

    Args:
        weight: float32.
        grid: an unsigned one.
        least: a scalar, or a number a channel, that the scale may not go below.
    """
    low, high = (float(v) for v in torch.aminmax(weight)) if weight.numel() else (0.0, 0.0)
    scale, zero_point = affine(low, high, grid)
    grown = torch.maximum(torch.tensor(scale), least.max())
    if bool(grown > scale):
        zero_point = round(-min(low, 0.0) / float(grown))
    return grown, zero_point


def weight_scale(weight: torch.Tensor, channel: int | None, grid: Grid, least: torch.Tensor) -> torch.Tensor:
    """The scale of a weight, or of each of its channels, shaped to broadcast to it.

    Args:
        weight: float32.
        channel: its axis of output channels; None for one scale.
        grid: a signed one.
        least: a scalar, or a number a channel, that the scale may not go below.
    """
    if channel is None:
        bound = torch.tensor(symmetric(float(weight.abs().max()) if weight.numel() else 0.0, grid))
        return torch.maximum(bound, least.max())
    others = [d for d in range(weight.dim()) if d != channel]
    bounds = weight.abs().amax(others) if others else weight.abs()
    shape = [-1 if d == channel else 1 for d in range(weight.dim())]
    scale = torch.tensor([symmetric(float(b), grid) for b in bounds])
    if grid.bits <= _FEW_BITS and others:
        scale = _of_least_error(weight, scale.reshape(shape), others, grid).flatten()
    return torch.maximum(scale, least).reshape(shape)


def _of_least_error(weight: torch.Tensor, scale: torch.Tensor, others: list[int], grid: Grid) -> torch.Tensor:
    """Of shares of each scale that which leaves the least squared error: with few integers it pays to clip."""
    best, least = scale, torch.full_like(scale, torch.inf)
    for share in torch.linspace(1.0, 0.2, 41):
        tried = (scale * share).clamp(min=_SMALLEST_SCALE)
        rounded = torch.round(weight / tried).clamp(grid.lowest, grid.high) * tried
        error = (rounded - weight).square().sum(others, keepdim=True)
        best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
    return best


def block_numbers(blocks: torch.Tensor, *, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points by which integers of 4 bits cover each block, zero included.

    Args:
        blocks: float, [out, blocks, size].
        symmetric: integers of -8 to 7 with a zero point of 0, else of 0 to 15.

    Returns:
        float32[out, blocks, 1] and i64, a scalar or of that shape.
    """
    low, high = blocks.amin(-1, keepdim=True).clamp(max=0), blocks.amax(-1, keepdim=True).clamp(min=0)
    if symmetric:
        return torch.maximum(low / -8, high / 7).clamp(min=_SMALLEST_SCALE), torch.tensor(0)
    scale = ((high - low) / 15).clamp(min=_SMALLEST_SCALE)
    return scale, (-low / scale).round().clamp(0, 15).long()


def called_with(rewriter: Rewriter, node: Node, operands: dict[Node, Node]) -> Node:
    """A call made anew, in an open rewrite, that reads others in the place of some values."""
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda n: operands.get(n, n))
    return rewriter.call(node.target, *args, **kwargs)
