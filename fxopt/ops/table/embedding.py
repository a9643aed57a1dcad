"""Table look-ups."""

from fxopt.ops.info import QuantRole
from fxopt.ops.table.entry import Facts, call, entry, no_flops

_TABLE = Facts(linear_in=("weight",), zero_preserving=True, keeps_constants=True, role=QuantRole.SAME_SCALE)

entry(
    "embedding",
    lambda d: [
        call(d(5, 3), d.integers(5, 2, 4)),
        call(d(5, 3), d.integers(5, 2), 1),
        call(d(5, 3), d.integers(5, 1)[0]),
    ],
    _TABLE,
    index_map="w[v,e], i[*] -> y[*,e]",
    flops=no_flops,
    picks=("weight",),
)
entry(
    "embedding_bag",
    lambda d: [
        call(d(5, 3), d.integers(5, 6), d.integers(2, 2).sort().values * 3),
        call(d(5, 3), d.integers(5, 6), d.integers(2, 2).sort().values * 3, False, 2),
    ],
    role=QuantRole.REQUANTISING,
)
entry(
    "one_hot",
    lambda d: [call(d.integers(3, 2, 3), 4), call(d.integers(3, 6))],
    index_map="i[*] -> y[*,.]",
    flops=no_flops,
)
