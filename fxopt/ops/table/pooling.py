"""Pooling, resampling, and what moves channels into space and back."""

from collections.abc import Callable, Sequence

from torch.utils import _pytree as pytree

from fxopt.ops.info import QuantRole, SampleArgs
from fxopt.ops.sizes import Size, product, shape_of
from fxopt.ops.table import resizing
from fxopt.ops.table.entry import Bound, Draw, Facts, call, entry, no_flops
from fxopt.ops.table.maps import first_shape, statement

_SAME, _RANGE = QuantRole.SAME_SCALE, QuantRole.REQUANTISING
_SIZE = (6, 5, 4)


def _windows(rank: int, outputs: int = 1) -> str:
    dims = ["*", *(f"~s{i}" for i in range(rank))]
    return statement([dims], [dims] * outputs)


def _first(output: object) -> object:
    return output[0] if isinstance(output, (list, tuple)) else output


def _window_flops(bound: Bound, output: object) -> Size:
    """One operation an element of each window."""
    kernel = bound["kernel_size"]
    rank = len(kernel) if isinstance(kernel, (list, tuple)) else 1
    sizes = list(kernel) if isinstance(kernel, (list, tuple)) else [kernel]
    return product(shape_of(_first(output))) * product(s for s in sizes[:rank] if isinstance(s, int))


def _input_flops(bound: Bound, output: object) -> Size:
    return product(first_shape(bound))


def _taps(count: int) -> Callable[[Bound, object], Size]:
    """A multiply-add for each of the input elements that an output element is made of."""
    return lambda bound, output: 2 * count * product(shape_of(output))


def _pools(rank: int, *, average: bool) -> Callable[[Draw], Sequence[SampleArgs]]:
    def samples(d: Draw) -> Sequence[SampleArgs]:
        size = _SIZE[:rank]
        plain = [call(d(2, 3, *size), [2] * rank), call(d(3, *size), [3] * rank, [2] * rank, [1] * rank)]
        last = call(
            d(2, 2, *size), [2] * rank, [1] * rank, [1] * rank, *([True, False] if average else [[2] * rank])
        )
        return [*plain, last]

    return samples


def _adaptive(rank: int) -> Callable[[Draw], Sequence[SampleArgs]]:
    def samples(d: Draw) -> Sequence[SampleArgs]:
        size = _SIZE[:rank]
        return [call(d(2, 3, *size), [n] * rank) for n in (1, 3)] + [call(d(3, *size), [2] * rank)]

    return samples


_MAXIMUM = Facts(role=_SAME, zero_preserving=True)


def _averages_alike(bound: Bound) -> bool:
    """An average that counts the zeros around the input is no constant at the border."""
    padding = bound["padding"]
    amounts = padding if isinstance(padding, (list, tuple)) else [padding]
    return not any(amounts) or not bound["count_include_pad"]


_MEAN = Facts(role=_RANGE, zero_preserving=True, linear_in=("self",))
for _rank in (1, 2, 3):
    entry(
        f"max_pool{_rank}d",
        _pools(_rank, average=False),
        _MAXIMUM,
        index_map=_windows(_rank),
        keeps_constants=True,
        homogeneous=True,
        flops=_window_flops,
    )
    entry(
        f"max_pool{_rank}d_with_indices",
        _pools(_rank, average=False),
        _MAXIMUM,
        index_map=_windows(_rank, 2),
        flops=_window_flops,
    )
    entry(
        f"avg_pool{_rank}d",
        _pools(_rank, average=True),
        _MEAN,
        index_map=_windows(_rank),
        keeps_constants=_averages_alike,
        flops=_window_flops,
    )
    entry(
        f"adaptive_avg_pool{_rank}d",
        _adaptive(_rank),
        _MEAN,
        index_map=_windows(_rank),
        keeps_constants=True,
        flops=_input_flops,
    )
    entry(
        f"adaptive_max_pool{_rank}d",
        _adaptive(_rank),
        _MAXIMUM,
        index_map=_windows(_rank, 2),
        flops=_input_flops,
    )


