"""Normalisations and softmax; batch and instance norms are said of in eval mode, where they are pure.

Operations an element are counted as written out: layer_norm takes a mean, a difference, two for the squares,
a division, and two for scale and shift.
"""

from collections.abc import Callable

from fxopt.ops.info import Aliasing, QuantRole
from fxopt.ops.sizes import Size, product, shape_of
from fxopt.ops.table import resizing
from fxopt.ops.table.entry import Bound, Facts, call, entry
from fxopt.ops.table.maps import along, first_shape, per_channel, statement, trailing

_ISLAND = Facts(role=QuantRole.ISLAND)


def _each(operations: int) -> Callable[[Bound, object], Size]:
    """So many operations an input element."""
    return lambda bound, output: operations * product(first_shape(bound))


def _statistics(bound: Bound) -> bool:
    """instance_norm mixes the positions of a channel only where it takes its statistics from the input."""
    return bool(bound["use_input_stats"])


def _instance(bound: Bound) -> str:
    space = [f"s{i}" for i in range(len(first_shape(bound)) - 2)]
    x = ["n", "c", *(f"!{s}" if _statistics(bound) else s for s in space)]
    return statement([x, *[["c"]] * 4], [x])


def _group(bound: Bound) -> str:
    space = [f"!s{i}" for i in range(len(first_shape(bound)) - 2)]
    groups = bound["num_groups"]
    x = ["n", f"(g={groups} !c)", *space]
    return statement([x, *[[f"(g={groups} c)"]] * 2], [x])


entry(
    "batch_norm",
    lambda d: [
        call(d(2, 3, 4, 2), d(3), d(3), d(3), d.positive(3), False, 0.1, 1e-5, False),
        call(d(2, 3), None, None, d(3), d.positive(3), False, 0.1, 1e-3, False),
        call(d(2, 3, 4), d(3), d(3), d(3), d.positive(3), True, 0.1, 1e-5, False),
    ],
    index_map=per_channel("weight", "bias", "running_mean", "running_var"),
    affine_in=("input", "weight", "bias", "running_mean"),
    pure=lambda bound: bound["training"] is False,
    aliasing=Aliasing.NEVER,
    role=QuantRole.REQUANTISING,
    same_everywhere=True,
    scaled_by="weight",
    shifted_by="bias",
    flops=_each(2),
)
entry(
    "instance_norm",
    lambda d: [
        call(d(2, 3, 4, 2), d(3), d(3), None, None, True, 0.1, 1e-5, False),
        call(d(2, 3, 4), d(3), None, d(3), d.positive(3), False, 0.1, 1e-5, False),
        call(d(2, 3, 4), d(3), None, d(3), d.positive(3), True, 0.1, 1e-5, False),
    ],
    _ISLAND,
    scaled_by="weight",
    shifted_by="bias",
    index_map=_instance,
    affine_in=("weight", "bias"),
    centres=_statistics,
    pure=lambda bound: bound["running_mean"] is None or bound["use_input_stats"] is False,
    flops=_each(7),
)
entry(
    "layer_norm",
    lambda d: [call(d(2, 4, 3), [3], d(3), d(3)), call(d(2, 4, 3), [4, 3], d(4, 3)), call(d(2, 3), [3])],
    _ISLAND,
    index_map=trailing("normalized_shape", 2),
    centres=True,
    scaled_by="weight",
    shifted_by="bias",
    affine_in=("weight", "bias"),
    flops=_each(7),
)
entry(
    "rms_norm",
    lambda d: [call(d(2, 4, 3), [3], d(3), 1e-6), call(d(2, 4, 3), [4, 3]), call(d(2, 3), [3], d(3))],
    _ISLAND,
    index_map=trailing("normalized_shape", 1),
    scaled_by="weight",
    linear_in=("weight",),
    zero_preserving=True,
    flops=_each(4),
)
entry(
    "group_norm",
    lambda d: [call(d(2, 6, 3), 2, d(6), d(6)), call(d(2, 4, 2, 3), 4, None, None), call(d(2, 4), 2, d(4))],
    _ISLAND,
    index_map=_group,
    centres=True,
    scaled_by="weight",
    shifted_by="bias",
    resize=resizing.groups("num_groups"),
    affine_in=("weight", "bias"),
    flops=_each(7),
)
entry(
    "softmax log_softmax",
    lambda d: [call(d(2, 3), -1), call(d(2, 3, 4), 1), call(d(), 0), call(d(2, 3), 0, dtype=d().dtype)],
    _ISLAND,
    index_map=along("dim"),
    dims=("dim",),
    dtype_args=("dtype",),
    flops=_each(5),
)
entry(
    "_softmax _log_softmax",
    lambda d: [call(d(2, 3), -1, False)],
    _ISLAND,
    index_map=along("dim"),
    dims=("dim",),
    flops=_each(5),
)
entry(
    "_weight_norm",
    lambda d: [call(d(2, 3, 4), d(2, 1, 1), 0), call(d(2, 3), d(1, 3), 1), call(d(2, 3), d(), -1)],
    index_map=lambda bound: _weight_norm(bound),
    linear_in=("g",),
)


def _weight_norm(bound: Bound) -> str:
    """Each slice along `dim` has its own norm; with -1 there is one for all."""
    rank, kept = len(first_shape(bound)), bound["dim"]
    dims = [f"d{i}" if i == kept else f"!d{i}" for i in range(rank)]
    norms = [f"d{i}" if i == kept else "." for i in range(len(shape_of(bound["g"])))]
    return statement([dims, norms], [dims])
