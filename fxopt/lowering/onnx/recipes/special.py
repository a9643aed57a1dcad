"""Special functions, computed in float64 and rounded once: their series lose digits that float32 does not have.

>>> round(digamma(torch.tensor(1.0)).item(), 6)
-0.577216
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from fxopt.lowering.onnx.recipes import in_double, recipe

__all__: list[str] = []

_LANCZOS = (
    0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
    12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
)  # fmt: skip
"""Lanczos' approximation with g = 7 (Godfrey's coefficients)."""
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
"""B_2, B_4, ..."""
_SHIFT = 16
"""Asymptotic series in 1/x start at this x; below it functions are carried there by their recurrence."""
_POINTS = 64
"""Of the midpoint rule over half a circle: for Bessel functions exact to float64 up to x = 60."""


def _double(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function of a float64 tensor as one of the op's dtypes."""

    @functools.wraps(function)
    def wrapped(x: Tensor, *rest: int) -> Tensor:
        wide, dtype = in_double(x)
        return function(wide, *rest).to(dtype)

    return wrapped


def _pole(x: Tensor) -> Tensor:
    """Where x is 0, -1, -2, ..."""
    return (x <= 0) & (x == x.floor())


@recipe("aten.lgamma.default")
@_double
def lgamma(x: Tensor) -> Tensor:
    """Log |gamma(x)|: Lanczos' sum from 1/2 on, the reflection pi / (sin(pi x) gamma(1 - x)) below."""
    low = x < 0.5
    z = torch.where(low, -x, x - 1)
    series = torch.full_like(z, _LANCZOS[0])
    for i, coefficient in enumerate(_LANCZOS[1:]):
        series = series + coefficient / (z + (i + 1))
    t = z + 7.5
    upper = 0.5 * math.log(2 * math.pi) + (z + 0.5) * t.log() - t + series.log()
    sine = torch.sin(math.pi * (x - x.round()))
    lower = math.log(math.pi) - sine.abs().log() - upper
    value = torch.where(low, lower, upper)
    return torch.where(_pole(x) | torch.isinf(x), torch.full_like(x, math.inf), value)


@recipe("aten.mvlgamma.default", "aten.special_multigammaln.default")
@_double
def mvlgamma(x: Tensor, p: int) -> Tensor:
    """The multivariate log gamma function: a sum of p ordinary ones."""
    total = torch.full_like(x, p * (p - 1) / 4 * math.log(math.pi))
    for j in range(p):
        total = total + lgamma(x - j / 2)
    return total


@recipe("aten.digamma.default", "aten.special_digamma.default", "aten.special_psi.default")
@_double
def digamma(x: Tensor) -> Tensor:
    """The derivative of log gamma: asymptotic series, carried down, reflected below 1/2."""
    low = x < 0.5
    y = torch.where(low, 1 - x, x)
    total = torch.zeros_like(y)
    for k in range(_SHIFT):
        total = total + 1 / (y + k)
    far = y + _SHIFT
    upper = far.log() - 0.5 / far - total
    for k, b in enumerate(_BERNOULLI, 1):
        upper = upper - b / (2 * k) / far ** (2 * k)
    angle = math.pi * (x - x.trunc())
    lower = upper - math.pi * torch.cos(angle) / torch.sin(angle)
    value = torch.where(low, lower, upper)
    value = torch.where(_pole(x), torch.full_like(x, math.nan), value)
    return torch.where(x == 0, -1 / x, value)


@recipe("aten.polygamma.default", "aten.special_polygamma.default")
def polygamma(n: int, x: Tensor) -> Tensor:
    """The n-th derivative of digamma."""
    return digamma(x) if n == 0 else _polygamma(x, n)


@_double
def _polygamma(x: Tensor, n: int) -> Tensor:
    low = x < 0.5
    upper = _polygamma_above(torch.where(low, 1 - x, x), n)
    # torch's own trigamma is finite at its poles, where the sine of a multiple of pi is not quite 0
    angle = math.pi * (x if n == 1 else x - x.trunc())
    cotangent = torch.cos(angle) / torch.sin(angle)
    lower = -(math.pi ** (n + 1)) * _horner(_cotangent_derivative(n), cotangent) + (-1) ** n * upper
    value = torch.where(low, lower, upper)
    if n == 1:
        return torch.where(x == 0, torch.full_like(x, math.inf), value)
    return torch.where(_pole(x), torch.full_like(x, math.inf if n % 2 else -math.inf), value)


