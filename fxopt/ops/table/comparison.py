"""Comparisons, logic, bits, and choices by a mask."""

from collections.abc import Sequence

import torch

from fxopt.ops.info import QuantRole, SampleArgs
from fxopt.ops.table.entry import Draw, Facts, call, entry


def _pairs(d: Draw) -> Sequence[SampleArgs]:
    x = d(2, 3)
    return [call(x, x.flip(0)), call(x, d(3)), call(x, x[0, 0]), call(x, x[1, 1].item()), call(x, 0)]


def _masks(d: Draw) -> Sequence[SampleArgs]:
    return [call(d.mask(2, 3), d.mask(3)), call(d.mask(2, 1), d.mask(2, 3))]


def _integers(d: Draw) -> Sequence[SampleArgs]:
    return [call(d.integers(9, 2, 3), d.integers(4, 3)), call(d.integers(9, 2, 3), 2)]


_MASK = Facts(elementwise=True)

entry("ge gt", _pairs, _MASK, monotone=True)
entry("le lt", _pairs, _MASK)
entry("eq ne", _pairs, _MASK, commutative=True)
entry("isclose", lambda d: [call(d(2, 3), d(3)), call(d(3), d(3), 0.5, 0.5)], _MASK)
entry("logical_not", lambda d: [call(d.mask(2, 3)), call(d(3))], _MASK)
entry(
    "logical_and",
    lambda d: [*_masks(d), call(d(2, 3), d(3))],
    _MASK,
    commutative=True,
    zero_preserving=True,
)
entry("logical_or logical_xor", lambda d: [*_masks(d), call(d(2, 3), d(3))], _MASK, commutative=True)
entry("bitwise_not", lambda d: [call(d.mask(2, 3)), call(d.integers(9, 4))], _MASK)
entry("bitwise_and", lambda d: [*_masks(d), *_integers(d)], _MASK, commutative=True, zero_preserving=True)
entry("bitwise_or bitwise_xor", lambda d: [*_masks(d), *_integers(d)], _MASK, commutative=True)
entry("bitwise_left_shift bitwise_right_shift", _integers, _MASK, zero_preserving=True)
entry("__and__ __or__ __xor__", lambda d: [*_masks(d), *_integers(d)], _MASK, commutative=True)
entry("__lshift__ __rshift__", _integers, _MASK, zero_preserving=True)
entry(
    "where",
    lambda d: [
        call(d.mask(2, 3), d(3), d(2, 1)),
        call(d.mask(2, 3), d(2, 3), 0.5),
        call(d.mask(3), 1.5, d(2, 3)),
        call(d.mask(3), 1.5, -1.0),
    ],
    elementwise=True,
    affine_in=("self", "other"),
    role=QuantRole.REQUANTISING,
)
entry("where.default", lambda d: [call(d.mask(2, 3))])
entry(
    "masked_fill",
    lambda d: [
        call(d(2, 3), d.mask(3), -1.0),
        call(d(3), d.mask(2, 3), float("-inf")),
        call(d(3), d.mask(2, 3), torch.tensor(2.0, dtype=torch.float64)),
    ],
    elementwise=True,
    affine_in=("self", "value"),
    role=QuantRole.ISLAND,
)
entry(
    "bucketize",
    lambda d: [call(d(2, 3), torch.tensor([-1.0, 0, 1], dtype=torch.float64))],
    index_map="x[*], b[k] -> y[*]",
)
entry("bucketize.Scalar", lambda d: [call(0.5, torch.tensor([-1.0, 0, 1], dtype=torch.float64))])
