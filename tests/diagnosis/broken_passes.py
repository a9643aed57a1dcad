"""Passes that go wrong at one known place of several."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from fxopt import Contract, Pass, RewritePass, Rewriter
from fxopt.frontend import trace
from fxopt.program import Program

__all__ = [
    "CrashInRewrite",
    "CrashOutside",
    "Fickle",
    "GeluByTanh",
    "Net",
    "Slows",
    "WrongThird",
    "chain",
    "net",
]


class GeluByTanh(RewritePass):
    """Another function by a little."""

    @staticmethod
    def pattern(x):
        return F.gelu(x)

    @staticmethod
    def replacement(x):
        return F.gelu(x, approximate="tanh")


class WrongThird(Pass):
    """relu(x) -> clamp(x, 0), but the third becomes clamp(x, 0.125)."""

    def run(self, rewriter: Rewriter) -> None:
        for number, node in enumerate(rewriter.nodes("aten.relu")):
            with rewriter.rewrite("relu", node):
                low = 0.125 if number == 2 else 0.0
                rewriter.replace(node, rewriter.call("aten.clamp", node.args[0], low, None))


class CrashInRewrite(Pass):
    """Raises at a relu of a tanh, whatever their sizes."""

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.relu"):
            with rewriter.rewrite("relu", node):
                source = node.args[0]
                if isinstance(source, Node) and source.target == torch.ops.aten.tanh.default:
                    raise KeyError(f"{source.name} of size {source.meta['val'].shape[-1]}")
                rewriter.replace(node, rewriter.call("aten.clamp", source, 0.0, None))


class CrashOutside(Pass):
    """Raises before any rewrite."""

    def run(self, rewriter: Rewriter) -> None:
        if rewriter.nodes("aten.tanh"):
            raise ValueError("no tanh, please")


class Slows(Pass):
    """relu(x) -> relu of 300 additions of nothing."""

    contract = Contract.EXACT

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.nodes("aten.tanh"):
            with rewriter.rewrite("slow", node):
                value = node.args[0]
                for _ in range(300):
                    value = rewriter.call("aten.mul.Tensor", value, 1.0)
                rewriter.replace(node, rewriter.call("aten.tanh", value))


_RUNS = itertools.count()


class Fickle(Pass):
    """tanh(x) -> tanh(x) + 0 in every second run."""

    def run(self, rewriter: Rewriter) -> None:
        odd = next(_RUNS) % 2
        for node in rewriter.nodes("aten.tanh") if odd else ():
            with rewriter.rewrite("fickle", node):
                again = rewriter.call("aten.tanh", node.args[0])
                rewriter.replace(node, rewriter.call("aten.add.Tensor", again, 0))


class Net(nn.Module):
    """Linear layers with several activations between them, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(24, 24) for _ in range(6)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = torch.relu(torch.tanh(x)) if i == 3 else torch.relu(x) if i != 1 else F.gelu(x)
        return x, x.softmax(-1) * 2


def net() -> Program:
    torch.manual_seed(0)
    return trace(Net().eval(), (torch.randn(3, 24),), dynamic_shapes=[{0: "batch"}])


def chain(*functions: nn.Module) -> Program:
    return trace(nn.Sequential(*functions).eval(), (torch.randn(3, 8),))
