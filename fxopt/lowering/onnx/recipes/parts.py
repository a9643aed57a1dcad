"""Ops with several results, or made of a few others that torch's decompositions do not give in a form with rules.

>>> [v.item() for v in frexp(torch.tensor(12.0))]
[0.75, 4]
"""

import math

import torch
from torch import Tensor

from fxopt.lowering.onnx.recipes import RecipeError, in_double, recipe, sized

__all__: list[str] = []


@recipe("aten.embedding_bag.padding_idx", "aten.embedding_bag.default")
def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor | None, ...]:
    """Rows added up (mode 0), averaged (1) or their largest (2), bag by bag; an empty bag is 0."""
    starts = offsets[:-1] if include_last_offset else offsets
    places = torch.arange(indices.shape[0])
    bag = (starts.unsqueeze(-1) <= places).to(torch.int64).sum(0) - 1
    kept = torch.ones_like(indices, dtype=torch.bool)
    if padding_idx is not None:
        kept = indices != padding_idx % weight.shape[0]
    inside = (bag == torch.arange(starts.shape[0]).unsqueeze(-1)) & kept
    rows = weight[indices]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    mask = inside.unsqueeze(-1)
    count = inside.to(weight.dtype).sum(-1, True)
    if mode == 2:
        largest = torch.where(mask, rows, torch.full((), -math.inf, dtype=rows.dtype)).amax(1)
        return torch.where(count == 0, torch.zeros_like(largest), largest), None, None, None
    total = torch.where(mask, rows, torch.zeros((), dtype=rows.dtype)).sum(1)
    return (total / count.clamp(min=1) if mode == 1 else total), None, None, None


@recipe("aten.log_sigmoid_forward.default")
def log_sigmoid_forward(x: Tensor) -> tuple[Tensor | None, ...]:
    return x.clamp(max=0) - torch.log1p(torch.exp(-x.abs())), None