def _polygamma_above(x: Tensor, n: int) -> Tensor:
    """From 1/2 on: (-1)^(n+1) n! times the sum of (x + k)^-(n+1), by Euler and Maclaurin."""
    s = n + 1
    total = torch.zeros_like(x)
    for k in range(_SHIFT):
        total = total + (x + k) ** -s
    far = x + _SHIFT
    total = total + far ** (1 - s) / n + 0.5 * far**-s
    rising = float(s)
    for k, b in enumerate(_BERNOULLI, 1):
        total = total + b / math.factorial(2 * k) * rising * far ** -(s + 2 * k - 1)
        rising *= (s + 2 * k - 1) * (s + 2 * k)
    factor = math.factorial(n) if n % 2 else -math.factorial(n)
    return factor * total


def _cotangent_derivative(n: int) -> list[float]:
    """The n-th derivative of cot as a polynomial in cot, lowest power first: p -> -(1 + c^2) p'."""
    poly = [0.0, 1.0]
    for _ in range(n):
        slope = [k * a for k, a in enumerate(poly)][1:]
        poly = [0.0] * (len(slope) + 2)
        for k, a in enumerate(slope):
            poly[k] -= a
            poly[k + 2] -= a
    return poly


def _horner(coefficients: list[float], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _midpoints(count: int) -> Tensor:
    """Midpoints of `count` parts of the half circle, f64[count]."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (math.pi / count)


def _hankel(x: Tensor, order: int, sign: int) -> tuple[Tensor, Tensor]:
    """The two halves of the asymptotic series in 1/(8x) for Bessel functions (DLMF 10.17.1): even and odd terms."""
    even, odd = torch.ones_like(x), torch.zeros_like(x)
    term = torch.ones_like(x)
    for k in range(1, 16):
        term = term * ((4 * order**2 - (2 * k - 1) ** 2) / (8.0 * k)) / x
        step = term * (sign ** (k // 2))
        even, odd = (even, odd + step) if k % 2 else (even + step, odd)
    return even, odd


_NEAR = 50.0
"""From where on the asymptotic series are exact to float64."""


def _scaled_i(x: Tensor, order: int) -> Tensor:
    """exp(-|x|) I_order(|x|) (DLMF 10.32.3, 10.40.1)."""
    size = x.abs()
    near, far = size.clamp(max=_NEAR), size.clamp(min=_NEAR)
    angles = _midpoints(_POINTS)
    cosines, weights = angles.cos(), (order * angles).cos()
    integral = (torch.exp(near.unsqueeze(-1) * (cosines - 1)) * weights).mean(-1)
    if order == 1:
        small = near / 2 * (1 + near * near / 8) * torch.exp(-near)
        integral = torch.where(near < 1e-3, small, integral)
    even, odd = _hankel(far, order, 1)
    return torch.where(size < _NEAR, integral, (even - odd) / torch.sqrt(2 * math.pi * far))


@recipe("aten.special_i0e.default")
@_double
def i0e(x: Tensor) -> Tensor:
    return _scaled_i(x, 0)


@recipe("aten.i0.default", "aten.special_i0.default", "aten.special_modified_bessel_i0.default")
@_double
def i0(x: Tensor) -> Tensor:
    return _scaled_i(x, 0) * x.abs().exp()


@recipe("aten.special_i1e.default")
@_double
def i1e(x: Tensor) -> Tensor:
    return _scaled_i(x, 1) * torch.sign(x)


@recipe("aten.special_i1.default", "aten.special_modified_bessel_i1.default")
@_double
def i1(x: Tensor) -> Tensor:
    return _scaled_i(x, 1) * x.abs().exp() * torch.sign(x)


def _j(x: Tensor, order: int) -> Tensor:
    """J_order(|x|) (DLMF 10.9.1, 10.17.3)."""
    size = x.abs()
    near, far = size.clamp(max=_NEAR), size.clamp(min=_NEAR)
    angles = _midpoints(_POINTS)
    phase = near.unsqueeze(-1) * angles.sin()
    integral = (phase.sin() * angles.sin()).mean(-1) if order else phase.cos().mean(-1)
    even, odd = _hankel(far, order, -1)
    turn = far - (order / 2 + 0.25) * math.pi
    wave = torch.sqrt(2 / (math.pi * far)) * (turn.cos() * even - turn.sin() * odd)
    return torch.where(size < _NEAR, integral, wave)


@recipe("aten.special_bessel_j0.default")
@_double
def bessel_j0(x: Tensor) -> Tensor:
    return _j(x, 0)


@recipe("aten.special_bessel_j1.default")
@_double
def bessel_j1(x: Tensor) -> Tensor:
    return _j(x, 1) * torch.sign(x)


@recipe("aten.special_spherical_bessel_j0.default")
@_double
def spherical_bessel_j0(x: Tensor) -> Tensor:
    """sin(x) / x."""
    value = torch.where(x.abs() < 1e-4, 1 - x * x / 6, torch.sin(x) / x)
    return torch.where(torch.isinf(x), torch.zeros_like(x), value)


# The error function. ONNX's own Erf is float32 in onnxruntime, and float32's too in its definition of Gelu.

_STEP, _TERMS = 0.5, 13
"""Of the trapezoidal rule for erfcx (Matta and Reichel 1971): its error is exp(-(pi / step)^2)."""


def _scaled_erfc(x: Tensor) -> Tensor:
    """exp(x^2) erfc(x) for x >= 0."""
    large = x.clamp(min=0.5, max=1e100)
    total = 1 / (large * large)
    for n in range(1, _TERMS):
        at = (n * _STEP) ** 2
        total = total + 2 * math.exp(-at) / (at + large * large)
    pole = large.clamp(max=math.pi / _STEP)
    correction = 2 * torch.exp(pole * pole) / (1 - torch.exp(2 * math.pi / _STEP * pole))
    tail = _STEP / math.pi * large * total
    tail = torch.where(large < math.pi / _STEP, tail + correction, tail)
    small = x.clamp(max=0.5)
    return torch.where(x < 0.5, (1 - _erf_series(small)) * torch.exp(small * small), tail)


def _erf_series(x: Tensor) -> Tensor:
    """erf(x) for |x| <= 1/2: Taylor's series."""
    terms = [(-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(14)]
    return 2 / math.sqrt(math.pi) * x * _horner(terms, x * x)


@recipe("aten.erf.default", "aten.special_erf.default")
@_double
def erf(x: Tensor) -> Tensor:
    """By its series near 0, beyond by erfc."""
    beyond = torch.sign(x) * (1 - _erfc(x.abs()))
    return torch.where(x.abs() < 0.5, _erf_series(x.clamp(-0.5, 0.5)), beyond)


def _erfc(x: Tensor) -> Tensor:
    """erfc(x) for x >= 0; it is 0 in float64 from 28 on."""
    bounded = x.clamp(max=30)
    return torch.exp(-bounded * bounded) * _scaled_erfc(bounded)


@recipe("aten.erfc.default", "aten.special_erfc.default")
@_double
def erfc(x: Tensor) -> Tensor:
    """By that of |x|; below 0, 2 less that."""
    value = _erfc(x.abs())
    return torch.where(x < 0, 2 - value, value)


@recipe("aten.gelu.default")
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """X times the normal distribution function, or the approximation of that by tanh."""
    if approximate == "tanh":
        return x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return x * 0.5 * torch.erfc(x * -math.sqrt(0.5))


@recipe("aten.special_erfcx.default")
@_double
def erfcx(x: Tensor) -> Tensor:
    """Below 0 by erfc(-x) = 2 - erfc(x)."""
    size = x.abs()
    value = _scaled_erfc(size)
    return torch.where(x < 0, 2 * torch.exp(size * size) - value, value)


@recipe("aten.special_log_ndtr.default")
@_double
def log_ndtr(x: Tensor) -> Tensor:
    """The logarithm of the normal distribution function."""
    scaled = _scaled_erfc(x.abs() / math.sqrt(2))
    below = torch.log(scaled / 2) - x * x / 2
    beyond = torch.exp(-x * x / 2) * scaled / 2
    above = torch.where(beyond < 1e-9, -beyond, torch.log(1 - beyond))
    return torch.where(x < 0, below, above)


def _inverse_erfc(p: Tensor) -> Tensor:
    """The x >= 0 with erfc(x) = p, for p in [0, 1]: Newton's steps on log erfc, from Winitzki's formula."""
    target = torch.log(p)
    first = torch.log(p * (2 - p))
    middle = 2 / (math.pi * 0.147) + first / 2
    x = torch.sqrt((torch.sqrt(middle * middle - first / 0.147) - middle).clamp(min=0))
    for _ in range(4):
        scaled = _scaled_erfc(x)
        x = x + (torch.log(scaled) - x * x - target) * scaled * (math.sqrt(math.pi) / 2)
    x = torch.where(p == 0, torch.full_like(p, math.inf), x)
    return torch.where((p < 0) | (p > 1), torch.full_like(p, math.nan), x)


@recipe("aten.erfinv.default", "aten.special_erfinv.default")
@_double
def erfinv(y: Tensor) -> Tensor:
    size = y.abs()
    small = math.sqrt(math.pi) / 2 * (y + math.pi / 12 * y**3)
    return torch.where(size < 1e-4, small, torch.sign(y) * _inverse_erfc(1 - size))


@recipe("aten.special_ndtri.default")
@_double
def ndtri(p: Tensor) -> Tensor:
    """The inverse of the normal distribution function."""
    low = p < 0.5
    x = math.sqrt(2) * _inverse_erfc(2 * torch.where(low, p, 1 - p))
    return torch.where(low, -x, x)
