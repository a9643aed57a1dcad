"""Fake tensors with symbolic sizes."""

from collections.abc import Iterable

import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext


def symbolic_tensor(
    tensor: torch.Tensor,
    *,
    dynamic: Iterable[int] | None = None,
    mode: FakeTensorMode | None = None,
    name: str = "x",
) -> FakeTensor:
    """The fake twin of a tensor, its dimensions (or those in `dynamic`) symbolic."""
    mode = mode or FakeTensorMode(shape_env=ShapeEnv())
    chosen = set(range(tensor.dim()) if dynamic is None else dynamic)
    kinds = [DimDynamic.DYNAMIC if i in chosen else DimDynamic.STATIC for i in range(tensor.dim())]
    context = StatelessSymbolicContext(dynamic_sizes=kinds)
    return mode.from_tensor(tensor, source=ConstantSource(name), symbolic_context=context)
