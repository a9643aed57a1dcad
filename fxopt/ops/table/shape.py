"""Ops that only move elements: reshapes, permutations, slices, joins, repetitions."""

from collections.abc import Sequence

from fxopt.ops.info import Aliasing, QuantRole, SampleArgs
from fxopt.ops.table import moves, resizing
from fxopt.ops.table.entry import Draw, Facts, call, entry, no_flops
from fxopt.ops.table.maps import along

_LINEAR = Facts(linear_in=("self",), zero_preserving=True, role=QuantRole.SAME_SCALE, flops=no_flops)
_MOVE = Facts(**_LINEAR, keeps_constants=True)
_ALONG = Facts(**_MOVE, moves=True)
_JOIN = Facts(linear_in=("tensors",), zero_preserving=True, role=QuantRole.REQUANTISING, flops=no_flops)
_PAD = Facts(affine_in=("self",), role=QuantRole.REQUANTISING, flops=no_flops, index_map=moves.padded)


def _reshapes(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 6, 5), s) for s in ([2, 3, 2, 5], [12, -1], [60], [2, 1, 30])] + [call(d(4, 6), [3, 8])]


def _like(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 6), d(2, 3, 2)), call(d(4, 6), d(2, 12))]


def _dim(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 1, 3), 1), call(d(1, 2), -2), call(d(), 0)]


