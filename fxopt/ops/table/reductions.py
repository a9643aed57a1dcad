"""Reductions, scans, and orderings along dimensions."""

from collections.abc import Sequence

from fxopt.ops.info import Aliasing, QuantRole, SampleArgs
from fxopt.ops.table.entry import Draw, Facts, call, entry, no_flops
from fxopt.ops.table.maps import along, reduced

_KEPT = Facts(role=QuantRole.SAME_SCALE, zero_preserving=True)
_FLOAT = Facts(role=QuantRole.ISLAND)
_SPREAD = Facts(role=QuantRole.ISLAND, zero_preserving=True, centres=True)


def _all(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 3)), call(d())]


def _lists(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 3, 4), [1, -1]), call(d(2, 3), -1, True), call(d(2, 3), [0])]


def _one(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 3, 4), 1), call(d(2, 3), -1, True)]


def _scan(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 3), -1), call(d(3), 0), call(d(2, 3, 2), 1)]


def _masks(d: Draw) -> Sequence[SampleArgs]:
    return [call(d.mask(2, 3)), call(d(2, 3)), call(d.mask(1))]


_LINEAR = Facts(linear_in=("self",), zero_preserving=True, role=QuantRole.REQUANTISING, dtype_args=("dtype",))
entry("sum", _all, _LINEAR, index_map=reduced(), skips_zeros=True)
entry("mean", _all, _LINEAR, index_map=reduced(), keeps_constants=True)


def _some(d: Draw) -> Sequence[SampleArgs]:
    return [*_lists(d), call(d(2, 3), None)]


entry("sum.dim_IntList", _some, _LINEAR, index_map=reduced("dim"), dims=("dim",), skips_zeros=True)
entry("mean.dim", _some, _LINEAR, index_map=reduced("dim"), dims=("dim",), keeps_constants=True)
entry(
    "nansum",
    lambda d: [*_lists(d), call(d(2, 3))],
    index_map=reduced("dim"),
    dims=("dim",),
    dtype_args=("dtype",),
    zero_preserving=True,
)
entry("prod", _all, index_map=reduced(), dtype_args=("dtype",), role=QuantRole.ISLAND)
entry(
    "prod.dim_int",
    _one,
    _FLOAT,
    index_map=reduced("dim"),
    dims=("dim",),
    dtype_args=("dtype",),
)
entry(
    "amax amin",
    lambda d: [*_lists(d), call(d(2, 3))],
    _KEPT,
    index_map=reduced("dim"),
    dims=("dim",),
    keeps_constants=True,
)
entry("max min median nanmedian", _all, _KEPT, index_map=reduced())
entry(
    "max.dim min.dim median.dim nanmedian.dim",
    _one,
    _KEPT,
    index_map=reduced("dim", outputs=2),
    dims=("dim",),
)
entry(
    "max.other min.other",
    lambda d: [call(d(2, 3), d(3))],
    elementwise=True,
    monotone=True,
    commutative=True,
    role=QuantRole.REQUANTISING,
)
entry(
    "aminmax",
    lambda d: [call(d(2, 3)), call(d(2, 3), dim=-1, keepdim=True)],
    index_map=reduced("dim", outputs=2),
    dims=("dim",),
)
entry(
    "argmax argmin",
    lambda d: [call(d(2, 3)), call(d(2, 3), -1), call(d(2, 3), 0, True)],
    index_map=reduced("dim"),
    dims=("dim",),
)
entry("logsumexp", _lists, _FLOAT, index_map=reduced("dim"), dims=("dim",))
entry(
    "std var",
    lambda d: [call(d(2, 3)), call(d(2, 3), False)],
    _SPREAD,
    index_map=reduced(),
)
entry(
    "std_mean var_mean",
    lambda d: [call(d(2, 3))],
    _SPREAD,
    index_map=reduced(outputs=2),
)


def _correction(d: Draw) -> Sequence[SampleArgs]:
    return [
        call(d(2, 3, 4), [1, -1], correction=1),
        call(d(2, 3), [-1], correction=0, keepdim=True),
        call(d(2, 3), None),
    ]


