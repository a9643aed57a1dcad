"""Memory that a model asks for and does not write: `torch.empty`.

It is zeros in a program, which is as good as anything where the model writes all of it. Whether it does is tried: inside
`filled` the model's fresh memory holds ones, so that a result that depends on it is not the program's.

>>> with filled():
...     torch.empty(2, 2)
tensor([[1., 1.],
        [1., 1.]])
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fxopt.program.program import Origin, Program, origins_of

__all__ = ["LEFT_OPEN", "filled", "unwritten"]

_PREFIXES = ("aten.empty", "aten.new_empty")
LEFT_OPEN = frozenset(
    {
        torch.ops.aten.empty.memory_format,
        torch.ops.aten.empty_like.default,
        torch.ops.aten.empty_strided.default,
        torch.ops.aten.empty_permuted.default,
        torch.ops.aten.new_empty.default,
        torch.ops.aten.new_empty_strided.default,
    }
)
"""Ops whose result holds what memory held before."""


def unwritten(program: Program) -> Origin | None:
    """Where the first of a program's zeros was asked for that the model left open; None if there are none."""
    for node in program.calls():
        origin = next((o for o in origins_of(node) if o.op.startswith(_PREFIXES)), None)
        if origin is not None and node.target is torch.ops.aten.zeros.default:
            return origin
    return None


class filled(TorchDispatchMode):
    """Inside, memory that an op leaves open holds ones."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        return result.fill_(1) if func in LEFT_OPEN else result
