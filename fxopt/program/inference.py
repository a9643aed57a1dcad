"""Local shape inference: the value of one call from the values of its arguments, memoised.

Re-evaluating a graph costs 100 to 1,500 us a node on fake tensors; what changes is evaluated, nothing else,
and a call with the same op, literals, dtypes and symbolic shapes is looked up. Of an elementwise op one call is
evaluated for all shapes: the dtype of its result is that of the same literals and dtypes, its shape that of its
operands.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import disable_fake_tensor_cache
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fxopt.ops import check_taken, op_info
from fxopt.program.program import Program
from fxopt.program.recurrent import RECURRENT, whole_layers

__all__ = ["by_example", "fake_value", "infer_value", "is_data_dependent", "value_key"]

_Key = tuple[object, ...]


def value_key(value: object) -> object:
    """A hashable description of a value: dtype, symbolic shape, device of a tensor; a literal with its type.

    Python's keys collide (`1 == 1.0 == True`, `0.0 == -0.0`, `nan != nan`), so a literal's key is its type
    and text.
    """
    if isinstance(value, Node):
        return value_key(value.meta.get("val"))
    if isinstance(value, torch.Tensor):
        shape = tuple(value_key(d) for d in value.shape)
        return ("tensor", value.dtype, shape, str(value.device), value.layout)
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return ("sym", value.node.expr)
    if isinstance(value, (list, tuple)):
        return (type(value).__name__ in ("tuple", "Size"), *map(value_key, value))
    return (type(value), repr(value))


def fake_value(program: Program, tensor: torch.Tensor) -> torch.Tensor:
    """The fake twin of a weight in the program's mode."""
    return program.fake_mode.from_tensor(tensor.detach(), static_shapes=True)


def _values(argument: object) -> object:
    if isinstance(argument, Node):
        return argument.meta["val"]
    if isinstance(argument, (list, tuple)):
        return (
            type(argument)(map(_values, argument))
            if type(argument) in (list, tuple)
            else [_values(a) for a in argument]
        )
    return argument


@contextlib.contextmanager
def by_example(shape_env: ShapeEnv | None) -> Iterator[None]:
    """Inside, shape functions may decide by the example's sizes where a size varies, and no guard is noted.

    It holds within `shape_env.error_on_new_guards()` too, under which the code around the ops is run.
    """
    if shape_env is None:
        yield
        return
    strict = shape_env._error_on_new_guards
    shape_env._error_on_new_guards = False
    try:
        with shape_env.suppress_guards():
            yield
    finally:
        shape_env._error_on_new_guards = strict


def infer_value(
    program: Program, op: object, args: tuple[object, ...], kwargs: Mapping[str, object] | None = None
) -> object:
    """The `meta["val"]` of a call.

    Args:
        program: whose fake mode the values belong to.
        op: the target, an overload or a Python function on sizes.
        args: nodes and literals.
        kwargs: nodes and literals.

    Returns:
        A fake tensor, a tuple or list of them, or a (symbolic) number.

    Raises:
        Exception: what the op's own shape function raises for arguments that it does not take.
    """
    kwargs = kwargs or {}
    key = (op, *map(value_key, args), *((k, value_key(v)) for k, v in sorted(kwargs.items())))
    memo = _memo(program)
    if key in memo:
        return memo[key]
    mode = program.fake_mode
    values = [_values(a) for a in args]
    named = {k: _values(v) for k, v in kwargs.items()}
    elementwise = _Elementwise(memo, op, values, named) if _is_elementwise(op) else None
    result: object = None if elementwise is None else elementwise.value()
    if result is None:
        whole = whole_layers() if op in RECURRENT else contextlib.nullcontext()
        once = disable_fake_tensor_cache(
            mode
        )  # the memo keeps the types; torch's own cache costs as much again
        with torch.no_grad(), enable_python_dispatcher(), mode, by_example(mode.shape_env), whole, once:
            result = op(*values, **named)  # type: ignore[operator]
    check_taken(op, values, named, result)
    if elementwise is not None:
        elementwise.note(result)
    if not is_data_dependent(op):
        memo[key] = result
    return result


def _is_elementwise(op: object) -> bool:
    return isinstance(op, torch._ops.OpOverload) and op_info(op).elementwise


class _Elementwise:
    """A call of an elementwise op, which often has the type of one of its operands."""

    def __init__(
        self, memo: dict[_Key, object], op: object, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> None:
        given = [*args, *kwargs.values()]
        self._memo = memo
        self._tensors = [v for v in given if isinstance(v, torch.Tensor)]
        self._key = ("elementwise", op, *map(_but_shape, given), *kwargs)

    def value(self) -> torch.Tensor | None:
        """The operand that has the result's dtype and shape; None if there is none, or no call was evaluated."""
        dtype = self._memo.get(self._key)
        fitting = (t for t in self._tensors if t.dtype is dtype)
        return next((t for t in fitting if all(_broadcasts_to(o, t) for o in self._tensors)), None)

    def note(self, result: object) -> None:
        """A call was evaluated."""
        if isinstance(result, torch.Tensor):
            self._memo[self._key] = result.dtype


def _but_shape(value: object) -> object:
    """What of a value the dtype of an elementwise result may depend on: a tensor without axes gives way to others."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.dim() == 0, str(value.device), value.layout)
    return value_key(value)


def _broadcasts_to(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the two broadcast, and to the shape of the other, for every value of the sizes that vary."""
    if tensor is other:
        return True
    skipped = other.dim() - tensor.dim()
    return (
        skipped >= 0
        and tensor.device == other.device
        and all(
            (type(a) is int and a == 1) or value_key(a) == value_key(b)
            for a, b in zip(tensor.shape, other.shape[skipped:], strict=True)
        )
    )


def is_data_dependent(op: object) -> bool:
    """Whether each evaluation makes new symbols (nonzero, item), so that its value can't be shared."""
    return isinstance(op, torch._ops.OpOverload) and (
        torch.Tag.data_dependent_output in op.tags or torch.Tag.dynamic_output_shape in op.tags
    )


def _memo(program: Program) -> dict[_Key, object]:
    """The memo lives with the fake mode, which programs copied from one another share."""
    mode = program.fake_mode
    memo: dict[_Key, object] | None = getattr(mode, "_fxopt_memo", None)
    if memo is None:
        memo = {}
        mode._fxopt_memo = memo  # type: ignore[attr-defined]
    return memo
