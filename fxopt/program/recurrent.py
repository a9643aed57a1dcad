"""Shapes of recurrent layers without running their loop, so that their length may vary.

torch infers them by its own decomposition, a Python loop over the steps, which fixes the number of steps. Inside
`whole_layers` the layers give the shapes that their documentation states; torch's own kernels come back after.

>>> with whole_layers():
...     pass
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._C import DispatchKey
from torch._subclasses import FakeTensor

__all__ = ["RECURRENT", "whole_layers"]

aten = torch.ops.aten
_KEYS = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)


def _shapes(
    x: torch.Tensor, hidden: torch.Tensor, last: int, batch_first: bool, bidirectional: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output f[length, batch, last * directions] (batch first if so) and last hidden state, as `hidden`."""
    width = last * (2 if bidirectional else 1)
    return x.new_empty((*x.shape[:-1], width)), torch.empty_like(hidden)


def _lstm(x: Any, hx: Any, params: Any, *options: Any) -> Any:
    bidirectional, batch_first = options[-2:]
    output, hidden = _shapes(x, hx[0], hx[0].shape[-1], batch_first, bidirectional)
    return output, hidden, torch.empty_like(hx[1])


def _gru(x: Any, hx: Any, params: Any, *options: Any) -> Any:
    bidirectional, batch_first = options[-2:]
    return _shapes(x, hx, hx.shape[-1], batch_first, bidirectional)


RECURRENT: dict[Any, Callable[..., Any]] = {
    aten.lstm.input: _lstm,
    aten.gru.input: _gru,
    aten.rnn_tanh.input: _gru,
    aten.rnn_relu.input: _gru,
}
"""The ops and their shape functions."""


def _on_fakes(shape: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, *args: Any, **kwargs: Any) -> Any:
        return (shape if isinstance(x, FakeTensor) else kernel)(x, *args, **kwargs)

    return run


@contextlib.contextmanager
def whole_layers() -> Iterator[None]:
    """Inside, fake inputs of recurrent layers give fake results of the right shape at once."""
    before = [(op, dict(op.py_kernels)) for op in RECURRENT]
    try:
        for op, kernels in before:
            for key in _KEYS:
                if key in kernels:
                    op.py_kernels[key] = _on_fakes(RECURRENT[op], kernels[key])
            op._dispatch_cache.clear()
        yield
    finally:
        for op, kernels in before:
            op.py_kernels.clear()
            op.py_kernels.update(kernels)
            op._dispatch_cache.clear()
