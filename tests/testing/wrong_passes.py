"""Seeded wrong passes, each the kind of mistake that real ones had, and their right twins."""

import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F

import fxopt
from fxopt import Const, Contract, Pass, RewritePass, Rewriter
from fxopt.ops import is_pure

__all__ = ["PAIRS", "pairs"]


def _conv_bn(
    x,
    w: Const,
    b: Const,
    mean: Const,
    var: Const,
    gamma: Const,
    beta: Const,
    padding: list[int],
    momentum: float,
    eps: float,
):
    y = F.conv2d(x, w, b, [1, 1], padding)
    return F.batch_norm(y, mean, var, gamma, beta, False, momentum, eps)


def _fold(w, b, mean, var, gamma, beta, eps):
    scale = gamma * torch.rsqrt(var + eps)
    return w * scale.reshape(-1, 1, 1, 1), (b - mean) * scale + beta


class FoldRight(RewritePass):
    """conv + bn folded."""

    pattern = staticmethod(_conv_bn)

    @staticmethod
    def replacement(x, w, b, mean, var, gamma, beta, padding, momentum, eps):
        weight, bias = _fold(w, b, mean, var, gamma, beta, eps)
        return F.conv2d(x, weight, bias, [1, 1], padding)


class FoldWrongEps(RewritePass):
    """The same with another eps."""

    pattern = staticmethod(_conv_bn)

    @staticmethod
    def replacement(x, w, b, mean, var, gamma, beta, padding, momentum, eps):
        weight, bias = _fold(w, b, mean, var, gamma, beta, eps * 1.1)
        return F.conv2d(x, weight, bias, [1, 1], padding)


class FoldWrongSign(RewritePass):
    """The same with the mean added."""

    pattern = staticmethod(_conv_bn)

    @staticmethod
    def replacement(x, w, b, mean, var, gamma, beta, padding, momentum, eps):
        weight, bias = _fold(w, b, -mean, var, gamma, beta, eps)
        return F.conv2d(x, weight, bias, [1, 1], padding)


class FoldDroppedBias(RewritePass):
    """The same without the convolution's bias."""

    pattern = staticmethod(_conv_bn)

    @staticmethod
    def replacement(x, w, b, mean, var, gamma, beta, padding, momentum, eps):
        weight, bias = _fold(w, torch.zeros_like(b), mean, var, gamma, beta, eps)
        return F.conv2d(x, weight, bias, [1, 1], padding)


class SecondUserIgnored(Pass):
    """relu(neg(x)) -> a new node that replaces neg(x) for its other users too."""

    @staticmethod
    def motif(x):
        return torch.relu(-x)

    motifs: ClassVar = (motif,)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.relu"):
            inner = node.args[0]
            is_neg = inner.op == "call_function" and inner.target == torch.ops.aten.neg.default
            if is_neg and inner.args[0].target != torch.ops.aten.clamp.default:
                with rewriter.rewrite("relu-neg", inner):
                    fused = rewriter.call("aten.neg", rewriter.call("aten.clamp", inner.args[0], None, 0.0))
                    rewriter.replace(inner, fused)


class SecondUserKept(RewritePass):
    """relu(-x) -> -clamp(x, max=0)"""

    @staticmethod
    def pattern(x):
        return torch.relu(-x)

    @staticmethod
    def replacement(x):
        return -x.clamp(max=0.0)


class CancelPermutes(Pass):
    """permute(permute(x)) -> x where the second undoes the first."""

    @staticmethod
    def motif(x):
        return x.transpose(-1, -2).transpose(-1, -2)

    motifs: ClassVar = (motif,)

    def undone(self, first: list[int], second: list[int]) -> bool:
        return [first[i] for i in second] == sorted(first)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.permute"):
            inner = node.args[0]
            if inner.target == node.target and self.undone(inner.args[1], node.args[1]):
                source = inner.args[0]
                if rewriter.same_type(source.meta["val"], node.meta["val"]):
                    with rewriter.rewrite("cancel", node):
                        rewriter.replace(node, source)


