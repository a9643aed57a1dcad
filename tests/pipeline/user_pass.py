"""A user's passes outside of the package, as the manual shows them; tests import this file and load it as a plugin."""

import torch

import fxopt


@fxopt.register_pass
class JoinMatmulBias(fxopt.RewritePass):
    """matmul(x, w) + b  ->  linear(x, w', b)."""

    contract = fxopt.Contract.EQUIVALENT

    @staticmethod
    def pattern(x, w: fxopt.Const, b: fxopt.Const):
        return torch.matmul(x, w) + b

    @staticmethod
    def replacement(x, w, b):
        return torch.nn.functional.linear(x, w.t(), b)

    def guard(self, match):
        return None if match["w"].dim() == 2 else match.refuse("w is not a matrix")


@fxopt.register_pass
class MyPass(fxopt.Pass):
    """relu(relu(x))  ->  relu(x), where no pattern is wanted."""

    contract = fxopt.Contract.EXACT
    least: int = 1
    """Chains of at least so many are shortened."""

    def run(self, rewriter: fxopt.Rewriter) -> None:
        for node in rewriter.nodes("aten.relu"):
            inner = node.args[0]
            if rewriter.alive(node) and inner.target == node.target and self.least <= 2:
                with rewriter.rewrite("relu-relu", node):
                    rewriter.replace(node, inner)
            elif rewriter.alive(node):
                rewriter.refuse(node, "its operand is no relu", rule="relu-relu")
