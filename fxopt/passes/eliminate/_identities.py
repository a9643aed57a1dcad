"""Identities: calls whose result is one of their operands, or an operand of an operand.

A finder looks at one call and says what it equals (`Same`), why it does not although it nearly does (`Near`),
or nothing. That dtype and shape stay is checked by the pass, for all of them: `x * 1.0` of integers is of
another dtype, `x + zeros(3, 4)` may be of another shape.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._bounds import CLAMPS, clamp_bounds
from fxopt.passes._names import aten_name
from fxopt.passes._uniform import uniform_number
from fxopt.program import value_key
from fxopt.rewriting import Rewriter

__all__ = ["Identity", "Near", "Same", "identity_of"]


@dataclass(frozen=True)
class Same:
    """The call equals this node; not `exact`: but for the sign of a zero."""

    node: Node
    exact: bool = True


@dataclass(frozen=True)
class Near:
    """The call would be an identity but for this."""

    why: str


@dataclass(frozen=True)
class Call:
    """A call as finders see it."""

    rewriter: Rewriter
    node: Node
    arguments: Mapping[str, object]
    weights: bool
    """Whether the values of weights count."""

    def number(self, value: object) -> int | float | None:
        """The number that a literal or a uniform tensor stands for."""
        return uniform_number(self.rewriter, value, weights=self.weights)

    def operand(self, name: str = "self") -> Node | None:
        """An argument that is a tensor, else None."""
        value = self.arguments.get(name)
        return value if isinstance(value, Node) and isinstance(value.meta.get("val"), torch.Tensor) else None

    def inner(self, *names: str) -> "Node | None":
        """The first operand if it is a call of one of these ops."""
        operand = self.operand()
        return operand if operand is not None and aten_name(operand) in names else None


Found = Same | Near | None
Finder = Callable[[Call], Found]


@dataclass(frozen=True)
class Identity:
    """A rule: its name and how it is found."""

    rule: str
    find: Finder


_BY_OP: dict[str, list[Identity]] = {}


def _identity(*ops: str) -> Callable[[Finder], Finder]:
    """Registers a finder for ops of `aten` under its function's name."""

    def add(find: Finder) -> Finder:
        rule = Identity(find.__name__.strip("_").replace("_", "-"), find)
        for op in ops:
            _BY_OP.setdefault(op, []).append(rule)
        return find

    return add


def identity_of(rewriter: Rewriter, node: Node, *, weights: bool) -> tuple[str, Same | Near] | None:
    """The first identity that a call is, or nearly is, with the rule's name.

    Args:
        rewriter: knows the weights.
        node: any call.
        weights: whether the values of weights count.
    """
    rules = _BY_OP.get(aten_name(node))
    if rules is None:
        return None
    call = Call(rewriter, node, bind(node), weights)
    for rule in rules:
        found = rule.find(call)
        if found is not None:
            return rule.rule, found
    return None


def _value(node: Node) -> torch.Tensor:
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor)
    return value