entry(
    "std.dim var.dim",
    lambda d: [call(d(2, 3, 4), [1, -1]), call(d(2, 3), -1, False, True)],
    _SPREAD,
    index_map=reduced("dim"),
    dims=("dim",),
)
entry("std.correction var.correction", _correction, _SPREAD, index_map=reduced("dim"), dims=("dim",))
entry(
    "std_mean.dim var_mean.dim",
    lambda d: [call(d(2, 3, 4), [1, -1])],
    _SPREAD,
    index_map=reduced("dim", outputs=2),
    dims=("dim",),
)
entry(
    "std_mean.correction var_mean.correction",
    _correction,
    _SPREAD,
    index_map=reduced("dim", outputs=2),
    dims=("dim",),
)
entry(
    "norm",
    lambda d: [call(d(2, 3)), call(d(2, 3), 1), call(d(2, 3), 2, dtype=d(1).dtype)],
    _FLOAT,
    index_map=reduced(),
    zero_preserving=True,
    dtype_args=("dtype",),
)
entry(
    "norm.ScalarOpt_dim",
    lambda d: [call(d(2, 3, 4), 2, [1, -1]), call(d(2, 3), 1, [-1], True)],
    _FLOAT,
    index_map=reduced("dim"),
    dims=("dim",),
    zero_preserving=True,
)
entry(
    "norm.ScalarOpt_dim_dtype",
    lambda d: [call(d(2, 3, 4), 2, [1, -1], False, dtype=d(1).dtype)],
    _FLOAT,
    index_map=reduced("dim"),
    dims=("dim",),
    dtype_args=("dtype",),
    zero_preserving=True,
)
entry(
    "linalg_vector_norm",
    lambda d: [call(d(2, 3)), call(d(2, 3, 4), 1, [1, -1]), call(d(2, 3), 2, [-1], True)],
    _FLOAT,
    index_map=reduced("dim"),
    dims=("dim",),
    dtype_args=("dtype",),
    zero_preserving=True,
)
entry("any", _masks, index_map=reduced(), zero_preserving=True)
entry("all", _masks, index_map=reduced())
entry(
    "any.dim all.dim",
    lambda d: [call(d.mask(2, 3), -1), call(d(2, 3), 0, True)],
    index_map=reduced("dim"),
    dims=("dim",),
)
entry(
    "any.dims all.dims", lambda d: [call(d.mask(2, 3, 2), [0, -1])], index_map=reduced("dim"), dims=("dim",)
)
entry(
    "count_nonzero",
    lambda d: [call(d.mask(2, 3)), call(d.mask(2, 3), -1)],
    index_map=reduced("dim"),
    dims=("dim",),
)
entry(
    "count_nonzero.dim_IntList",
    lambda d: [call(d.mask(2, 3, 2), [0, -1])],
    index_map=reduced("dim"),
    dims=("dim",),
)
entry(
    "cosine_similarity",
    lambda d: [call(d(2, 3), d(2, 3)), call(d(2, 3), d(2, 1, 3), -1, 1e-6)],
    role=QuantRole.ISLAND,
)
entry(
    "linalg_cross",
    lambda d: [call(d(2, 3), d(2, 3))],
    dims=("dim",),
    linear_in=("self", "other"),
    zero_preserving=True,
)
entry(
    "cumsum",
    _scan,
    linear_in=("self",),
    index_map=along("dim"),
    dims=("dim",),
    zero_preserving=True,
    dtype_args=("dtype",),
    role=QuantRole.ISLAND,
)
entry(
    "cumprod",
    _scan,
    _FLOAT,
    index_map=along("dim"),
    dims=("dim",),
    zero_preserving=True,
    dtype_args=("dtype",),
)
entry("logcumsumexp", _scan, _FLOAT, index_map=along("dim"), dims=("dim",))
entry("cummax cummin", _scan, _KEPT, index_map=along("dim", outputs=2), dims=("dim",))
entry(
    "diff",
    lambda d: [call(d(2, 4)), call(d(4, 2), 2, 0), call(d(2, 3), 1, -1, d(2, 1), d(2, 2))],
    dims=("dim",),
    affine_in=("self", "prepend", "append"),
)
entry(
    "sort",
    lambda d: [call(d(2, 4)), call(d(3, 2), 0, True)],
    _KEPT,
    index_map=along("dim", outputs=2),
    dims=("dim",),
)
entry("argsort", lambda d: [call(d(2, 4)), call(d(3, 2), 0, True)], index_map=along("dim"), dims=("dim",))
entry(
    "topk",
    lambda d: [call(d(2, 4), 2), call(d(3, 2), 1, 0, False)],
    _KEPT,
    index_map=along("dim", outputs=2),
    dims=("dim",),
)
entry("kthvalue", lambda d: [call(d(2, 4), 2)], _KEPT, index_map=reduced("dim", outputs=2), dims=("dim",))
entry("mode", lambda d: [call(d.integers(3, 2, 4))], index_map=reduced("dim", outputs=2), dims=("dim",))
entry("trace", lambda d: [call(d(3, 3))], linear_in=("self",), zero_preserving=True, index_map=reduced())
entry(
    "histogramdd.TensorList_bins",
    lambda d: [call(d.unit(9, 1), [d(4).sort().values])],
    aliasing=Aliasing.MAYBE,
    flops=no_flops,
)
entry("bincount", lambda d: [call(d.integers(4, 6))], flops=no_flops)
