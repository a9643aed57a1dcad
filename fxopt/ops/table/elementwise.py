"""Elementwise math and activations of one tensor, and gates.

A function is `monotone` or `zero_preserving` here only if it is for every parameter: `leaky_relu` falls with
a negative slope.
"""

from collections.abc import Sequence

from fxopt.ops.info import QuantRole, SampleArgs
from fxopt.ops.table.entry import Bound, Draw, Facts, call, entry
from fxopt.ops.table.maps import along, per_channel

_FLOAT = QuantRole.ISLAND
_ISLAND = Facts(elementwise=True, role=_FLOAT)
_ODD = Facts(elementwise=True, role=_FLOAT, zero_preserving=True)
_RISING = Facts(elementwise=True, role=_FLOAT, monotone=True)
_RISING_ODD = Facts(elementwise=True, role=_FLOAT, monotone=True, zero_preserving=True)
_CLAMP = Facts(elementwise=True, role=QuantRole.SAME_SCALE, monotone=True)


def _any(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 3)), call(3 * d(4)), call(d())]


def _unit(d: Draw) -> Sequence[SampleArgs]:
    return [call(d.unit(2, 3)), call(d.unit(4))]


def _positive(d: Draw) -> Sequence[SampleArgs]:
    return [call(d.positive(2, 3)), call(d.positive(4))]


def _clips_at_zero(bound: Bound) -> bool:
    """Limits that scaling leaves where they are."""
    limits = [bound.get(name) for name in ("min", "max")]
    return all(limit is None or (isinstance(limit, (int, float)) and limit == 0) for limit in limits)


entry("relu", _any, _CLAMP, zero_preserving=True, homogeneous=True)
entry("relu6", _any, _CLAMP, zero_preserving=True)


def _limited(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 3), -0.25), call(2 * d(4), 0.5), call(d(2, 2), 0)]


entry("hardtanh", _limited, _CLAMP)
entry(
    "clamp_min clamp_max",
    _limited,
    _CLAMP,
    homogeneous=_clips_at_zero,
)
entry(
    "clamp",
    lambda d: [call(d(2, 3), -0.5, 0.5), call(d(4), None, 0), call(d(4), max=1), call(d(2, 3), d(3), None)],
    _CLAMP,
    homogeneous=_clips_at_zero,
)
entry("neg", _any, elementwise=True, linear_in=("self",), zero_preserving=True, role=QuantRole.REQUANTISING)
entry("deg2rad rad2deg", _any, _ODD, linear_in=("self",), monotone=True)
entry("abs", _any, elementwise=True, zero_preserving=True, homogeneous=True, role=QuantRole.REQUANTISING)
entry("sigmoid", _any, elementwise=True, monotone=True, absolute=True, role=QuantRole.REQUANTISING)
entry("hardsigmoid", _any, elementwise=True, monotone=True, role=QuantRole.REQUANTISING)
entry("tanh", _any, elementwise=True, monotone=True, zero_preserving=True, role=QuantRole.REQUANTISING)
entry("floor ceil round trunc sign sgn", _any, _RISING_ODD)
entry("round.decimals", lambda d: [call(d(2, 3), decimals=1)], _RISING_ODD)
entry("atan asinh sinh erf expm1 selu hardshrink softshrink", _any, _RISING_ODD)
entry("asin atanh erfinv", _unit, _RISING_ODD)
entry("sqrt log1p", _positive, _RISING_ODD)
entry("exp exp2 log_sigmoid special_ndtr", _any, _RISING)
entry("log log2 log10", _positive, _RISING)
entry("acosh", lambda d: [call(1 + d.positive(2, 3))], _RISING)
entry("logit", lambda d: [call((d.unit(2, 3) + 1) / 2), call(d.unit(3), 0.1)], _RISING)
entry("sin tan frac square mish", _any, _ODD)
entry("silu", _any, _ODD, absolute=True)
entry("gelu", lambda d: [call(d(2, 3)), call(d(4), approximate="tanh")], _ODD)
entry("hardswish", _any, elementwise=True, zero_preserving=True, role=QuantRole.REQUANTISING)
entry(
    "leaky_relu",
    lambda d: [call(d(2, 3)), call(d(4), 0.3), call(d(4), -0.3)],
    elementwise=True,
    zero_preserving=True,
    homogeneous=True,
    role=QuantRole.REQUANTISING,
)
entry("elu", lambda d: [call(d(2, 3)), call(d(4), 0.5, 1.5, 2), call(d(4), -2)], _ODD)
entry("celu", lambda d: [call(d(2, 3)), call(d(4), 0.5)], _RISING_ODD)
entry("cos cosh erfc special_i0 sinc", _any, _ISLAND)
entry("acos", _unit, _ISLAND)
entry("reciprocal rsqrt lgamma digamma", _positive, _ISLAND)
entry("softplus", lambda d: [call(d(2, 3)), call(d(4), 2, 1.5)], _ISLAND)
entry("threshold", lambda d: [call(d(2, 3), 0.1, 20.0), call(d(4), 0, 0)], elementwise=True)
entry(
    "nan_to_num",
    lambda d: [call(d(2, 3)), call(d(4).log(), 0.5, 9.0)],
    elementwise=True,
    zero_preserving=True,
)
entry("isnan isinf isfinite signbit", _any, elementwise=True)
entry(
    "fake_quantize_per_tensor_affine",
    lambda d: [call(d(2, 3), 0.1, 3, 0, 255)],
    elementwise=True,
    role=QuantRole.REQUANTISING,
)
entry(
    "prelu",
    lambda d: [call(d(2, 3), d(3)), call(d(2, 3, 2), d(1)), call(d(4), d(1)), call(d(2, 3), d())],
    index_map=per_channel("weight"),
    same_everywhere=True,
    affine_in=("weight",),
    zero_preserving=True,
    homogeneous=True,
    role=QuantRole.REQUANTISING,
)
entry(
    "glu",
    lambda d: [call(d(2, 6)), call(d(4, 3), 0)],
    index_map=along("dim"),
    dims=("dim",),
    zero_preserving=True,
    absolute=True,
    role=QuantRole.ISLAND,
)
