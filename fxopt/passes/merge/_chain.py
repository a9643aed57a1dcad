"""Products one after the other with nothing between, as one, where that makes nothing larger."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.fx import Node

from fxopt.ops import bind
from fxopt.passes._names import aten_name
from fxopt.passes._products import Product, product_of
from fxopt.passes.merge._parallel import common_name
from fxopt.program import trained_as
from fxopt.rewriting import Rewriter

__all__ = ["Chained", "merge_chain"]


@dataclass(frozen=True)
class Chained:
    """Two products as one.

    Attributes:
        weight: f64.
        bias: f64[out].
        like: the product that has its stride, padding and dilation.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    like: Product


def merge_chain(
    rewriter: Rewriter, node: Node, combine: Callable[[Product, Product], Chained | str], rule: str
) -> None:
    """Makes one product of a product and the one that it reads, as often as there is one.

    Args:
        rewriter: of the program.
        node: a product.
        combine: what two are as one, given the first and the second; or why they stay, empty if they are no chain.
        rule: its name.
    """
    while True:
        x = node.args[0]
        if not isinstance(x, Node) or aten_name(x) != aten_name(node):
            return
        first, second = product_of(rewriter, x), product_of(rewriter, node)
        if first is None or second is None:
            return
        found = combine(first, second)
        why = found if isinstance(found, str) else _objection(first, second, found)
        if isinstance(found, str) or why:
            if why:
                rewriter.refuse(node, why, rule=rule)
            return
        with rewriter.rewrite(rule, node):
            merged = _call(rewriter, first, second, found)
            rewriter.replace(node, merged)
        if merged._erased:
            return
        node = merged


def _objection(first: Product, second: Product, found: Chained) -> str:
    """Why two products stay apart; empty if they may be one."""
    if len(first.node.users) > 1:
        return f"{first.node.name} has another user"
    whole, apart = found.weight.numel(), first.weight.numel() + second.weight.numel()
    if whole > apart:
        return f"one product of {whole} multiplications at each place costs more than two of {apart}"
    dtype = first.node.meta["val"].dtype
    finite = found.weight.to(dtype).isfinite().all() and found.bias.to(dtype).isfinite().all()
    return "" if bool(finite) else "a weight would not be finite"


def _call(rewriter: Rewriter, first: Product, second: Product, found: Chained) -> Node:
    """The one product, inside a rewrite; without a bias if neither had one."""
    arguments: dict[str, object] = dict(bind(found.like.node))
    arguments["input"] = first.node.args[0]
    for name, tensor in (("weight", found.weight), ("bias", found.bias)):
        places = [p for product in (first, second) if isinstance(p := bind(product.node)[name], Node)]
        arguments[name] = None
        if places:
            values = [rewriter.value(p) for p in places]
            stored = trained_as(tensor.to(first.node.meta["val"].dtype), values)
            arguments[name] = rewriter.constant(stored, name=common_name([str(p.target) for p in places]))
    return rewriter.call(found.like.node.target, **arguments)
