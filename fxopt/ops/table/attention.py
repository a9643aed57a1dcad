"""Attention."""

from fxopt.ops.info import QuantRole
from fxopt.ops.sizes import Size, product, shape_of
from fxopt.ops.table import resizing
from fxopt.ops.table.entry import Bound, call, entry


def _index_map(bound: Bound) -> str:
    """With grouped queries, query head (h g) reads key and value head h."""
    heads = ["*"]
    if not bound["enable_gqa"]:
        q, kv = heads, heads
    else:
        q, kv = ["*", "(h g)"], ["*", "h"]
    brackets = {"q": [*q, "s", "d"], "k": [*kv, "t", "d"], "v": [*kv, "t", "e"], "m": [*q, "s", "t"]}
    mask = bound.get("attn_mask")
    if bound["enable_gqa"] and mask is not None:
        rank = len(shape_of(mask))
        brackets["m"] = ["*"] * (rank > 3) + [".", "s", "t"][-min(rank, 3) :]
    inputs = ", ".join(f"{name}[{','.join(dims)}]" for name, dims in brackets.items())
    return f"{inputs} -> y[{','.join([*q, 's', 'e'])}]"


def _flops(bound: Bound, output: object) -> Size:
    """Scores and the weighted sum, masked positions included."""
    keys = shape_of(bound["key"])[-2]
    return 2 * keys * (product(shape_of(bound["query"])) + product(shape_of(output)))


entry(
    "scaled_dot_product_attention",
    lambda d: [
        call(d(2, 2, 3, 4), d(2, 2, 5, 4), d(2, 2, 5, 6)),
        call(d(2, 3, 4), d(2, 3, 4), d(2, 3, 4), None, 0.0, True, scale=0.5),
        call(d(2, 2, 3, 4), d(2, 2, 5, 4), d(2, 2, 5, 4), d(2, 1, 3, 5)),
        call(d(1, 2, 3, 4), d(1, 2, 3, 4), d(1, 2, 3, 4), d.mask(3, 3)),
        call(d(1, 4, 3, 4), d(1, 2, 5, 4), d(1, 2, 5, 4), d(1, 1, 3, 5), enable_gqa=True),
        call(d(2, 3, 4), d(2, 3, 4), d(2, 3, 4), None, 0.5),
    ],
    index_map=_index_map,
    linear_in=("value",),
    uncut=lambda bound: ["s", "t"] if bound["is_causal"] else [],
    skips_zeros=("d",),
    resize=resizing.scale("query"),
    pure=lambda bound: bound["dropout_p"] == 0,
    role=QuantRole.ISLAND,
    flops=_flops,
)
