"""Pooling where ONNX's ops don't do: of sizes that vary, of integers. Sizes may be symbolic.

A window is the places that it reads, row by row; one that is smaller than others reads its first place several times.

>>> values, places = adaptive_max_pool(torch.tensor([[1.0, 5.0, 2.0, 3.0]]), [2])
>>> values.tolist(), places.tolist()
([[5.0, 3.0]], [[1, 3]])
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxopt.lowering.onnx.recipes import recipe

__all__: list[str] = []


def _read(x: Tensor, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The elements of every window, [..., *outputs, elements], and their places in the image, i64[*outputs, elements].

    Args:
        x: its last axes are the image.
        rows: for each of these axes the places of each output's window, i64[outputs, longest].
    """
    count = len(rows)
    places = torch.zeros([1] * (2 * count), dtype=torch.int64)
    for axis, (size, along) in enumerate(zip(x.shape[-count:], rows, strict=True)):
        shape = [1] * (2 * count)
        shape[axis], shape[count + axis] = along.shape
        places = places * size + along.reshape(shape)
    places = places.reshape(*(along.shape[0] for along in rows), -1)
    return x.reshape(*x.shape[: x.dim() - count], -1)[..., places], places


def _largest(x: Tensor, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The largest element of every window and its place in the image."""
    windows, places = _read(x, rows)
    chosen = windows.argmax(-1, keepdim=True)
    return windows.amax(-1), torch.gather(places.expand(windows.shape), -1, chosen).squeeze(-1)


def _bounds(size: int, out: int) -> tuple[Tensor, Tensor]:
    """Where each window of adaptive pooling starts and ends, i64[out, 1]."""
    outputs = torch.arange(out).unsqueeze(-1)
    return outputs * size // out, ((outputs + 1) * size + (out - 1)) // out


@recipe(*(f"aten.adaptive_max_pool{n}d.default" for n in (1, 2, 3)))
def adaptive_max_pool(x: Tensor, output_size: list[int]) -> tuple[Tensor, Tensor]:
    """The largest of every window and where it stands among all places of its image."""
    rows: list[Tensor] = []
    for size, out in zip(x.shape[-len(output_size) :], output_size, strict=True):
        starts, ends = _bounds(size, out)
        places = starts + torch.arange((size + out - 1) // out + 1)
        rows.append(torch.where(places < ends, places, starts))
    return _largest(x, rows)


@recipe(*(f"aten.adaptive_avg_pool{n}d.default" for n in (1, 2, 3)))
def adaptive_average(x: Tensor, output_size: list[int]) -> Tensor:
    """Products with a matrix of shares along each axis."""
    for axis, out in enumerate(output_size, -len(output_size)):
        size = x.shape[axis]
        starts, ends = _bounds(size, out)
        places = torch.arange(size)
        shares = ((places >= starts) & (places < ends)).float() / (ends - starts).float()
        x = (x.movedim(axis, -1) @ shares.to(x.dtype).t()).movedim(-1, axis)
    return x


@dataclass(frozen=True)
class _Windows:
    """The windows along one axis: `starts` i64[out, 1] in the image, and `places` i64[out, kernel] from there on."""

    size: int
    kernel: int
    padding: int
    dilation: int
    starts: Tensor
    places: Tensor

    def inside(self) -> Tensor:
        """Which places are in the image."""
        return (self.places >= 0) & (self.places < self.size)

    def read(self) -> Tensor:
        """The places, the first one in the image instead of one outside."""
        skipped = ((-self.starts).clamp(min=0) + (self.dilation - 1)) // self.dilation
        return torch.where(self.inside(), self.places, self.starts + skipped * self.dilation)

    def counted(self, padding: bool) -> Tensor:
        """How many places of each window an average counts, i64[out]: of the image, or of its padding as well."""
        if not padding:
            return self.inside().to(torch.int64).sum(-1)
        last = (self.starts + self.kernel).clamp(max=self.size + self.padding)
        return (last - self.starts).squeeze(-1)


def _windows(x: Tensor, ceil: bool, *options: Sequence[int]) -> list[_Windows]:
    """By axis; `options` are kernel sizes, strides, paddings and dilations."""
    found: list[_Windows] = []
    for size, k, s, p, d in zip(x.shape[-len(options[0]) :], *options, strict=True):
        out = (size + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil else 0)) // s + 1
        if ceil:
            out = torch.sym_min(out, (size + p - 1) // s + 1)  # the last one starts in the image or before it
        starts = (torch.arange(out) * s - p).unsqueeze(-1)
        found.append(_Windows(size, k, p, d, starts, starts + torch.arange(k) * d))
    return found


def _spread(values: Sequence[int], rank: int) -> list[int]:
    return list(values) * (rank if len(values) == 1 else 1)


def _max_pool(spatial: int) -> None:
    @recipe(f"aten.max_pool{spatial}d_with_indices.default")
    def with_indices(
        x: Tensor, kernel_size: list[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,), ceil_mode: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        options = (_spread(v, spatial) for v in (kernel_size, stride or kernel_size, padding, dilation))
        return _largest(x, [w.read() for w in _windows(x, ceil_mode, *options)])

    @recipe(f"aten.max_pool{spatial}d.default")
    def values(x: Tensor, kernel_size: list[int], *options: object) -> Tensor:
        return with_indices(x, kernel_size, *options)[0]  # type: ignore[arg-type]


def _average_pool(spatial: int) -> None:
    @recipe(f"aten.avg_pool{spatial}d.default")
    def average(
        x: Tensor, kernel_size: list[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
        ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Of integers: the sum divided towards zero."""
        options = (_spread(v, spatial) for v in (kernel_size, stride or kernel_size, padding))
        windows = _windows(x, ceil_mode, *options, [1] * spatial)
        elements, _ = _read(x, [w.read() for w in windows])
        inside, count = torch.ones((), dtype=torch.bool), torch.ones((), dtype=torch.int64)
        for axis, w in enumerate(windows):
            shape = [1] * (2 * spatial)
            shape[axis], shape[spatial + axis] = w.places.shape
            inside = inside & w.inside().reshape(shape)
            count = count * w.counted(count_include_pad).reshape([-1] + [1] * (spatial - axis - 1))
        if divisor_override is not None:
            count = torch.full_like(count, divisor_override)
        kept = torch.where(inside.reshape(*inside.shape[:spatial], -1), elements, torch.zeros_like(elements))
        rounding = None if x.dtype.is_floating_point else "trunc"
        return torch.div(kept.sum(-1), count, rounding_mode=rounding).to(x.dtype)


for _spatial in (1, 2, 3):
    _max_pool(_spatial)
    _average_pool(_spatial)
