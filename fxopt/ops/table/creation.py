"""Tensors from sizes and numbers, uninitialised ones included (which tests draw empty)."""

from collections.abc import Sequence

from fxopt.ops.info import SampleArgs
from fxopt.ops.sizes import shape_of
from fxopt.ops.table import resizing
from fxopt.ops.table.entry import Bound, Draw, Facts, call, entry, no_flops
from fxopt.ops.table.maps import indices, statement

_NEW = Facts(dtype_args=("dtype",), flops=no_flops)


def _like(d: Draw) -> Sequence[SampleArgs]:
    return [call(d(2, 3)), call(d(2, 3), dtype=d.integers(1, 1).dtype)]


def _sized(bound: Bound) -> str:
    """A dimension for each size; of a tensor that tells dtype and device only, none is among them."""
    size = bound["size"]
    assert isinstance(size, (list, tuple))
    own = [[f"s{i}" for i in indices(len(shape_of(bound["self"])))]] if "self" in bound else []
    return statement(own, [indices(len(size))])


_FILLED = Facts(index_map=_sized, same_everywhere=True, resize=resizing.sizes("size"))
entry("zeros ones", lambda d: [call([2, 3]), call([], dtype=d(1).dtype)], _NEW, _FILLED)
entry("full", lambda d: [call([2, 3], 1.5), call([2], 1, dtype=d(1).dtype), call([2], True)], _NEW, _FILLED)
entry("empty", lambda d: [call([0, 3]), call([0], dtype=d(1).dtype)], _NEW)
_LIKE = Facts(**_NEW, elementwise=True, shape_only=("self",))
_OTHER = Facts(**_NEW, shape_only=("self",))
_OTHER_FILLED = Facts(**_OTHER, **_FILLED)
entry("zeros_like ones_like", _like, _LIKE)
entry("empty_like", lambda d: [call(d(0, 3))], _NEW)
entry("full_like", lambda d: [call(d(2, 3), 1.5), call(d(2), 2, dtype=d.integers(1, 1).dtype)], _LIKE)
entry(
    "new_zeros new_ones",
    lambda d: [call(d(2, 3), [2]), call(d(1), [], dtype=d.integers(1, 1).dtype)],
    _OTHER_FILLED,
)
entry("new_full", lambda d: [call(d(2, 3), [2], 1.5)], _OTHER_FILLED)
entry("new_empty", lambda d: [call(d(2, 3), [0])], _OTHER)
entry("arange", lambda d: [call(5), call(1, 4), call(0.5, 2, 0.5), call(3, dtype=d(1).dtype)], _NEW)
entry("linspace", lambda d: [call(0, 1, 5), call(0.0, 2.0, 3, dtype=d(1).dtype)], _NEW)
entry("eye", lambda d: [call(3), call(2, 3, dtype=d(1).dtype)], _NEW)
entry("scalar_tensor", lambda d: [call(1.5), call(2, dtype=d(1).dtype)], _NEW)
entry("tril_indices triu_indices", lambda d: [call(3, 4), call(3, 3, 1)], _NEW)