@recipe("aten.frexp.Tensor")
def frexp(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissas of size 1/2 to 1 and exponents; exact, for powers of two scale without rounding."""
    wide, dtype = in_double(x)
    plain = (wide == 0) | torch.isinf(wide) | torch.isnan(wide)
    size = torch.where(plain, torch.ones_like(wide), wide.abs())
    exponent = torch.floor(torch.log2(size)) + 1
    half = (exponent / 2).floor()
    mantissa = size / torch.exp2(half) / torch.exp2(exponent - half)
    high, low = mantissa >= 1, mantissa < 0.5
    exponent = exponent + high.double() - low.double()
    mantissa = torch.where(high, mantissa / 2, torch.where(low, mantissa * 2, mantissa))
    mantissa = torch.where(plain, wide, mantissa * torch.sign(wide))
    exponent = torch.where(plain, torch.zeros_like(exponent), exponent)
    return mantissa.to(dtype), exponent.to(torch.int32)


@recipe("aten.gcd.default")
def gcd(x: Tensor, y: Tensor) -> Tensor:
    """Euclid's algorithm, as many steps as neighbouring Fibonacci numbers of the dtype take."""
    dtype = torch.promote_types(x.dtype, y.dtype)
    pair: tuple[Tensor, Tensor] = torch.broadcast_tensors(x.to(dtype).abs(), y.to(dtype).abs())
    a, b = pair
    for _ in range(math.ceil(torch.iinfo(dtype).bits * math.log(2, (1 + math.sqrt(5)) / 2))):
        rest = torch.remainder(a, torch.where(b == 0, torch.ones_like(b), b))
        a, b = torch.where(b == 0, a, b), torch.where(b == 0, b, rest)
    return a


@recipe("aten.lcm.default")
def lcm(x: Tensor, y: Tensor) -> Tensor:
    """In int32 at least, as C computes it."""
    common = gcd(x, y)
    wide = torch.promote_types(common.dtype, torch.int32)
    parts = torch.div(x.to(wide), common.to(wide).clamp(min=1), rounding_mode="trunc")
    return (parts * y.to(wide)).abs().to(common.dtype)


@recipe("aten.vander.default")
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Powers of each element, the largest first by default."""
    powers: Tensor = torch.linalg.vander(x, N=N)
    falling: Tensor = powers.flip(-1)
    return powers if increasing else falling


@recipe("aten.logspace.default")
def logspace(
    start: float, end: float, steps: int, base: float = 10.0, *, dtype: torch.dtype | None = None,
    layout: object = None, device: object = None, pin_memory: object = None,
) -> Tensor:  # fmt: skip
    """A constant: all its arguments are."""
    if not all(isinstance(v, (int, float)) for v in (start, end, steps, base)):
        raise RecipeError("a computed size")
    exponents = torch.linspace(start, end, steps, dtype=torch.float64)
    return torch.pow(base, exponents).to(dtype or torch.get_default_dtype())


# Real inverse Fourier transforms: products with a table of cosines and sines.


def _scale(size: int, norm: str | None, sign: int) -> float:
    """What a transform over `size` points is multiplied by; that with sign 1 is the inverse one."""
    if norm == "ortho":
        return 1 / math.sqrt(size)
    return 1 / size if (norm == "forward") == (sign < 0) else 1.0


def _table(rows: int, columns: int, period: int) -> tuple[Tensor, Tensor]:
    """Cos and sin of 2 pi j k / period, f64[rows, columns] each."""
    turns = torch.outer(torch.arange(rows), torch.arange(columns)) % period
    angles = turns.double() * (2 * math.pi / period)
    return angles.cos(), angles.sin()


def _fitted(x: Tensor, axis: int, size: int) -> Tensor:
    """The axis cut or filled with zeros to a size."""
    have = sized(x, axis)
    if have >= size:
        return x.narrow(axis, 0, size)
    shape = [size - have if d == axis else n for d, n in enumerate(x.shape)]
    return torch.cat([x, torch.zeros(shape, dtype=x.dtype)], axis)


def _turned(re: Tensor, im: Tensor, axis: int, sign: int, factor: float) -> tuple[Tensor, Tensor]:
    """A complex transform along an axis: the sum over k of z_k exp(sign 2 pi i j k / n), times a factor."""
    size = sized(re, axis)
    cosine, sine = (t * factor for t in _table(size, size, size))
    re, im = re.movedim(axis, -1), im.movedim(axis, -1)
    pair = re @ cosine - sign * (im @ sine), im @ cosine + sign * (re @ sine)
    return pair[0].movedim(-1, axis), pair[1].movedim(-1, axis)


def _to_real(re: Tensor, im: Tensor, axis: int, size: int, sign: int, factor: float) -> Tensor:
    """The real transform of `size` points whose spectrum's first half is given; its mirror image is implied."""
    half = size // 2 + 1
    re, im = (_fitted(v, axis, half).movedim(axis, -1) for v in (re, im))
    weights = torch.full((half, 1), 2.0, dtype=torch.float64)
    ends = torch.arange(half).unsqueeze(-1)
    single = (ends == 0) | (ends * 2 == size)
    weights = torch.where(single, torch.ones_like(weights), weights) * factor
    cosine, sine = _table(half, size, size)
    return (re @ (weights * cosine) - sign * (im @ (weights * sine))).movedim(-1, axis)


def _inverse_real(
    x: Tensor, sizes: list[int] | None, dims: list[int] | None, norm: str | None, sign: int
) -> Tensor:
    """Irfftn (sign 1) and hfftn (sign -1)."""
    x = x.resolve_conj()
    re, dtype = in_double(x.real)
    im = x.imag.double() if x.is_complex() else torch.zeros_like(re)
    if dims is None:
        dims = list(range(-(x.dim() if sizes is None else len(sizes)), 0))
    axes = [d % x.dim() for d in dims]
    if sizes is None:
        sizes = [*(sized(x, d) for d in axes[:-1]), 2 * (sized(x, axes[-1]) - 1)]
    for axis, size in zip(axes[:-1], sizes[:-1], strict=True):
        re, im = (_fitted(v, axis, sized(v, axis) if size == -1 else size) for v in (re, im))
        re, im = _turned(re, im, axis, sign, _scale(sized(re, axis), norm, sign))
    last = sizes[-1] if sizes[-1] != -1 else 2 * (sized(x, axes[-1]) - 1)
    factor = _scale(last, norm, sign)
    return _to_real(re, im, axes[-1], last, sign, factor).to(dtype)


@recipe("aten.fft_irfft.default")
def irfft(x: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    return _inverse_real(x, None if n is None else [n], [dim], norm, 1)


@recipe("aten.fft_hfft.default")
def hfft(x: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    return _inverse_real(x, None if n is None else [n], [dim], norm, -1)


@recipe("aten.fft_irfft2.default")
def irfft2(
    x: Tensor, s: list[int] | None = None, dim: tuple[int, ...] = (-2, -1), norm: str | None = None
) -> Tensor:
    return _inverse_real(x, s, list(dim), norm, 1)


@recipe("aten.fft_hfft2.default")
def hfft2(
    x: Tensor, s: list[int] | None = None, dim: tuple[int, ...] = (-2, -1), norm: str | None = None
) -> Tensor:
    return _inverse_real(x, s, list(dim), norm, -1)


@recipe("aten.fft_irfftn.default")
def irfftn(
    x: Tensor, s: list[int] | None = None, dim: list[int] | None = None, norm: str | None = None
) -> Tensor:
    return _inverse_real(x, s, dim, norm, 1)


@recipe("aten.fft_hfftn.default")
def hfftn(
    x: Tensor, s: list[int] | None = None, dim: list[int] | None = None, norm: str | None = None
) -> Tensor:
    return _inverse_real(x, s, dim, norm, -1)


# Of float64, where onnxruntime has no kernel for the op of ONNX.


@recipe("aten.prelu.default")
def prelu(x: Tensor, weight: Tensor) -> Tensor:
    slope = weight.reshape([-1] + [1] * (x.dim() - 2)) if x.dim() > 1 and weight.dim() else weight
    return torch.where(x > 0, x, x * slope)
