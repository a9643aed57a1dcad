"""Lets a linear layer work on the tensor as it is, not flattened for it and shaped back."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxopt.ops.sizes import same_size, shape_of
from fxopt.passes._moves import Sizes, is_op, is_reshape, operand, stated_shape
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.program import infer_value
from fxopt.rewriting import Const, Rewriter

__all__ = ["UnflattenLinear"]

_LINEAR, _RESHAPE = torch.ops.aten.linear.default, torch.ops.aten.reshape.default


def _motif(x: torch.Tensor, w: Const, b: Const) -> torch.Tensor:
    return F.linear(x.reshape(-1, 4), w, b).reshape(-1, 4, 4)


@register_pass
class UnflattenLinear(Pass):
    """reshape(linear(reshape(x, [rows, k]), w, b), [..., out])  ->  linear(x, w, b), or of a reshape of x.

    Before, with x of `[batch, 3, 4]`: `%a = reshape(%x, [-1, 4])`, `%b = linear(%a, w, b)`,
    `%c = reshape(%b, [-1, 3, 6])`. After: `%c = linear(%x, w, b)`.

    A linear layer works on the last axis, whatever stands before it: it can have the rows in the shape that
    the second reshape gives them. Where x has not that shape already, the first reshape makes it
    (attention's heads are joined so). It does not fire if the second reshape changes the last axis, if the
    layer has another user, or if the first reshape has one and would have to stay.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (_motif,)

    def run(self, rewriter: Rewriter) -> None:
        """Sweeps over the linear layers until one changes nothing: a layer's reshape is another's user."""
        before = -1
        objections: dict[Node, str] = {}
        while rewriter.program.version != before:
            before = rewriter.program.version
            objections = {n: why for n in rewriter.nodes(_LINEAR) if (why := _unflatten(rewriter, n))}
        for node, why in objections.items():
            rewriter.refuse(node, why, rule="unflatten-linear")


def _unflatten(rewriter: Rewriter, node: Node) -> str:
    """Lets one layer do without its reshapes, or says why it can't; empty too if it has none."""
    flat = operand(node)
    shaped = [user for user in node.users if is_op(user, "reshape")]
    if not is_reshape(flat) or not shaped:
        return ""
    x, rows = operand(flat), _rows(node, shaped[0])
    why = _objection(rewriter, node, rows)
    if why:
        return why
    with rewriter.rewrite("unflatten-linear", shaped[0]):
        if not _has_shape(rewriter, x, rows):
            x = rewriter.call(_RESHAPE, x, rows)
        unflattened = rewriter.call(_LINEAR, x, *node.args[1:])
        for user in shaped:
            rewriter.replace(user, unflattened)
    return ""


def _rows(node: Node, shaped: Node) -> Sizes | None:
    """The shape for the input that gives the result its own: [..., k] for [..., out]. None: unknown."""
    result, inputs = shape_of(shaped), shape_of(operand(node))
    stated = stated_shape(shaped)
    if not result or stated is None or not isinstance(inputs[-1], int):
        return None
    return [*stated[:-1], inputs[-1]] if same_size(result[-1], shape_of(node)[-1]) else None


def _objection(rewriter: Rewriter, node: Node, rows: Sizes | None) -> str:
    """Why a linear layer stays between its reshapes; empty if it can do without."""
    first = next(iter(node.users))
    for user in node.users:
        if not is_op(user, "reshape"):
            return f"it has another user, {user.name}"
        if not rewriter.same_type(user.meta["val"], first.meta["val"]):
            return f"its results are shaped in two ways, {first.name} and {user.name}"
    if rows is None:
        return f"the reshape after it, {first.name}, changes the last axis"
    flat = operand(node)
    if len(flat.users) > 1 and not _has_shape(rewriter, operand(flat), rows):
        return f"the reshape before it, {flat.name}, has another user"
    return ""


def _has_shape(rewriter: Rewriter, x: Node, rows: Sizes | None) -> bool:
    value = infer_value(rewriter.program, _RESHAPE, (x, rows))
    return rewriter.same_type(value, x.meta["val"])