entry("reshape", _reshapes, _MOVE, index_map=moves.target("shape"), resize=resizing.sizes("shape"))
entry("view", _reshapes, _MOVE, index_map=moves.target("size"), resize=resizing.sizes("size"))
entry(
    "_unsafe_view",
    _reshapes,
    _MOVE,
    index_map=moves.target("size"),
    resize=resizing.sizes("size"),
    aliasing=Aliasing.MAYBE,
)
entry("view.dtype", lambda d: [call(d(2, 4), d.integers(2, 2).dtype)], dtype_args=("dtype",), flops=no_flops)
entry("view_as reshape_as", _like, _MOVE, index_map=moves.like, uncut=True)
entry(
    "flatten",
    lambda d: [call(d(2, 3, 4)), call(d(2, 3, 4, 5), 1, -2), call(d(2, 3), 1, 1), call(d())],
    _MOVE,
    index_map=moves.flatten,
    dims=("start_dim", "end_dim"),
)
entry(
    "unflatten",
    lambda d: [call(d(2, 6), 1, [2, 3]), call(d(6, 2), -2, [-1, 2]), call(d(4), 0, [4])],
    _MOVE,
    index_map=moves.unflatten,
    resize=resizing.parts("sizes", "dim"),
    dims=("dim",),
)
entry(
    "permute",
    lambda d: [call(d(2, 3, 4), [2, 0, 1]), call(d(2, 3), [-1, -2]), call(d(), [])],
    _MOVE,
    index_map=moves.permuted(moves.given),
    dims=("dims",),
)
entry(
    "transpose swapdims",
    lambda d: [call(d(2, 3, 4), 0, 2), call(d(2, 3), -1, -2), call(d(2, 3, 4, 5), 1, 3)],
    _MOVE,
    index_map=moves.permuted(moves.swapped("dim0", "dim1")),
    dims=("dim0", "dim1"),
)
entry(
    "swapaxes",
    lambda d: [call(d(2, 3, 4), 0, -1)],
    _MOVE,
    index_map=moves.permuted(moves.swapped("axis0", "axis1")),
    dims=("axis0", "axis1"),
)
entry("t", lambda d: [call(d(2, 3)), call(d(3))], _MOVE, index_map=moves.permuted(moves.reverse))
entry("numpy_T", lambda d: [call(d(2, 3))], _MOVE, index_map=moves.permuted(moves.reverse))
entry(
    "mT adjoint", lambda d: [call(d(2, 3)), call(d(2, 3, 4))], _MOVE, index_map=moves.permuted(moves.matrix)
)
entry(
    "movedim moveaxis",
    lambda d: [call(d(2, 3, 4), 0, 2), call(d(2, 3, 4, 5), [-1, 1], [0, 3])],
    _MOVE,
    index_map=moves.permuted(moves.moved),
    dims=("source", "destination"),
)
entry(
    "expand broadcast_to",
    lambda d: [call(d(2, 1, 3), [2, 4, -1]), call(d(3), [2, 2, 3]), call(d(), [2])],
    _MOVE,
    index_map=moves.expand,
    resize=resizing.sizes("size"),
)
entry(
    "expand_as",
    lambda d: [call(d(2, 1), d(3, 2, 4))],
    _MOVE,
    index_map=moves.expand,
    uncut=True,
)
entry(
    "squeeze",
    lambda d: [call(d(2, 1, 3)), *_dim(d), call(d(1, 2, 1), [0, -1])],
    _MOVE,
    index_map=moves.squeeze,
    uncut=True,  # what is left with one position would be squeezed too
    dims=("dim",),
)
entry(
    "unsqueeze",
    lambda d: [call(d(2, 3), 1), call(d(2, 3), -1), call(d(), 0)],
    _MOVE,
    index_map=moves.inserted,
    dims=("dim",),
    dims_inserted=1,
)
entry(
    "select",
    lambda d: [call(d(2, 3), 1, 2), call(d(2, 3, 4), -2, -1)],
    _ALONG,
    index_map=moves.select,
    resize=resizing.selected,
    dims=("dim",),
)
entry(
    "slice",
    lambda d: [call(d(2, 5), 1, 1, 4), call(d(5, 2), -2, None, None, 2), call(d(4), 0, -3, 2**63 - 1)],
    _ALONG,
    index_map=along("dim"),
    resize=resizing.sliced,
    dims=("dim",),
)
entry("narrow", lambda d: [call(d(2, 5), -1, 1, 3)], _ALONG, index_map=along("dim"), dims=("dim",))
entry("narrow.Tensor", lambda d: [call(d(2, 5), -1, d.integers(2, 1)[0], 3)], _MOVE, dims=("dim",))
_PARTS = Facts(**_ALONG, index_map=along("dim"), resize=resizing.split, dims=("dim",))
entry("split chunk unsafe_chunk", lambda d: [call(d(2, 5), 2, -1), call(d(4), 2)], _PARTS)
entry("unsafe_split", lambda d: [call(d(2, 5), 2, -1)], _PARTS, aliasing=Aliasing.MAYBE)
entry("split_with_sizes", lambda d: [call(d(2, 5), [3, 2], -1)], _PARTS)
entry("unsafe_split_with_sizes", lambda d: [call(d(2, 5), [3, 2], -1)], _PARTS, aliasing=Aliasing.MAYBE)
entry(
    "tensor_split",
    lambda d: [call(d(2, 5), 2, -1), call(d(5), [1, 3])],
    _ALONG,
    index_map=along("dim"),
    resize=resizing.split,
    dims=("dim",),
)
entry(
    "tensor_split.tensor_indices_or_sections",
    lambda d: [call(d(2, 5), d.integers(5, 2).sort().values, -1)],
    _MOVE,
    dims=("dim",),
)
entry("unbind", lambda d: [call(d(2, 3), -1), call(d(2, 3, 2))], _MOVE, index_map=moves.select, dims=("dim",))
entry(
    "cat concat concatenate",
    lambda d: [call([d(2, 3), d(2, 2)], -1), call([d(2, 3), d(1, 3), d(2, 3)]), call([d(2, 0), d(2, 3)], 1)],
    _JOIN,
    index_map=moves.joined,
    moves=True,
    resize=resizing.unchanged,
    dims=("dim",),
)
entry(
    "stack",
    lambda d: [call([d(2, 3), d(2, 3)], -1), call([d(3), d(3)])],
    _JOIN,
    index_map=moves.inserted,
    dims=("dim",),
    dims_inserted=1,
)
entry("hstack vstack dstack", lambda d: [call([d(2, 3), d(2, 3)])], _JOIN)
entry(
    "meshgrid",
    lambda d: [call([d(2), d(3)]), call([d(2), d(3)], indexing="xy")],
    _JOIN,
    aliasing=Aliasing.MAYBE,
    role=QuantRole.SAME_SCALE,
)
entry(
    "broadcast_tensors",
    lambda d: [call([d(2, 1), d(3)])],
    _JOIN,
    aliasing=Aliasing.MAYBE,
    role=QuantRole.SAME_SCALE,
)
entry(
    "flip",
    lambda d: [call(d(2, 3), [-1]), call(d(2, 3, 4), [0, 2])],
    _ALONG,
    index_map=along("dims"),
    resize=resizing.unchanged,
    dims=("dims",),
)
entry(
    "roll",
    lambda d: [call(d(2, 4), [1], [-1]), call(d(2, 3), [2])],
    _MOVE,
    index_map=along("dims"),
    dims=("dims",),
)
entry(
    "rot90",
    lambda d: [call(d(2, 3, 4), 1, [0, -1]), call(d(3, 3), 2)],
    _MOVE,
    index_map=moves.rotated,
    dims=("dims",),
)
entry(
    "pad",
    lambda d: [
        call(d(2, 3, 4), [1, 2]),
        call(d(2, 3), [-1, 1, 0, 0], "constant", 2.5),
        call(d(2, 3, 4), [1, 2], "reflect"),
        call(d(2, 3, 4), [1, 1], "replicate"),
        call(d(2, 3, 4), [2, 1], "circular"),
    ],
    _PAD,
)
entry("constant_pad_nd", lambda d: [call(d(2, 3), [1, 2]), call(d(2, 3), [0, 0, 1, -1], 2)], _PAD)
entry(
    "repeat",
    lambda d: [call(d(2, 3), [2, 1]), call(d(3), [2, 3]), call(d(2, 3), [1, 2, 2])],
    _MOVE,
    index_map=moves.repeat("repeats"),
    uncut=moves.copies,
)
entry(
    "tile",
    lambda d: [call(d(2, 3), [2]), call(d(3), [2, 3])],
    _MOVE,
    index_map=moves.repeat("dims"),
    uncut=True,
)
entry(
    "repeat_interleave",
    lambda d: [call(d(2, 3), 2, -1), call(d(2, 3), 3)],
    _MOVE,
    index_map=moves.interleaved,
    uncut=lambda bound: ["r"],
    dims=("dim",),
)
entry("repeat_interleave.self_Tensor", lambda d: [call(d(2, 3), d.integers(4, 3), -1)], _MOVE, dims=("dim",))
entry("repeat_interleave.Tensor", lambda d: [call(d.integers(4, 3))], flops=no_flops)
entry(
    "tril triu",
    lambda d: [call(d(3, 4)), call(d(2, 3, 3), 1)],
    _LINEAR,
    index_map="x[*] -> y[*]",
    uncut=True,
)
entry(
    "diagonal",
    lambda d: [call(d(3, 4)), call(d(2, 3, 4), 1, -1, 0)],
    _MOVE,
    index_map=moves.diagonal,
    dims=("dim1", "dim2"),
)
entry(
    "diag_embed",
    lambda d: [call(d(2, 3)), call(d(2, 3), 1, 0, -1)],
    _LINEAR,
    index_map=moves.diag_embed,
    dims=("dim1", "dim2"),
    dims_inserted=1,
)
entry(
    "unfold",
    lambda d: [call(d(2, 5), -1, 3, 2), call(d(5), 0, 2, 1)],
    _MOVE,
    index_map=moves.unfold,
    dims=("dimension",),
)
entry(
    "sum_to_size",
    lambda d: [call(d(2, 3), [2, 3]), call(d(2, 3), [1, 3])],
    linear_in=("self",),
    zero_preserving=True,
    aliasing=Aliasing.MAYBE,
)
entry("sym_size.int", lambda d: [call(d(2, 3), -1)], dims=("dim",), flops=no_flops, shape_only=("self",))