@_identity("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def _eval_dropout(call: Call) -> Found:
    x = call.operand("input")
    return Same(x) if x is not None and call.arguments["train"] is False else None


_MOVES = (
    "reshape",
    "view",
    "flatten",
    "unflatten",
    "expand",
    "broadcast_to",
    "slice",
    "narrow",
    "repeat",
    "tile",
)


@_identity(*_MOVES, "sum_to_size")
def _no_op_move(call: Call) -> Found:
    """Elements in order, none left out: such a call is the identity where it keeps the shape."""
    x = call.operand()
    return Same(x) if x is not None and call.rewriter.same_type(_value(x), _value(call.node)) else None


@_identity("squeeze")
def _no_op_squeeze(call: Call) -> Found:
    x = call.operand()
    if x is None or _value(x).dim() != _value(call.node).dim():
        return None
    shape, dims = _value(x).shape, call.arguments.get("dim")
    axes = range(len(shape)) if dims is None else dims if isinstance(dims, (list, tuple)) else [dims]
    if any(isinstance(shape[d], torch.SymInt) for d in axes if isinstance(d, int) and len(shape)):
        return Near("a dynamic size may be 1, and would then be squeezed")
    return Same(x)


@_identity("permute")
def _no_op_permute(call: Call) -> Found:
    x, dims = call.operand(), call.arguments["dims"]
    if not isinstance(dims, (list, tuple)):
        return None
    return Same(x) if x is not None and list(dims) == list(range(len(dims))) else None


@_identity("permute")
def _inverse_permutes(call: Call) -> Found:
    inner, outer = call.inner("permute"), call.arguments["dims"]
    if inner is None or not isinstance(outer, (list, tuple)):
        return None
    first = bind(inner)["dims"]
    assert isinstance(first, (list, tuple))
    x = inner.args[0]
    return Same(x) if isinstance(x, Node) and [first[d] for d in outer] == list(range(len(outer))) else None


@_identity("cat", "concat", "concatenate")
def _join_of_one(call: Call) -> Found:
    """One tensor, or all others have no elements."""
    tensors = call.arguments["tensors"]
    if not isinstance(tensors, (list, tuple)):
        return None
    kept = [t for t in tensors if isinstance(t, Node) and not _is_empty(_value(t))]
    kept = kept or [t for t in tensors[:1] if isinstance(t, Node)]
    return Same(kept[0]) if len(kept) == 1 else None


def _is_empty(value: torch.Tensor) -> bool:
    return any(isinstance(d, int) and d == 0 for d in value.shape)


@_identity("getitem")
def _split_in_one(call: Call) -> Found:
    """The only part of a split."""
    parts = call.node.args[0]
    names = (
        "split",
        "chunk",
        "split_with_sizes",
        "tensor_split",
        "unsafe_split",
        "unsafe_chunk",
        "unsafe_split_with_sizes",
    )
    if not isinstance(parts, Node) or aten_name(parts) not in names or len(parts.meta["val"]) != 1:
        return None
    x = parts.args[0]
    return Same(x) if isinstance(x, Node) else None


@_identity("constant_pad_nd", "pad")
def _pad_by_nothing(call: Call) -> Found:
    pad, x = call.arguments["pad"], call.operand()
    assert x is not None and isinstance(pad, (list, tuple))
    return Same(x) if all(isinstance(p, int) and p == 0 for p in pad) else None


def _neutral(call: Call, neutral: int, *, either: bool = True) -> tuple[Node, int | float] | None:
    """The operand beside a neutral number, and that number; either operand if they commute."""
    for kept, other in [("self", "other"), ("other", "self")][: 1 + either]:
        x, number = call.operand(kept), call.number(call.arguments[other])
        if x is not None and number is not None and number == neutral:
            return x, number
    return None


@_identity("mul", "multiply")
def _multiply_by_one(call: Call) -> Found:
    found = _neutral(call, 1)
    return None if found is None else Same(found[0])


@_identity("div", "divide", "true_divide", "floor_divide")
def _divide_by_one(call: Call) -> Found:
    rounds = aten_name(call.node) == "floor_divide" or call.arguments.get("rounding_mode") is not None
    found = _neutral(call, 1, either=False)
    return None if found is None or (rounds and _value(call.node).is_floating_point()) else Same(found[0])


@_identity("pow")
def _power_of_one(call: Call) -> Found:
    x = call.operand()
    return Same(x) if x is not None and call.number(call.arguments["exponent"]) == 1 else None


@_identity("add", "sub", "subtract")
def _add_zero(call: Call) -> Found:
    """`-0.0 + 0.0` is `0.0`: exact on integers, or if -0.0 is added, 0.0 subtracted."""
    alpha, subtracts = call.number(call.arguments["alpha"]), aten_name(call.node) != "add"
    if alpha is None or not math.isfinite(alpha):
        return None
    found = _neutral(call, 0, either=not subtracts and alpha == 1)
    if found is None:
        return None
    x, zero = found
    keeps_sign = alpha == 1 and (math.copysign(1.0, zero) < 0) is not subtracts
    return Same(x, exact=keeps_sign or not _value(call.node).is_floating_point())


@_identity("bitwise_or", "bitwise_xor", "logical_or", "logical_xor")
def _or_with_false(call: Call) -> Found:
    found = _neutral(call, 0)
    return None if found is None else Same(found[0])


@_identity("bitwise_and", "logical_and")
def _and_with_true(call: Call) -> Found:
    found = _neutral(call, 1 if _value(call.node).dtype is torch.bool else -1)
    return None if found is None else Same(found[0])


@_identity("neg", "bitwise_not", "logical_not", "flip", "conj_physical")
def _twice_is_nothing(call: Call) -> Found:
    inner = call.inner(aten_name(call.node))
    if inner is None or value_key(inner.args[1:]) != value_key(call.node.args[1:]):
        return None
    x = inner.args[0]
    return Same(x) if isinstance(x, Node) else None


_IDEMPOTENT = (*CLAMPS, "abs", "ceil", "floor", "trunc", "fix", "sign", "sgn", "tril", "triu")


@_identity(*_IDEMPOTENT)
def _twice_is_once(call: Call) -> Found:
    inner = call.inner(aten_name(call.node))
    if inner is None or inner.target is not call.node.target:
        return None
    same = all(
        a is b or (not isinstance(a, Node) and value_key(a) == value_key(b))
        for a, b in zip(*_rest(inner, call.node), strict=True)
    )
    return Same(inner) if same else None


def _rest(a: Node, b: Node) -> tuple[list[object], list[object]]:
    return [*a.args[1:], *a.kwargs.values()], [*b.args[1:], *b.kwargs.values()]


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("relu", "abs", "exp", "exp2", "sqrt", "rsqrt", "square", "softplus"), (0.0, math.inf)),
    **dict.fromkeys(("sigmoid", "hardsigmoid", "softmax"), (0.0, 1.0)),
    **dict.fromkeys(("tanh", "sin", "cos", "erf", "sign"), (-1.0, 1.0)),
    "relu6": (0.0, 6.0),
    "log_softmax": (-math.inf, 0.0),
}
"""Between what bounds the values of ops lie."""


@_identity(*CLAMPS, "abs")
def _within_bounds(call: Call) -> Found:
    """A clamp of what lies within its bounds. A zero at a bound may change its sign."""
    inner = call.operand()
    if inner is None or not _value(inner).is_floating_point():
        return None
    given = _range(inner)
    kept = (0.0, math.inf) if aten_name(call.node) == "abs" else clamp_bounds(call.node)
    if given is None or kept is None or not (kept[0] <= given[0] and given[1] <= kept[1]):
        return None
    return Same(inner, exact=False)


def _range(node: Node) -> tuple[float, float] | None:
    """Between what the values of a call lie, NaN aside."""
    name = aten_name(node)
    if name in ("hardtanh", "clamp", "clamp_min", "clamp_max"):
        bounds = clamp_bounds(node)
        return None if bounds is None else (min(bounds), bounds[1])
    return _RANGES.get(name)


@_identity("where", "maximum", "minimum")
def _equal_operands(call: Call) -> Found:
    first, second = call.operand(), call.operand("other")
    return Same(first) if first is not None and first is second else None