class CancelPermutesWrong(CancelPermutes):
    """Any two permutations in a row cancel, if only the shape is the same."""

    @staticmethod
    def rolled(x):
        return (
            x.permute(1, 2, 0).permute(1, 2, 0) if x.dim() == 3 else x.permute(0, 2, 3, 1).permute(0, 2, 3, 1)
        )

    motifs: ClassVar = (rolled,)

    def undone(self, first: list[int], second: list[int]) -> bool:
        return True


class MergeEqual(Pass):
    """Equal softmaxes computed once."""

    contract = Contract.EXACT

    @staticmethod
    def motif(x):
        return x.softmax(-1) + x.softmax(0)

    @staticmethod
    def equal(x):
        return x.softmax(-1) + x.softmax(-1)

    motifs: ClassVar = (motif, equal)

    def key(self, node):
        return node.args

    def run(self, rewriter: Rewriter) -> None:
        first: dict[object, torch.fx.Node] = {}
        for node in rewriter.nodes("aten.softmax"):
            kept = first.setdefault(self.key(node), node)
            if kept is not node:
                with rewriter.rewrite("merge", node):
                    rewriter.replace(node, kept)


class MergeIgnoringArguments(MergeEqual):
    """The axis is forgotten."""

    contract = Contract.EXACT

    def key(self, node):
        return node.args[0], node.args[2]


class DropReluAfterRelu(RewritePass):
    """relu(relu(x)) -> relu(x)"""

    contract = Contract.EXACT

    @staticmethod
    def pattern(x):
        return torch.relu(torch.relu(x))

    @staticmethod
    def replacement(x):
        return torch.relu(x)


class DropReluAfterLeaky(RewritePass):
    """relu(leaky_relu(x)) -> leaky_relu(x)"""

    @staticmethod
    def pattern(x):
        return torch.relu(F.leaky_relu(x, 0.1))

    @staticmethod
    def replacement(x):
        return F.leaky_relu(x, 0.1)


class SoftmaxByHand(RewritePass):
    """softmax(x, d) -> exp(log_softmax(x, d))"""

    @staticmethod
    def pattern(x, d: int):
        return x.softmax(d)

    @staticmethod
    def replacement(x, d):
        return x.log_softmax(d).exp()


class SoftmaxOtherAxis(RewritePass):
    """softmax(x, d) -> exp(log_softmax(x)) along the last axis"""

    @staticmethod
    def pattern(x, d: int):
        return x.softmax(d)

    @staticmethod
    def replacement(x, d):
        return x.log_softmax(-1).exp()


class GeluByTanh(RewritePass):
    """The exact GELU replaced by its approximation, promised as equivalent."""

    @staticmethod
    def pattern(x):
        return F.gelu(x)

    @staticmethod
    def replacement(x):
        return F.gelu(x, approximate="tanh")


class GeluByErf(RewritePass):
    """The exact GELU written out."""

    @staticmethod
    def pattern(x):
        return F.gelu(x)

    @staticmethod
    def replacement(x):
        return x * 0.5 * (1 + torch.erf(x * 0.7071067811865476))


class MeanByExampleSize(Pass):
    """The mean over the batch as a sum over the example's size: wrong at any other."""

    @staticmethod
    def motif(x):
        return x.mean(0)

    motifs: ClassVar = (motif,)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.mean.dim"):
            x, dims, keep = node.args[:3]
            size = x.meta["val"].shape[0]
            if list(dims) == [0] and isinstance(size, torch.SymInt):
                with rewriter.rewrite("mean", node):
                    total = rewriter.call("aten.sum.dim_IntList", x, dims, keep)
                    rewriter.replace(node, rewriter.call("aten.div.Tensor", total, float(size.node.hint)))


class MeanBySize(Pass):
    """The mean over the batch as a sum over its size."""

    motifs: ClassVar = (MeanByExampleSize.motif,)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.mean.dim"):
            x, dims, keep = node.args[:3]
            if list(dims) == [0] and isinstance(x.meta["val"].shape[0], torch.SymInt):
                with rewriter.rewrite("mean", node):
                    total = rewriter.call("aten.sum.dim_IntList", x, dims, keep)
                    size = rewriter.call("aten.sym_size.int", x, 0)
                    rewriter.replace(node, rewriter.call("aten.div.Tensor", total, size))


