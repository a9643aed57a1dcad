"""Merges reductions, and lets them keep or drop their axes by themselves."""

from collections.abc import Callable
from typing import ClassVar

from torch.fx import Node

from fxopt.ops import bind
from fxopt.ops.sizes import is_one, same_size, shape_of
from fxopt.passes._moves import is_reshape, keeps_rank, operand
from fxopt.passes._names import aten_name
from fxopt.pipeline import Contract, Pass, register_pass
from fxopt.rewriting import Rewriter

__all__ = ["SimplifyReductions"]

_MERGED = ("sum", "mean", "amax", "amin")
"""Of which one over all axes is one over some of one over the others."""
_KEEPING = (*_MERGED, "var", "std", "logsumexp", "argmax", "argmin", "prod", "all", "any")


@register_pass
class SimplifyReductions(Pass):
    """sum(sum(x, [2]), [1])  ->  sum(x, [1, 2]), squeeze(mean(x, [2, 3], keepdim=True))  ->  mean(x, [2, 3]).

    Before: `%a = mean(%x, [2], True)`, `%b = mean(%a, [3], True)`, `%c = flatten(%b, 1)`. After:
    `%c = mean(%x, [2, 3])`.

    Sums, means, maxima and minima; what keeps or drops the axes of size 1 may be any reduction. A reduction over
    axes of size 1 is a reshape. Sums are taken in another order, hence it is not exact.

    It does not fire if the value between the two has another user, if the two are of different kinds or dtypes, or
    if only one keeps its axes.
    """

    contract = Contract.EQUIVALENT

    motifs: ClassVar[tuple[Callable[..., object], ...]] = (
        lambda x: x.sum(1).sum(0),
        lambda x: x.mean(0, True).mean(1, True) + x.amax(1, True).squeeze(1).sum(),
        lambda x: x.sum(0).unsqueeze(0) + x.unsqueeze(0).mean(0),
    )

    def run(self, rewriter: Rewriter) -> None:
        """One sweep in graph order."""
        for node in rewriter.nodes():
            if node._erased:
                continue
            name = aten_name(node)
            if name in _MERGED and not _of_ones(rewriter, node):
                _merge(rewriter, node, name)
            elif name and is_reshape(node) and keeps_rank(node):
                _keep_axes(rewriter, node)


def _axes(node: Node) -> list[int] | None:
    """Over which axes a call reduces; None if that is not given as numbers."""
    given = bind(node)
    if given.get("dtype") is not None:
        return None
    dims, rank = given.get("dim"), len(shape_of(given["self"]))
    if dims is None or dims == [] or rank == 0:  # a single number may be given axis 0, which it has not
        return list(range(rank))
    listed = dims if isinstance(dims, (list, tuple)) else [dims]
    return [d for d in listed if isinstance(d, int)]


def _merge(rewriter: Rewriter, node: Node, name: str) -> None:
    """One reduction over the axes of two."""
    inner = operand(node)
    outer_axes, inner_axes = _axes(node), _axes(inner) if aten_name(inner) == name else None
    if outer_axes is None or inner_axes is None:
        return
    kept, inner_kept = bind(node).get("keepdim", False), bind(inner).get("keepdim", False)
    if len(inner.users) > 1:
        rewriter.refuse(node, f"{inner.name} has another user", rule="merge-reductions")
        return
    if kept != inner_kept and not (inner_kept and len(outer_axes) == len(shape_of(inner))):
        rewriter.refuse(node, "only one of the two keeps its axes", rule="merge-reductions")
        return
    x = operand(inner)
    if not inner_kept:
        left = [d for d in range(len(shape_of(x))) if d not in inner_axes]
        outer_axes = [left[d] for d in outer_axes]
    axes = sorted({*inner_axes, *outer_axes})
    with rewriter.rewrite("merge-reductions", node):
        rewriter.replace(node, _reduction(rewriter, name, x, axes, bool(kept)))


def _reduction(rewriter: Rewriter, name: str, x: Node, axes: list[int], keep: bool) -> Node:
    overload = {"sum": ".dim_IntList", "mean": ".dim"}.get(name, "")
    return rewriter.call(f"aten.{name}{overload}", x, axes, keep)


def _of_ones(rewriter: Rewriter, node: Node) -> bool:
    """Takes the place of a reduction over axes of size 1 by a reshape; whether it was one."""
    x, axes = operand(node), _axes(node)
    shape = shape_of(x)
    if axes is None or not all(is_one(shape[d]) for d in axes):
        return False
    if x.meta["val"].dtype != node.meta["val"].dtype:
        return False
    with rewriter.rewrite("reduce-nothing", node):
        dropped = axes and not bind(node).get("keepdim", False)
        rewriter.replace(node, rewriter.call("aten.squeeze.dims", x, axes) if dropped else x)
    return True


def _keep_axes(rewriter: Rewriter, node: Node) -> None:
    """Lets a reduction drop or keep its axes where a reshape does it."""
    inner = operand(node)
    axes = _axes(inner) if aten_name(inner) in _KEEPING and "keepdim" in bind(inner) else None
    if axes is None or len(inner.users) > 1:
        return
    given, old = bind(inner), shape_of(operand(inner))
    wanted = [1 if d in axes else size for d, size in enumerate(old)]
    if given["keepdim"]:
        wanted = [size for d, size in enumerate(old) if d not in axes]
    shape = shape_of(node)
    if len(shape) == len(wanted) and all(map(same_size, shape, wanted)):
        with rewriter.rewrite("keep-axes", node):
            arguments = {**given, "keepdim": not given["keepdim"]}
            x = arguments.pop("self")  # a name that `call` has too
            rewriter.replace(node, rewriter.call(inner.target, x, **arguments))
