"""Elementwise arithmetic of two and three tensors, with broadcasting."""

from collections.abc import Sequence

from fxopt.ops.info import QuantRole, SampleArgs
from fxopt.ops.table.entry import Draw, Facts, call, entry

_RANGE, _FLOAT = QuantRole.REQUANTISING, QuantRole.ISLAND


def _pairs(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 3), d(2, 3)), call(d(2, 1), d(3)), call(d(), d(2))]


def _numbers(d: Draw) -> Sequence[SampleArgs]:
    return [*_pairs(d), call(d(2, 3), 2), call(d(4), -0.5)]


def _divisors(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 3), d.positive(3)), call(d(2, 1), d.positive(2, 3)), call(d(2, 3), 2), call(d(3), -0.7)]


def _positive(d: Draw) -> Sequence[SampleArgs]:
    return [call(d.positive(2, 3), d.positive(3)), call(d.positive(2, 1), d.positive(2, 3))]


_SUM = Facts(elementwise=True, affine_in=("self", "other"), role=_RANGE)
_LARGER = Facts(elementwise=True, monotone=True, commutative=True)

entry("add", lambda d: [*_numbers(d), call(d(2, 3), d(3), alpha=2)], _SUM, monotone=True, commutative=True)
entry("sub", lambda d: [*_numbers(d), call(d(2, 3), d(3), alpha=2)], _SUM, monotone=True)
entry("rsub", lambda d: [*_numbers(d), call(d(2, 3), d(3), alpha=2)], _SUM)
entry(
    "mul",
    _numbers,
    elementwise=True,
    linear_in=("self", "other"),
    commutative=True,
    zero_preserving=True,
    role=_RANGE,
)
entry("div true_divide", _divisors, elementwise=True, linear_in=("self",), zero_preserving=True, role=_FLOAT)
entry(
    "div.Tensor_mode",
    lambda d: [call(d(2, 3), d.positive(3), rounding_mode=m) for m in ("floor", "trunc", None)],
    elementwise=True,
    zero_preserving=True,
    role=_FLOAT,
)
entry(
    "div.Scalar_mode",
    lambda d: [call(d(2, 3), 2, rounding_mode="floor")],
    elementwise=True,
    zero_preserving=True,
)
entry("floor_divide remainder fmod", _divisors, elementwise=True, zero_preserving=True, role=_FLOAT)
entry(
    "pow float_power",
    lambda d: [*_positive(d), call(d(2, 3), 2), call(2, d(3))],
    elementwise=True,
    role=_FLOAT,
)
entry("maximum minimum", _pairs, _LARGER, role=_RANGE)
entry("fmax fmin logaddexp logaddexp2", _pairs, _LARGER, role=_FLOAT)
entry("hypot", _pairs, elementwise=True, commutative=True, role=_FLOAT)
entry("atan2 copysign heaviside", _pairs, elementwise=True, role=_FLOAT)
entry("xlogy special_xlog1py", _positive, elementwise=True, zero_preserving=True, role=_FLOAT)
entry(
    "lerp",
    lambda d: [call(d(2, 3), d(3), d(2, 1)), call(d(2, 3), d(2, 3), 0.25)],
    elementwise=True,
    affine_in=("self", "end", "weight"),
    role=_RANGE,
)
entry(
    "addcmul",
    lambda d: [call(d(2, 3), d(3), d(2, 1)), call(d(2, 3), d(2, 3), d(3), value=-2)],
    elementwise=True,
    affine_in=("self", "tensor1", "tensor2"),
    monotone=True,
    role=_RANGE,
)
entry(
    "addcdiv",
    lambda d: [call(d(2, 3), d(3), d.positive(2, 1)), call(d(2, 3), d(2, 3), d.positive(3), value=-2)],
    elementwise=True,
    affine_in=("self", "tensor1"),
    monotone=True,
    role=_FLOAT,
)
