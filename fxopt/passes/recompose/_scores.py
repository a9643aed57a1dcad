"""Attention's scores read back to the query and the key: products, scales, masks, casts and reshapes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import same_size, shape_of
from fxopt.passes._names import aten_name
from fxopt.passes._uniform import uniform_number
from fxopt.rewriting import Rewriter

__all__ = ["Mask", "Scores", "is_low", "read_scores", "same_sizes"]

_MOST = 12
"""Calls between the softmax and the product."""


_FAR = -1e9
"""Above what is filled in for hidden scores, and below all scores: beside one of these its weight is 0 in float64 too."""


@dataclass(frozen=True)
class Mask:
    """What is added to scores, or which of them are seen (`keep`) or hidden."""

    node: Node
    kind: str
    """"add", "keep" or "hide"."""
    at: Node
    """The scores that it masks."""
    low: float = -math.inf
    """What hidden scores are. Where all of a row are of one finite number, softmax sees all of them alike."""


@dataclass(frozen=True)
class Scores:
    """`query @ key * scale`, masked; `key` is [..., d, s] as `matmul` takes it, or [..., s, d] if `by_rows`."""

    query: Node
    key: Node
    scale: float
    masks: tuple[Mask, ...]
    calls: tuple[Node, ...]
    """From the softmax's operand to the product."""


def _is_tensor(value: object) -> TypeGuard[Node]:
    """Whether an operand is a tensor: no number, and no size."""
    return isinstance(value, Node) and isinstance(value.meta["val"], torch.Tensor)


def same_sizes(a: Node, b: Node, *, skip: int = 0) -> bool:
    """Whether two values are tensors of the same shape, the last `skip` axes aside."""
    if not _is_tensor(a) or not _is_tensor(b):
        return False
    first, second = (shape_of(n)[: len(shape_of(n)) - skip] for n in (a, b))
    return len(first) == len(second) and all(map(same_size, first, second))


def read_scores(rewriter: Rewriter, node: Node) -> Scores | None:
    """What scores are made of, None if they are none: read from a softmax's operand."""
    return _read(rewriter, node, Scores(node, node, 1.0, (), ()))


def _read(rewriter: Rewriter, node: object, known: Scores) -> Scores | None:
    """Goes on at a call, with what is known of the calls after it."""
    if not isinstance(node, Node) or len(known.calls) == _MOST:
        return None
    step = _STEPS.get(aten_name(node))
    return step and step(rewriter, node, replace(known, calls=(*known.calls, node)))


def _scaled(rewriter: Rewriter, node: Node, known: Scores) -> Scores | None:
    """By a number, or one over it; of what is added after it nothing changes."""
    bound = bind(node)
    inverse = aten_name(node) == "div"
    if bound.get("rounding_mode") is not None:
        return None
    for operand, factor in ((bound["self"], bound["other"]), (bound["other"], bound["self"])):
        number = uniform_number(rewriter, factor, weights=True)
        if number and isinstance(operand, Node) and same_sizes(operand, node):
            scale = known.scale / number if inverse else known.scale * number
            return _read(rewriter, operand, replace(known, scale=scale))
        if inverse:
            return None
    return None


def _added(rewriter: Rewriter, node: Node, known: Scores) -> Scores | None:
    bound = bind(node)
    if bound["alpha"] != 1 or known.scale != 1:
        return None
    for operand, mask in ((bound["self"], bound["other"]), (bound["other"], bound["self"])):
        if isinstance(operand, Node) and _is_tensor(mask) and same_sizes(operand, node):
            found = _read(rewriter, operand, _masked(known, mask, "add", operand))
            if found is not None:
                return found
    return None


def _masked(known: Scores, mask: Node, kind: str, at: Node, low: float = -math.inf) -> Scores:
    return replace(known, masks=(Mask(mask, kind, at, low), *known.masks))


def _filled(rewriter: Rewriter, node: Node, known: Scores) -> Scores | None:
    bound = bind(node)
    return _hidden(rewriter, node, known, ("hide", bound["self"], bound["mask"], bound["value"]))


