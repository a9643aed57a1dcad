"""Makes one linear layer of a product with a weight and the sum with a bias."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F

from fxopt.pipeline import RewritePass, register_pass
from fxopt.rewriting import Const, Match, Refused, Rule

__all__ = ["FuseMatmulAdd"]

Tensor = torch.Tensor


def _product(x: Tensor, w: Const, b: Const) -> Tensor:
    return torch.matmul(x, w) + b


def _mm(x: Tensor, w: Const, b: Const) -> Tensor:
    return torch.mm(x, w) + b


def _addmm(x: Tensor, w: Const, b: Const) -> Tensor:
    return torch.addmm(b, x, w)


def _transposed_addmm(x: Tensor, w: Const, b: Const) -> Tensor:
    return torch.addmm(b, x, w.permute(1, 0))


def _linear(x: Tensor, w: Const, b: Const) -> Tensor:
    return F.linear(x, w) + b


def _transposed(x: Tensor, w: Const) -> Tensor:
    return torch.matmul(x, w.permute(1, 0))


def _transposed_2d(x: Tensor, w: Const) -> Tensor:
    return torch.mm(x, w.permute(1, 0))


def _of_columns(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.linear(x, w.t(), b)


def _of_rows(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.linear(x, w, b)


def _without_bias(x: Tensor, w: Tensor) -> Tensor:
    return F.linear(x, w)


def _guard(match: Match) -> Refused | None:
    w, b = match["w"], match["b"] if "b" in match.bindings else None
    if w.dim() != 2:
        return match.refuse(f"w is no matrix: it has the shape {list(w.shape)}")
    if not w.is_floating_point():
        return match.refuse(f"a linear layer is of floating point, w is {w.dtype}")
    if b is not None and b.dtype != w.dtype:
        return match.refuse(f"b is {b.dtype}, w {w.dtype}")
    return None


def _biased(rows: bool) -> Callable[[Match], Refused | None]:
    """`rows`: the matched weight is [out, in], as a linear layer has it."""

    def guard(match: Match) -> Refused | None:
        w, b = match["w"], match["b"]
        if w.dim() == 2 and tuple(b.shape) != (out := w.shape[0 if rows else 1],):
            return match.refuse(f"b is no bias of {out} outputs: it has the shape {list(b.shape)}")
        return _guard(match)

    return guard


def _rule(name: str, pattern: Callable[..., Tensor], *needs: str, rows: bool) -> Rule:
    return Rule(pattern, _of_rows if rows else _of_columns, _biased(rows), name, needs)


@register_pass
class FuseMatmulAdd(RewritePass):
    """matmul(x, w) + b  ->  linear(x, w', b) for a constant matrix w and a constant bias b.

    Before: `%y = matmul(%x, w)`, `%z = add(%y, b)`. After: `%z = linear(%x, w', b)` with `w' = w.t()`, the
    same memory. `addmm`, `mm` and a linear layer without bias count as products. A product with a transposed
    weight becomes a linear layer of the weight itself, bias or not, so that a head that is tied to an
    embedding stays tied.

    It does not fire if b is no vector with a value an output (it would broadcast otherwise than a bias does),
    if w has a batch axis, on integers, on operands of several dtypes, on a sum with a factor, or if the
    product has another user.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        _rule("fuse-matmul-add", _product, "aten.matmul", "aten.add", rows=False),
        _rule("fuse-mm-add", _mm, "aten.mm", "aten.add", rows=False),
        _rule("fuse-addmm", _addmm, "aten.addmm", rows=False),
        _rule("fuse-transposed-addmm", _transposed_addmm, "aten.addmm", "aten.permute", rows=True),
        _rule("fuse-linear-add", _linear, "aten.linear", "aten.add", rows=True),
        Rule(_transposed, _without_bias, _guard, "fuse-transposed-matmul", ("aten.matmul", "aten.permute")),
        Rule(_transposed_2d, _without_bias, _guard, "fuse-transposed-mm", ("aten.mm", "aten.permute")),
    )
