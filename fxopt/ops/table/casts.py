"""Casts, copies and other names of the same values."""

from collections.abc import Sequence

import torch

from fxopt.ops.info import Aliasing, QuantRole, SampleArgs
from fxopt.ops.sizes import shape_of
from fxopt.ops.table.entry import Bound, Draw, Facts, call, entry, no_flops
from fxopt.ops.table.maps import statement


def _as_other(bound: Bound) -> str:
    """Only the dtype of the other tensor counts."""
    return statement([["*"], ["."] * len(shape_of(bound["other"]))], [["*"]])


_SAME = Facts(
    elementwise=True,
    linear_in=("self",),
    monotone=True,
    zero_preserving=True,
    role=QuantRole.SAME_SCALE,
    flops=no_flops,
)
_CAST = Facts(elementwise=True, zero_preserving=True, flops=no_flops, dtype_args=("dtype",))

entry(
    "clone contiguous detach alias lift_fresh lift_fresh_copy positive detach_copy",
    lambda d: [call(d(2, 3))],
    _SAME,
)
entry(
    "to",
    lambda d: [
        call(d(2, 3), torch.float64),
        call(d(2, 3), torch.int64),
        call(d.integers(9, 4), torch.float32),
        call(d(3), torch.bool),
        call(d(3), dtype=torch.float32),
        call(d(3), "cpu", torch.float64),
    ],
    _CAST,
)
entry("_to_copy", lambda d: [call(d(2, 3), dtype=torch.int64), call(d(3))], _CAST)


def _others(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 3), d(1)), call(d(2, 3), d.integers(2, 2))]


_AS = Facts(index_map=_as_other, zero_preserving=True, flops=no_flops)
entry("to.other", _others, _AS)
entry("type_as", _others, _AS, aliasing=Aliasing.MAYBE)