class StaleMetadata(Pass):
    """Notes another shape for a node that it leaves."""

    motifs: ClassVar = (MeanByExampleSize.motif,)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.mean.dim"):
            if not node.kwargs.get("seen"):
                node.meta["val"] = node.args[0].meta["val"]


class AroundTheRewriter(Pass):
    """Edits the graph directly."""

    motifs: ClassVar = (DropReluAfterRelu.pattern,)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.relu"):
            if node.args[0].op == "call_function" and node.args[0].target == node.target:
                node.replace_all_uses_with(node.args[0])


class ChangesWeights(Pass):
    """Scales a weight in place: the caller's program shares it."""

    @staticmethod
    def motif(x, w: Const):
        return torch.relu(x * w)

    motifs: ClassVar = (motif,)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.mul.Tensor"):
            tensor = rewriter.value(node.args[1]) if isinstance(node.args[1], torch.fx.Node) else None
            if tensor is not None:
                tensor.mul_(2.0)


_COUNTER = itertools.count()


class NotDeterministic(Pass):
    """Does its work in every other run."""

    motifs: ClassVar = (DropReluAfterRelu.pattern,)

    def run(self, rewriter: Rewriter) -> None:
        idle = next(_COUNTER) % 2
        for node in rewriter.nodes("aten.relu"):
            inner = node.args[0]
            if not idle and inner.op == "call_function" and inner.target == node.target:
                with rewriter.rewrite("relu", node):
                    rewriter.replace(node, inner)


class FoldWithoutBias(RewritePass):
    """conv without bias + bn folded."""

    @staticmethod
    def pattern(x, w: Const, mean: Const, var: Const, beta: Const, eps: float):
        return F.batch_norm(F.conv2d(x, w), mean, var, None, beta, False, 0.1, eps)

    @staticmethod
    def replacement(x, w, mean, var, beta, eps):
        weight, bias = _fold(w, 0.0, mean, var, torch.ones_like(mean), beta, eps)
        return F.conv2d(x, weight, bias)


class BiasDroppedWhenNone(RewritePass):
    """The same, and since the convolution has no bias, the result gets none."""

    pattern = staticmethod(FoldWithoutBias.pattern)

    @staticmethod
    def replacement(x, w, mean, var, beta, eps):
        return F.conv2d(x, _fold(w, 0.0, mean, var, torch.ones_like(mean), beta, eps)[0])


class ScaleIntoLinear(Pass):
    """linear(x, w) * 2 -> linear(x, 2 w)"""

    @staticmethod
    def motif(x, w: Const):
        return F.linear(x, w) * 2.0

    @staticmethod
    def shared(x, w: Const):
        return F.linear(x, w) * 2.0 - F.linear(torch.relu(x), w)

    motifs: ClassVar = (motif, shared)

    def scale(self, rewriter: Rewriter, linear: torch.fx.Node) -> torch.fx.Node:
        x, w = linear.args[:2]
        return rewriter.call("aten.linear", x, rewriter.constant(rewriter.value(w) * 2.0), None)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.mul.Tensor"):
            linear, factor = node.args
            is_linear = isinstance(linear, torch.fx.Node) and linear.target == torch.ops.aten.linear.default
            if (
                factor == 2.0
                and is_linear
                and rewriter.value(linear.args[1]) is not None
                and linear.args[2] is None
            ):
                with rewriter.rewrite("scale", node):
                    rewriter.replace(node, self.scale(rewriter, linear))


class SharedWeightScaled(ScaleIntoLinear):
    """The weight is replaced for all of its users."""

    def scale(self, rewriter: Rewriter, linear: torch.fx.Node) -> torch.fx.Node:
        x, w = linear.args[:2]
        with rewriter.before(next(iter(rewriter.nodes()))):
            scaled = rewriter.constant(rewriter.value(w) * 2.0)
        rewriter.replace(w, scaled)
        return rewriter.call("aten.linear", x, scaled, None)


