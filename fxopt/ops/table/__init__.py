"""The table: one module a family of ops, each registering its entries when it is imported.

`fxopt.ops.info` imports this package on the first look-up; adding an op is adding one `entry(...)` to its
family.
"""

from fxopt.ops.table import (
    arithmetic,
    attention,
    casts,
    comparison,
    contraction,
    creation,
    elementwise,
    embedding,
    indexing,
    norms,
    pooling,
    quantization,
    random,
    recurrent,
    reductions,
    shape,
)

__all__ = [
    "arithmetic",
    "attention",
    "casts",
    "comparison",
    "contraction",
    "creation",
    "elementwise",
    "embedding",
    "indexing",
    "norms",
    "pooling",
    "quantization",
    "random",
    "recurrent",
    "reductions",
    "shape",
]
