"""A user's own pass, in a file of their own: `matmul(x, w) + b` becomes one linear layer.

fxopt optimize net.py:build --plugin examples/fuse_matmul_bias.py --pipeline clean,fuse-matmul-bias --target
onnx ...
"""

import torch

import fxopt


@fxopt.register_pass
class FuseMatmulBias(fxopt.RewritePass):
    """matmul(x, w) + b  ->  linear(x, w', b)."""

    contract = fxopt.Contract.EQUIVALENT

    @staticmethod
    def pattern(x, w: fxopt.Const, b: fxopt.Const):
        return torch.matmul(x, w) + b

    @staticmethod
    def replacement(x, w, b):
        return torch.nn.functional.linear(x, w.t(), b)

    def guard(self, match):
        if match["w"].dim() != 2:
            return match.refuse("w is not a matrix")
        if match["b"].dim() != 1 or match["b"].shape[0] != match["w"].shape[1]:
            return match.refuse("b is not a bias of the products' columns")
        return None