class FoldPlainNorm(Pass):
    """conv + bn without gamma and beta folded."""

    @staticmethod
    def shared(x, w: Const, b: Const, mean: Const, var: Const):
        y = F.batch_norm(F.conv2d(x, w, b), mean, var, None, None, False, 0.1, 1e-3)
        return y - F.conv2d(torch.relu(x), w, b)

    motifs: ClassVar = (shared,)

    def weight(self, rewriter: Rewriter, w: torch.fx.Node, scale: torch.Tensor) -> torch.fx.Node:
        return rewriter.constant(rewriter.value(w) * scale.reshape(-1, 1, 1, 1))

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.batch_norm"):
            conv, gamma, beta = node.args[:3]
            mean, var = (rewriter.value(n) for n in node.args[3:5])
            is_conv = isinstance(conv, torch.fx.Node) and conv.target == torch.ops.aten.conv2d.default
            if not is_conv or gamma is not None or beta is not None or mean is None or var is None:
                continue
            x, w, b = conv.args[:3]
            if rewriter.value(w) is None or rewriter.value(b) is None:
                continue
            scale = torch.rsqrt(var + node.args[7])
            bias = (rewriter.value(b) - mean) * scale
            with rewriter.rewrite("fold-plain", node):
                args = (x, self.weight(rewriter, w, scale), rewriter.constant(bias), *conv.args[3:])
                rewriter.replace(node, rewriter.call("aten.conv2d", *args))


class SharedConvFolded(FoldPlainNorm):
    """The convolution's weight is replaced for all of its users."""

    def weight(self, rewriter: Rewriter, w: torch.fx.Node, scale: torch.Tensor) -> torch.fx.Node:
        with rewriter.before(next(iter(rewriter.nodes()))):
            folded = super().weight(rewriter, w, scale)
        rewriter.replace(w, folded)
        return folded


class SubtractByAdding(RewritePass):
    """x - w -> x + (-w)"""

    contract = Contract.EXACT

    @staticmethod
    def pattern(x, w: Const):
        return x - w

    @staticmethod
    def replacement(x, w):
        return x + (-w)


class BroadcastOtherAxis(RewritePass):
    """The same with the vector along the other axis, where the shape happens to be the same."""

    contract = Contract.EXACT

    pattern = staticmethod(SubtractByAdding.pattern)

    @staticmethod
    def replacement(x, w):
        return x + (-w).unsqueeze(-1)

    @staticmethod
    def square(x, w: Const):
        return x.flatten(1).unsqueeze(-1) * x.flatten(1).unsqueeze(-2) - w

    motifs: ClassVar = (square,)


