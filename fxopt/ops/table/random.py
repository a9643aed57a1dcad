"""Random numbers, and dropout, which is the identity in eval mode."""

from fxopt.ops.info import QuantRole
from fxopt.ops.table.entry import Facts, call, entry, no_flops

_RANDOM = Facts(pure=False, flops=no_flops)
_FACTORY = Facts(pure=False, flops=no_flops, dtype_args=("dtype",))


entry("rand randn", lambda d: [call([2, 3]), call([2, 3], dtype=d(1).dtype)], _FACTORY)
entry("randint", lambda d: [call(100, [2, 3]), call(3, 99, [2, 3])], _FACTORY)
entry("randperm", lambda d: [call(20)], _FACTORY)
entry("rand_like randn_like", lambda d: [call(d(2, 3))], _FACTORY)
entry("randint_like", lambda d: [call(d(2, 3), 1000)], _FACTORY)
entry("bernoulli", lambda d: [call(d.positive(40) / 2), call(d(40), 0.5)], _RANDOM)
entry("multinomial", lambda d: [call(d.positive(20), 10)], _RANDOM)
entry("normal", lambda d: [call(d(2, 3), 1.0), call(d(3), d.positive(3))], _RANDOM)
entry("poisson", lambda d: [call(20 * d.positive(20))], _RANDOM)
entry(
    "dropout alpha_dropout feature_dropout feature_alpha_dropout",
    lambda d: [call(d(4, 8), 0.5, False), call(d(20, 8), 0.5, True)],
    elementwise=True,
    linear_in=("input",),
    monotone=True,
    zero_preserving=True,
    pure=lambda bound: bound["train"] is False,
    role=QuantRole.SAME_SCALE,
    flops=no_flops,
)
entry(
    "native_dropout",
    lambda d: [call(d(4, 8), 0.5, False), call(d(20, 8), 0.5, True)],
    index_map="x[*] -> y[*], m[*]",
    pure=lambda bound: bound["train"] is False,
)
entry(
    "rrelu",
    lambda d: [call(d(4, 8)), call(d(4, 8), 0.1, 0.9), call(d(4, 8), 0.1, 0.9, True)],
    elementwise=True,
    zero_preserving=True,
    pure=lambda bound: bound["training"] is False,
    role=QuantRole.REQUANTISING,
)
