"""Numbers that a model keeps in tensors: `torch.tensor(x.shape[1])`, an integer buffer, what is computed of them.

torch takes any number out of a tensor for unknown while it traces. What is made of sizes, literals and the model's integer
buffers alone is known, so that `int(n)`, `x[:, :n]` and `if n > 4` mean a size, not a value.

>>> from fxopt.frontend import trace
>>> class First(torch.nn.Module):
...     def forward(self, x):
...         return x[: torch.tensor(x.shape[0]) // 2]
>>> trace(First(), (torch.zeros(4, 2),), dynamic_shapes={"x": {0: "n"}})(torch.zeros(9, 2)).shape
torch.Size([4, 2])
"""

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils.weak import WeakTensorKeyDictionary

from fxopt.frontend.unwritten import LEFT_OPEN

__all__ = ["READS_A_VALUE", "known_numbers"]

READS_A_VALUE = frozenset({torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default})

_SYMBOLIC = (torch.SymInt, torch.SymBool)
_Known = torch.Tensor | torch.SymInt | torch.SymBool
"""What a tensor holds: constants of its dtype, or one number made of sizes."""
_MOST = 1024
"""Elements of a constant."""


@contextlib.contextmanager
def known_numbers(model: nn.Module, *, state: bool) -> Iterator[None]:
    """Inside, a number read out of a tensor is known if it is made of sizes and constants.

    Args:
        model: its small integer buffers are constants,
        state: unless it may write to them.
    """
    buffers = {} if state else {id(b): b.detach().clone() for b in model.buffers() if _is_constant(b)}
    record = _Record()
    dispatch, convert = FakeTensorMode.dispatch, FakeTensorMode.from_tensor

    def dispatched(
        mode: FakeTensorMode,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in READS_A_VALUE:
            known = record.known(args[0])
            if known is not None:
                return _number(known)
        result = dispatch(mode, func, types, args, kwargs or {})
        made = [r for r in pytree.tree_leaves(result) if isinstance(r, FakeTensor)]
        if made and all(_is_small(t) for t in made) and record.known(made[0]) is None:
            record.note(made, func, args, kwargs or {})
        return result

    def converted(mode: FakeTensorMode, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> FakeTensor:
        fake = convert(mode, tensor, *args, **kwargs)
        if id(tensor) in buffers:
            record.keep(fake, buffers[id(tensor)])
        return fake

    FakeTensorMode.dispatch = dispatched  # type: ignore[method-assign, assignment]
    FakeTensorMode.from_tensor = converted  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        FakeTensorMode.dispatch = dispatch  # type: ignore[method-assign]
        FakeTensorMode.from_tensor = convert  # type: ignore[method-assign]


class _Record:
    """What tensors hold; a write to one makes it unknown."""

    def __init__(self) -> None:
        self._held = WeakTensorKeyDictionary()

    def keep(self, tensor: torch.Tensor, known: _Known) -> None:
        """Notes what a tensor holds now; not where torch does not count the writes to it."""
        if not tensor.is_inference():
            self._held[tensor] = (tensor._version, known)

    def known(self, value: object) -> _Known | None:
        """What a tensor holds, if it is known."""
        if not isinstance(value, FakeTensor):
            return value if isinstance(value, torch.Tensor) and _is_constant(value) else None
        version, known = self._held.get(value, (None, None))
        return known if known is not None and version == value._version else value.constant

    def note(
        self,
        made: list[FakeTensor],
        func: torch._ops.OpOverload,
        args: Sequence[object],
        kwargs: Mapping[str, object],
    ) -> None:
        """Keeps what a call gives, if that follows from what its arguments are known to hold."""
        if func._schema.is_mutable or func in LEFT_OPEN or torch.Tag.nondeterministic_seeded in func.tags:
            return
        leaves, tree = pytree.tree_flatten((tuple(args), dict(kwargs)))
        tensors = {i: self.known(v) for i, v in enumerate(leaves) if isinstance(v, torch.Tensor)}
        if None in tensors.values():
            return
        values = [tensors.get(i, v) for i, v in enumerate(leaves)]
        if not any(isinstance(v, _SYMBOLIC) for v in values):
            arguments, options = pytree.tree_unflatten(values, tree)
            with no_dispatch():
                results = pytree.tree_leaves(func(*arguments, **options))
            constants = (r for r in results if isinstance(r, torch.Tensor))
            for tensor, constant in zip(made, constants, strict=True):
                self.keep(tensor, constant)
            return
        arguments, options = pytree.tree_unflatten(list(map(_number, values)), tree)
        known = _of_sizes(func, arguments, options, made[0].dtype)
        if known is not None and made[0].dim() == 0:
            self.keep(made[0], known)


def _is_small(tensor: torch.Tensor) -> bool:
    return all(isinstance(size, int) for size in tensor.shape) and tensor.numel() <= _MOST


def _is_constant(tensor: torch.Tensor) -> bool:
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    return whole and not tensor.is_meta and tensor.layout is torch.strided and _is_small(tensor)


def _number(known: object) -> Any:
    return known.item() if isinstance(known, torch.Tensor) and known.numel() == 1 else known


def _quotient(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """Integer division; to zero it is the one that rounds down where nothing is negative."""
    if rounding_mode == "floor" or (
        rounding_mode == "trunc" and statically_known_true(a >= 0) and statically_known_true(b > 0)
    ):
        return a // b
    return None


def _sum(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a + alpha * b


def _clamped(a: Any, low: Any = None, high: Any = None) -> Any:
    raised = a if low is None else torch.sym_max(a, low)
    return raised if high is None else torch.sym_min(raised, high)


def _unequal(a: Any, b: Any) -> Any:
    """`bool(x > 2)` asks whether the comparison is not 0."""
    return a if isinstance(a, torch.SymBool) and b == 0 else a != b


def _first(a: Any, *_: object, **__: object) -> Any:
    return a


def _second(_: object, a: Any, *__: object, **___: object) -> Any:
    return a


_ON_SIZES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        (
            "scalar_tensor", "clone", "detach", "alias", "lift_fresh", "lift_fresh_copy", "to", "_to_copy", "view",
            "reshape", "squeeze",
        ),
        _first,
    ),
    "full": _second, "full_like": _second,
    "add": _sum, "sub": lambda a, b, alpha=1: _sum(a, b, -alpha), "rsub": lambda a, b, alpha=1: _sum(b, a, -alpha),
    "mul": operator.mul, "neg": operator.neg, "floor_divide": operator.floordiv, "div": _quotient, "remainder": operator.mod,
    "maximum": torch.sym_max, "minimum": torch.sym_min, "clamp": _clamped, "clamp_min": _clamped,
    "clamp_max": lambda a, high: _clamped(a, None, high),
    "eq": operator.eq, "ne": _unequal, "bitwise_not": torch.sym_not,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip
"""Ops whose result for one number each is this function of them, in whole numbers."""


def _of_sizes(
    func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], dtype: torch.dtype
) -> torch.SymInt | torch.SymBool | None:
    """What a call gives for numbers made of sizes; None where that is no size."""
    function = _ON_SIZES.get(func._schema.name.removeprefix("aten::"))
    if function is None or any(isinstance(v, float) for v in args):
        return None
    known = function(*args, **kwargs)
    if isinstance(known, torch.SymInt if dtype is torch.int64 else torch.SymBool):
        return known
    return None
