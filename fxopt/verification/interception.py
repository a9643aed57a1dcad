"""Runs of a module with every op looked at: each result moved by rounding, ties in order, all in float64.

What `evaluator` does for a program, for a module that nobody traced: modes of torch's dispatcher, below autograd, see
the ops that it comes to, whatever its Python does.

>>> import torch
>>> x = torch.ones(3)
>>> with Moving(seed=0):
...     y = x.exp()
>>> bool((y != x.exp()).any()), bool(torch.allclose(y, x.exp()))
(True, True)
>>> with default_float64(), Widening():
...     y = x.exp().to(torch.float32)
>>> y.dtype
torch.float64
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxopt.frontend.functionalize import functional_twin
from fxopt.verification.doubling import NoFloat64Error, as_double, double_dtype, is_low
from fxopt.verification.evaluator import centred, finest, moved, summed
from fxopt.verification.precision import rounds
from fxopt.verification.ties import IN_ORDER

__all__ = ["Moving", "Ordering", "Widening", "default_float64"]

aten = torch.ops.aten
Arguments = tuple[object, ...]


class Moving(TorchDispatchMode):
    """Each result that an op rounds is moved by at most half an eps, as `evaluate_perturbed` does."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: object, args: Arguments = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        run: Any = centred(func, self._generator) or summed(func, self._generator) or func
        result = run(*args, **(kwargs or {}))
        target = functional_twin(func) or func
        made_of_floats = any(_is_float(leaf) for leaf in pytree.tree_leaves((args, kwargs)))
        if not made_of_floats or not rounds(target):
            return result
        least, returns = finest(target), func._schema.returns
        fresh = [r.alias_info is None for r in returns]
        if len(returns) > 1:
            pairs = zip(result, fresh, strict=True)
            return type(result)(moved(v, self._generator, least) if f else v for v, f in pairs)
        if all(fresh):
            return moved(result, self._generator, least)
        return self._written(result, least) if returns[0].alias_info.is_write else result

    def _written(self, result: object, least: float) -> object:
        """An operand that an op wrote to, moved where it lies."""
        value = moved(result, self._generator, least)
        if isinstance(result, torch.Tensor) and isinstance(value, torch.Tensor):
            result.copy_(value)
        return result


class Ordering(TorchDispatchMode):
    """Ties are settled by index. `used` says whether there was an op that has to settle any."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.used = False

    def __torch_dispatch__(
        self, func: Any, types: object, args: Arguments = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        ordered: Callable[..., object] | None = IN_ORDER.get(func)
        self.used |= ordered is not None
        return (ordered or func)(*args, **(kwargs or {}))


class Widening(TorchDispatchMode):
    """Every low-precision float that an op is given, as a tensor or as a dtype, is float64.

    A tensor that is none of the module's weights (a constant of its Python) gets one twin for the whole run, so that
    what is written to it is read again, and the module's own stays as it is.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._twins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: object, args: Arguments = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        if func is aten.view.dtype and (_is_float(args[0]) or double_dtype(args[1]) is not args[1]):  # type: ignore[arg-type]
            raise NoFloat64Error("aten.view.dtype reinterprets the bits of a float: it has no float64 form")
        wide_args, wide_kwargs = pytree.tree_map(self._wide, (args, dict(kwargs or {})))
        return func(*wide_args, **wide_kwargs)

    def _wide(self, leaf: object) -> object:
        if isinstance(leaf, torch.dtype):
            return double_dtype(leaf)
        if not isinstance(leaf, torch.Tensor) or not is_low(leaf):
            return leaf
        if id(leaf) not in self._twins:
            self._twins[id(leaf)] = (leaf, as_double(leaf))
        return self._twins[id(leaf)][1]


@contextlib.contextmanager
def default_float64() -> Iterator[None]:
    """What rests on torch's default dtype is float64 inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _is_float(value: object) -> bool:
    return isinstance(value, torch.Tensor) and (value.dtype.is_floating_point or value.dtype.is_complex)