class MultiplyInts(Pass):
    """i * n -> n * i for integers, written as a sum of halves."""

    contract = Contract.EXACT

    @staticmethod
    def motif(x):
        return (x.argmax(-1) + 3) * 2_000_000_000

    motifs: ClassVar = (motif,)

    def product(self, rewriter: Rewriter, i: torch.fx.Node, n: int) -> torch.fx.Node:
        half = rewriter.call("aten.mul.Tensor", i, n // 2)
        return rewriter.call("aten.add.Tensor", half, rewriter.call("aten.mul.Tensor", i, n - n // 2))

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.mul.Tensor"):
            i, n = node.args
            if node.meta["val"].dtype is torch.int64 and isinstance(n, int) and n > 1_500_000_000:
                with rewriter.rewrite("int-product", node):
                    rewriter.replace(node, self.product(rewriter, i, n))


class IntegerOverflow(MultiplyInts):
    """The product in 32 bits."""

    contract = Contract.EXACT

    def product(self, rewriter: Rewriter, i: torch.fx.Node, n: int) -> torch.fx.Node:
        narrow = rewriter.call("aten.mul.Tensor", rewriter.call("aten.to.dtype", i, torch.int32), n)
        return rewriter.call("aten.to.dtype", narrow, torch.int64)


class DivideByCast(Pass):
    """i / n -> float(i) / n for integers."""

    contract = Contract.EXACT

    @staticmethod
    def motif(x):
        return x.argmax(-1) / 2 + (x.argmax(-1) + 1) / 2

    motifs: ClassVar = (motif,)

    def quotient(self, rewriter: Rewriter, i: torch.fx.Node, n: object, dtype: torch.dtype) -> torch.fx.Node:
        return rewriter.call("aten.div.Tensor", rewriter.call("aten.to.dtype", i, dtype), n)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.div.Tensor"):
            i, n = node.args
            if i.meta["val"].dtype is torch.int64 and not isinstance(n, torch.fx.Node):
                with rewriter.rewrite("divide", node):
                    rewriter.replace(node, self.quotient(rewriter, i, n, node.meta["val"].dtype))


class PromotionLost(DivideByCast):
    """The quotient as an integer, cast afterwards."""

    contract = Contract.EXACT

    def quotient(self, rewriter: Rewriter, i: torch.fx.Node, n: object, dtype: torch.dtype) -> torch.fx.Node:
        whole = rewriter.call("aten.div.Tensor_mode", i, n, rounding_mode="floor")
        return rewriter.call("aten.to.dtype", whole, dtype)


class MaximumSwapped(Pass):
    """maximum(x, y) -> maximum(y, x), once (of two zeros the other one comes out)"""

    op: ClassVar[str] = "aten.maximum"

    @staticmethod
    def motif(x):
        return torch.maximum(torch.log(x), x)

    motifs: ClassVar = (motif,)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.maximum"):
            first, second = node.args
            if first.name < second.name:
                with rewriter.rewrite("maximum", node):
                    rewriter.replace(node, rewriter.call(self.op, second, first))


class NanSwallowed(MaximumSwapped):
    """fmax takes the number where one operand is NaN."""

    contract = Contract.EXACT
    op: ClassVar[str] = "aten.fmax"


@torch.library.custom_op("fxopt_tests::counted", mutates_args=())
def counted(x: torch.Tensor) -> torch.Tensor:
    """A copy; that it was called is what matters."""
    return x.clone()


@counted.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


fxopt.register_op(fxopt.OpInfo(op="fxopt_tests.counted", pure=False))


class FoldPure(Pass):
    """Folds pure calls on weights alone."""

    contract = Contract.EXACT

    @staticmethod
    def motif(x, w: Const):
        return x + torch.ops.fxopt_tests.counted(w) * torch.exp(w)

    motifs: ClassVar = (motif,)

    def may(self, node: torch.fx.Node) -> bool:
        return is_pure(node)

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes():
            inputs = node.all_input_nodes
            if (
                len(inputs) == 1
                and rewriter.value(inputs[0]) is not None
                and len(node.args) == 1
                and self.may(node)
            ):
                with rewriter.rewrite("fold", node):
                    rewriter.replace(node, rewriter.constant(node.target(rewriter.value(inputs[0]))))


class FoldImpure(FoldPure):
    """Folds all of them."""

    contract = Contract.EXACT

    def may(self, node: torch.fx.Node) -> bool:
        return True


PAIRS: dict[type[Pass], type[Pass]] = {
    FoldWrongEps: FoldRight,
    FoldWrongSign: FoldRight,
    FoldDroppedBias: FoldRight,
    SecondUserIgnored: SecondUserKept,
    CancelPermutesWrong: CancelPermutes,
    MergeIgnoringArguments: MergeEqual,
    DropReluAfterLeaky: DropReluAfterRelu,
    SoftmaxOtherAxis: SoftmaxByHand,
    GeluByTanh: GeluByErf,
    MeanByExampleSize: MeanBySize,
    BiasDroppedWhenNone: FoldWithoutBias,
    SharedWeightScaled: ScaleIntoLinear,
    SharedConvFolded: FoldPlainNorm,
    BroadcastOtherAxis: SubtractByAdding,
    IntegerOverflow: MultiplyInts,
    PromotionLost: DivideByCast,
    NanSwallowed: MaximumSwapped,
    FoldImpure: FoldPure,
    StaleMetadata: MeanBySize,
    AroundTheRewriter: DropReluAfterRelu,
    ChangesWeights: DropReluAfterRelu,
    NotDeterministic: DropReluAfterRelu,
}
"""Each wrong pass and a right one for the same places."""


def pairs() -> list[tuple[type[fxopt.Pass], type[fxopt.Pass]]]:
    """Wrong and right, in order."""
    return list(PAIRS.items())