def _chosen(rewriter: Rewriter, node: Node, known: Scores) -> Scores | None:
    bound = bind(node)
    mask, chosen, other = bound["condition"], bound["self"], bound["other"]
    found = _hidden(rewriter, node, known, ("keep", chosen, mask, other))
    return found or _hidden(rewriter, node, known, ("hide", other, mask, chosen))


def _hidden(
    rewriter: Rewriter, node: Node, known: Scores, choice: tuple[str, object, object, object]
) -> Scores | None:
    """Scores of which a mask keeps or hides some: those become a number far below all others, or -inf."""
    kind, operand, mask, value = choice
    if not isinstance(operand, Node) or not isinstance(mask, Node) or not same_sizes(operand, node):
        return None
    low = _low_number(rewriter, value, known.scale)
    return None if low is None else _read(rewriter, operand, _masked(known, mask, kind, operand, low))


def _low_number(rewriter: Rewriter, value: object, scale: float) -> float | None:
    """The number that an operand is everywhere, scaled, if no score of a model is near it."""
    number = uniform_number(rewriter, value, weights=True)
    return None if number is None or number * scale > _FAR else number * scale


def is_low(rewriter: Rewriter, value: object) -> bool:
    """Whether an operand is -inf everywhere."""
    return uniform_number(rewriter, value, weights=True) == -math.inf


def _cast(rewriter: Rewriter, node: Node, known: Scores) -> Scores | None:
    return _read(rewriter, bind(node)["self"], known) if node.meta["val"].is_floating_point() else None


def _reshaped(rewriter: Rewriter, node: Node, known: Scores) -> Scores | None:
    """Rows and columns of the scores stay."""
    operand = node.args[0]
    assert isinstance(operand, Node)
    before, after = shape_of(operand)[-2:], shape_of(node)[-2:]
    keeps = len(before) == len(after) == 2 and all(map(same_size, before, after))
    return _read(rewriter, operand, known) if keeps else None


def _product(rewriter: Rewriter, node: Node, known: Scores) -> Scores | None:
    query, key = list(bind(node).values())[:2]
    return _of(rewriter, query, key, known)


def _product_and_sum(rewriter: Rewriter, node: Node, known: Scores) -> Scores | None:
    """`beta * mask + alpha * (query @ key)`."""
    bound = bind(node)
    alpha, beta, mask = bound["alpha"], bound["beta"], bound["self"]
    if not isinstance(alpha, (int, float)) or not isinstance(mask, Node) or beta not in (0, 1):
        return None
    if beta == 1:
        if known.scale != 1:
            return None
        known = _masked(known, mask, "add", node)
    return _of(rewriter, bound["batch1"], bound["batch2"], replace(known, scale=known.scale * alpha))


def _of(rewriter: Rewriter, query: object, key: object, known: Scores) -> Scores | None:
    if not isinstance(query, Node) or not isinstance(key, Node):
        return None
    query, first = _unscaled(rewriter, query)
    key, second = _unscaled(rewriter, key)
    return replace(known, query=query, key=key, scale=known.scale * first * second)


def _unscaled(rewriter: Rewriter, node: Node) -> tuple[Node, float]:
    """A value that is another times a number, and the number."""
    name = aten_name(node)
    if name not in ("mul", "div"):
        return node, 1.0
    bound = bind(node)
    number = uniform_number(rewriter, bound["other"], weights=True)
    operand = bound["self"]
    if not number or not isinstance(operand, Node) or bound.get("rounding_mode") is not None:
        return node, 1.0
    if not rewriter.same_type(operand.meta["val"], node.meta["val"]):
        return node, 1.0
    return operand, float(number) if name == "mul" else 1 / number


_Step = Callable[[Rewriter, Node, Scores], Scores | None]
_STEPS: dict[str, _Step] = {
    "mul": _scaled,
    "div": _scaled,
    "add": _added,
    "masked_fill": _filled,
    "where": _chosen,
    "to": _cast,
    "reshape": _reshaped,
    "unsqueeze": _reshaped,
    "squeeze": _reshaped,
    "flatten": _reshaped,
    "unflatten": _reshaped,
    "matmul": _product,
    "bmm": _product,
    "baddbmm": _product_and_sum,
}
