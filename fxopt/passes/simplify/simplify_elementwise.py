"""Algebra of one element: chains of constants, functions and their inverses, signs, clamps of clamps."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._bounds import CLAMPS, clamp_bounds
from fxopt.passes._names import aten_name
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Const, Rewriter

__all__ = ["SimplifyElementwise"]

_INVERSE = {("log", "exp"), ("log2", "exp2"), ("log1p", "expm1"), ("reciprocal", "reciprocal")}
"""A function, and one that it undoes for each number (exp of log does not: a negative number is NaN there)."""
_EVEN = ("abs", "square", "cos", "cosh")
_SUMS, _PRODUCTS = ("add", "sub"), ("mul", "div")


def _chain(x: torch.Tensor, a: Const, b: Const) -> torch.Tensor:
    return x * a / b.exp() + 1 - 0.5


@register_pass
class SimplifyElementwise(Pass):
    """(x * a) * b  ->  x * (a * b), log(exp(x))  ->  x, a - (-b)  ->  a + b, clamp(relu(x), 0, 6)  ->  clamp(x, 0, 6).

    Before: `%a = mul(%x, 2.0)`, `%b = div(%a, 4.0)`, `%c = neg(%b)`, `%d = abs(%c)`. After:
    `%b = mul(%x, 0.5)`, `%d = abs(%b)`.

    Signs and clamps are exact. Two constants become one, rounded once and not twice; a function and its inverse
    go, and with them what they round: equal on all inputs for which the values between are finite, which is what
    the contract says.

    It does not fire on integers (they wrap, or are divided into floats), if two constants make one that is
    larger than each (a row and a column), infinite or zero, if clamps have bounds that cross, or if the value
    between two constants has another user.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        _chain,
        lambda x, y: x - (-y) + (-x).abs(),
        lambda x: x.clamp(-0.5, 2.0).relu() + x.exp().log(),
        lambda x: (x * 2 * 3).clamp(max=1.0).clamp(min=-1.0),
    )

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order."""
        for node in rewriter.nodes():
            value = node.meta["val"]
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                continue
            name = aten_name(node)
            if name in CLAMPS:
                _merge_clamps(rewriter, node)
            elif name in _SUMS or name in _PRODUCTS:
                if not _move_signs(rewriter, node, name):
                    _merge_constants(rewriter, node, name)
            else:
                _undo(rewriter, node, name)


def _undo(rewriter: Rewriter, node: Node, name: str) -> None:
    """A function of its inverse, and an even function of a number whose sign is changed."""
    inner = node.args[0] if node.args else None
    if not isinstance(inner, Node) or not inner.args or len(node.all_input_nodes) != 1:
        return
    before, x = aten_name(inner), inner.args[0]
    if not isinstance(x, Node) or not rewriter.same_type(x.meta["val"], node.meta["val"]):
        return
    if (name, before) in _INVERSE:
        with rewriter.rewrite("undo-function", node):
            rewriter.replace(node, x)
    elif name in _EVEN and before in ("neg", "abs") and (name, before) != ("abs", "abs"):
        with rewriter.rewrite("even-function", node):
            rewriter.replace(node, rewriter.call(node.target, x))


def _move_signs(rewriter: Rewriter, node: Node, name: str) -> bool:
    """`a - (-b)` is `a + b`, `a + (-b)` is `a - b`, `(-a) * (-b)` is `a * b`; whether it was one of them."""
    given = bind(node)
    left, right = (_negated(given[n]) for n in ("self", "other"))
    if given.get("alpha", 1) != 1 or given.get("rounding_mode") is not None:
        return False
    made: tuple[str, object, object] | None = None
    if name in _PRODUCTS and left is not None and right is not None:
        made = name, left, right
    elif name in _SUMS and right is not None:
        made = "sub" if name == "add" else "add", given["self"], right
    elif name == "add" and left is not None:
        made = "sub", given["other"], left
    if made is None or not isinstance(made[1], Node):
        return False
    with rewriter.rewrite("move-sign", node):
        rewriter.replace(node, rewriter.call(f"aten.{made[0]}.Tensor", *made[1:]))
    return True


def _negated(value: object) -> Node | None:
    """What a negation negates."""
    if not isinstance(value, Node) or aten_name(value) != "neg":
        return None
    x = value.args[0]
    assert isinstance(x, Node)
    return x


def _merge_constants(rewriter: Rewriter, node: Node, name: str) -> None:
    """One constant of two in a row."""
    outer = _with_constant(rewriter, node, name)
    inner = outer[0] if outer else node
    kind = _SUMS if name in _SUMS else _PRODUCTS
    before = _with_constant(rewriter, inner, aten_name(inner)) if outer and aten_name(inner) in kind else None
    if outer is None or before is None:
        return
    x, first, second = before[0], before[1], outer[1]
    constant = first + second if kind is _SUMS else first * second
    why = _objection(inner, first, second, constant, node.meta["val"].dtype, kind is _SUMS)
    if why:
        rewriter.refuse(node, why, rule="merge-constants")
        return
    with rewriter.rewrite("merge-constants", node):
        dtype = node.meta["val"].dtype
        number = rewriter.constant(constant.to(dtype)) if constant.dim() else constant.item()
        rewriter.replace(
            node, rewriter.call("aten.add.Tensor" if kind is _SUMS else "aten.mul.Tensor", x, number)
        )


def _with_constant(rewriter: Rewriter, node: Node, name: str) -> tuple[Node, torch.Tensor] | None:
    """What a call adds to or multiplies, and by what, f64; None if it is no constant."""
    if name not in _SUMS and name not in _PRODUCTS:
        return None
    given = bind(node)
    if given.get("alpha", 1) != 1 or given.get("rounding_mode") is not None:
        return None
    pairs = [(given["self"], given["other"]), (given["other"], given["self"])]
    for x, other in pairs if name in ("add", "mul") else pairs[:1]:
        constant = _constant(rewriter, other)
        if (
            constant is None
            or not isinstance(x, Node)
            or not rewriter.same_type(x.meta["val"], node.meta["val"])
        ):
            continue
        return x, -constant if name == "sub" else 1 / constant if name == "div" else constant
    return None


def _constant(rewriter: Rewriter, value: object) -> torch.Tensor | None:
    if isinstance(value, (int, float)):
        return torch.tensor(value, dtype=torch.float64)
    weight = rewriter.value(value)
    return None if weight is None or weight.is_meta or weight.is_complex() else weight.detach().double()


def _objection(
    inner: Node,
    first: torch.Tensor,
    second: torch.Tensor,
    constant: torch.Tensor,
    dtype: torch.dtype,
    sums: bool,
) -> str:
    """Why two constants do not become one; empty if they may."""
    if len(inner.users) > 1:
        return f"{inner.name} has another user"
    if constant.numel() > max(first.numel(), second.numel()):
        return "the one constant would be larger than the two"
    stored = constant.to(dtype)
    if not bool(stored.isfinite().all()):
        return "the one constant would not be finite"
    if not sums and bool(((stored == 0) & (first != 0) & (second != 0)).any()):
        return "the one constant would be zero"
    return ""


def _merge_clamps(rewriter: Rewriter, node: Node) -> None:
    """One clamp of two by numbers."""
    inner = node.args[0]
    assert isinstance(inner, Node)
    bounds, before = clamp_bounds(node), clamp_bounds(inner) if aten_name(inner) in CLAMPS else None
    if bounds is None or before is None:
        return
    if bounds[0] > bounds[1] or before[0] > before[1]:
        rewriter.refuse(node, "the bounds of a clamp cross", rule="merge-clamps")
        return
    low, high = (min(max(bound, bounds[0]), bounds[1]) for bound in before)
    x = inner.args[0]
    with rewriter.rewrite("merge-clamps", node):
        given = [None if math.isinf(bound) else bound for bound in (low, high)]
        rewriter.replace(node, rewriter.call("aten.clamp.default", x, *given))
