"""Scaled dot-product attention: ONNX's Attention from opset 23, before by its parts.

Rows whose keys are all masked are zero, as in torch; a softmax alone would make them NaN.
"""

import math

import torch

from fxopt.analysis.finite import is_finite
from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.call import Call, rule
from fxopt.lowering.onnx.graph import Value
from fxopt.ops.sizes import same_size

__all__: list[str] = []

_SMALL = 65536
"""Elements up to which a fixed mask is stored instead of computed when the file runs."""


@rule("aten.scaled_dot_product_attention")
def attention(b: Builder, c: Call) -> Value:
    if float(c.number("dropout_p")) > 0:
        raise c.error("it drops out at random")
    if b.opset >= 23 and all(c.fake(n).dim() == 4 for n in ("query", "key", "value")):
        return _whole(b, c)
    query, key, value = (c.tensor(n) for n in ("query", "key", "value"))
    if c.flag("enable_gqa"):
        key, value = _repeated_heads(b, c, "key", key), _repeated_heads(b, c, "value", value)
    rank = c.fake("key").dim()
    order = [*range(rank - 2), rank - 1, rank - 2]
    scores = b.op("MatMul", _scaled(b, c, query), b.transpose(key, order))
    dtype = b.dtype(scores)
    mask = c.optional("attn_mask") or _causal(b, c)
    if mask:
        added = _additive(b, mask, dtype) if b.dtype(mask) is torch.bool else b.cast(mask, dtype)
        scores = b.op("Add", scores, added)
    weights = b.op("Softmax", scores, axis=-1)
    if c.has("attn_mask") and not _leaves_a_key(b, c):
        weights = b.op("Where", _hidden(b, mask), b.like(0, weights), weights)
    return b.op("MatMul", weights, value)


@rule("aten._scaled_dot_product_flash_attention_for_cpu")
def flash_attention(b: Builder, c: Call) -> tuple[Value, ...]:
    return (attention(b, c), "")  # type: ignore[return-value]


def _scaled(b: Builder, c: Call, query: Value) -> Value:
    if c.has("scale"):
        if c.number("scale") == 1:
            return query
        return b.op("Mul", query, b.like(float(c.number("scale")), query))
    width = c.shape_of("query")[-1]
    if not isinstance(width, int):
        raise c.error("the head's size must be fixed")
    return b.op("Mul", query, b.like(1 / math.sqrt(width), query))


def _additive(b: Builder, mask: Value, dtype: torch.dtype) -> Value:
    """0 where a key is seen, -inf where it is not."""
    return b.op("Where", mask, b.constant(0.0, dtype), b.constant(-math.inf, dtype))


def _leaves_a_key(b: Builder, c: Call) -> bool:
    """Whether it is known that each query sees a key."""
    mask = b.weight_of(c["attn_mask"])
    if mask is None:
        return c.fake("attn_mask").is_floating_point() and is_finite(b.program, c["attn_mask"])
    return bool((mask if mask.dtype is torch.bool else mask != -math.inf).any(-1).all())


def _hidden(b: Builder, mask: Value) -> Value:
    """Where a key is not seen."""
    return b.op("Not", mask) if b.dtype(mask) is torch.bool else b.op("IsInf", mask, detect_positive=0)


def _causal(b: Builder, c: Call) -> Value:
    """Each query sees the keys up to its own position: bool[queries, keys], what is added if the sizes are small."""
    if not c.flag("is_causal"):
        return ""
    queries, keys = c.shape_of("query")[-2], c.shape_of("key")[-2]
    if isinstance(queries, int) and isinstance(keys, int) and queries * keys <= _SMALL:
        hidden = torch.ones(queries, keys, dtype=torch.bool).triu(1)
        return b.constant(torch.zeros(queries, keys).masked_fill(hidden, -math.inf), c.out.dtype)
    zero, one = (b.constant(v, torch.int64) for v in (0, 1))
    rows, columns = (b.op("Range", zero, b.scalar(n), one) for n in (queries, keys))
    return b.op("GreaterOrEqual", b.unsqueeze(rows, 1), b.unsqueeze(columns, 0))


def _repeated_heads(b: Builder, c: Call, name: str, value: Value) -> Value:
    """Each key head for the several query heads that share it."""
    shape = list(c.shape_of(name))
    heads, wanted = shape[-3], c.shape_of("query")[-3]
    if same_size(heads, wanted):
        return value
    if not isinstance(heads, int) or not isinstance(wanted, int):
        raise c.error("the number of heads must be fixed")
    times = wanted // heads
    narrow, wide = [*shape[:-2], 1, *shape[-2:]], [*shape[:-2], times, *shape[-2:]]
    spread = b.expand(b.unsqueeze(value, len(shape) - 2), narrow, wide)
    return b.reshape(spread, (), [*shape[:-3], wanted, *shape[-2:]])


def _whole(b: Builder, c: Call) -> Value:
    """One Attention node; it shares key heads by itself."""
    mask, scale = c.optional("attn_mask"), float(c.number("scale")) if c.has("scale") else None
    if mask and b.dtype(mask) is not torch.bool:
        mask = b.cast(mask, c.out.dtype)
    result = b.op(
        "Attention", *(c.tensor(n) for n in ("query", "key", "value")), mask,
        is_causal=int(c.flag("is_causal")) or None, scale=scale,
    )  # fmt: skip
    if not mask:
        return result
    seen = b.op("Not", _hidden(b, mask))
    some = b.op("ReduceMax", b.cast(seen, torch.int32), b.ints([-1]), keepdims=1)
    return b.op("Where", b.cast(some, torch.bool), result, b.like(0, result))