def _resizes(rank: int, *options: bool) -> Callable[[Draw], Sequence[SampleArgs]]:
    def samples(d: Draw) -> Sequence[SampleArgs]:
        size = _SIZE[:rank]
        return [
            call(d(1, 2, *size), [7] * rank, *options, None),
            call(d(1, 2, *size), None, *options, [1.5] * rank),
            call(d(1, 2, *size), [3] * rank, *options),
        ]

    return samples


def _aligned(rank: int) -> Callable[[Draw], Sequence[SampleArgs]]:
    return lambda d: [sample for align in (False, True) for sample in _resizes(rank, align)(d)]


for _rank in (1, 2, 3):
    for _name in (f"upsample_nearest{_rank}d", f"_upsample_nearest_exact{_rank}d"):
        entry(
            _name,
            _resizes(_rank),
            index_map=_windows(_rank),
            linear_in=("self", "input"),
            zero_preserving=True,
            keeps_constants=True,
            role=_SAME,
            flops=no_flops,
        )
for _name, _rank, _count in (
    ("linear1d", 1, 2),
    ("bilinear2d", 2, 4),
    ("bicubic2d", 2, 16),
    ("trilinear3d", 3, 8),
):
    entry(
        f"upsample_{_name}",
        _aligned(_rank),
        index_map=_windows(_rank),
        linear_in=("self", "input"),
        zero_preserving=True,
        keeps_constants=True,
        role=_RANGE,
        flops=_taps(_count),
    )
entry(
    "grid_sampler",
    lambda d: [call(d(1, 2, 4, 3), d.unit(1, 2, 3, 2), 0, 0, a) for a in (False, True)],
    index_map="x[n,c,h,w], g[n,p,q,k] -> y[n,c,p,q]",
    linear_in=("input",),
    zero_preserving=True,
    flops=_taps(4),
)
entry(
    "affine_grid_generator",
    lambda d: [call(d(2, 2, 3), [2, 1, 3, 4], False)],
    index_map="t[n,i,k] -> g[n,.,.,i]",
    uncut=True,
    linear_in=("theta",),
    zero_preserving=True,
)
_MOVE = Facts(linear_in=("self",), zero_preserving=True, keeps_constants=True, role=_SAME, flops=no_flops)


def _factors(bound: Bound) -> list[str]:
    """A pixel's parts are as many as the factor says."""
    return ["r", "s"]


entry(
    "pixel_shuffle",
    lambda d: [call(d(2, 8, 2, 3), 2), call(d(9, 1, 2), 3)],
    _MOVE,
    index_map="x[*,(c r s),h,w] -> y[*,c,(h r),(w s)]",
    uncut=_factors,
)
entry(
    "pixel_unshuffle",
    lambda d: [call(d(2, 3, 4, 6), 2), call(d(1, 3, 6), 3)],
    _MOVE,
    index_map="x[*,c,(h r),(w s)] -> y[*,(c r s),h,w]",
    uncut=_factors,
)
entry(
    "channel_shuffle",
    lambda d: [call(d(2, 6, 2, 1), 2), call(d(1, 6, 3, 1), 3)],
    _MOVE,
    index_map=lambda bound: f"x[n,(g={bound['groups']} c),*] -> y[n,(c g={bound['groups']}),*]",
    resize=resizing.groups("groups"),
)


def _unfolded(bound: Bound) -> int:
    kernel = bound["kernel_size"]
    assert isinstance(kernel, (list, tuple))
    return int(kernel[0] * kernel[1])


entry(
    "im2col",
    lambda d: [
        call(d(2, 3, 4, 5), [2, 3], [1, 1], [0, 1], [1, 2]),
        call(d(2, 3, 4, 5), [2, 2], [1, 1], [0, 0], [1, 1]),
    ],
    _MOVE,
    index_map=lambda bound: f"x[*,c,h,w] -> y[*,(c k={_unfolded(bound)}),.]",
    keeps_constants=lambda bound: not any(pytree.tree_leaves(bound["padding"])),
    uncut=lambda bound: ["k"],
)
entry(
    "col2im",
    lambda d: [call(d(2, 12, 6), [3, 4], [2, 2], [1, 1], [0, 0], [1, 1])],
    linear_in=("self",),
    zero_preserving=True,
    uncut=lambda bound: ["k"],
    index_map=lambda bound: f"x[*,(c k={_unfolded(bound)}),l] -> y[*,c,.,.]",
    flops=_input_flops,
)
