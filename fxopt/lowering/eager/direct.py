"""The shortest way to an op: torch's own Python functions parse their arguments faster than the dispatcher's.

A call through `torch.ops` boxes every argument; torch's functions don't (relu 1.0 against 1.7 us, conv2d 5.6
against 8.6). Listed are functions that take exactly the op's schema arguments; a test compares each with its
op on the op table's samples.
"""

from collections.abc import Callable

import torch

from fxopt.ops.info import op_key

__all__ = ["DIRECT", "direct_call"]

_functions = torch._C._VariableFunctions
_nn = torch._C._nn


def _named(namespace: object, *keys: str) -> dict[str, Callable[..., object]]:
    """`aten.<name>.<overload>` to the namespace's function of that name."""
    return {f"aten.{key}": getattr(namespace, key.partition(".")[0]) for key in keys}


DIRECT: dict[str, Callable[..., object]] = {
    **_named(
        _functions,
        "abs.default", "add.Tensor", "batch_norm.default", "bmm.default", "cat.default", "chunk.default",
        "clamp.default", "conv1d.default", "conv2d.default", "conv3d.default", "cos.default", "div.Tensor",
        "embedding.default", "erf.default", "exp.default", "flatten.using_ints", "group_norm.default",
        "layer_norm.default", "matmul.default", "max_pool2d.default", "mean.dim", "mul.Tensor", "neg.default",
        "permute.default", "pow.Tensor_Scalar", "relu.default", "reshape.default", "rms_norm.default",
        "rsqrt.default", "select.int", "sigmoid.default", "sin.default", "softmax.int", "sqrt.default",
        "squeeze.dim", "stack.default", "sub.Tensor", "tanh.default", "unbind.int", "unsqueeze.default",
        "where.self",
    ),
    **_named(
        _nn,
        "adaptive_avg_pool2d.default", "avg_pool2d.default", "gelu.default", "hardtanh.default",
        "linear.default", "scaled_dot_product_attention.default", "silu.default",
    ),
    "aten.sym_size.int": torch.Tensor.size,
}  # fmt: skip


def direct_call(target: object) -> Callable[..., object]:
    """What to call for a node's target: torch's function where there is one, the overload else."""
    if isinstance(target, torch._ops.OpOverload):
        return DIRECT.get(op_key(target), target)
    assert callable(target)
    return target
