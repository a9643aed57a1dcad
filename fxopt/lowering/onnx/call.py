"""`Call`: a node's arguments by schema name, in the type that a rule wants; and rules that use it."""

from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from fxopt.errors import LoweringError
from fxopt.lowering.onnx.builder import Builder, Result
from fxopt.lowering.onnx.graph import Value
from fxopt.lowering.target import lowering_rule
from fxopt.ops.info import op_key
from fxopt.ops.schema import bind
from fxopt.ops.sizes import Size

__all__ = ["Call", "Rule", "rule"]


class Call:
    """One call being lowered.

    Attributes:
        builder: what records it.
        node: the fx node.
        arguments: by schema name, defaults filled in.
    """

    def __init__(self, builder: Builder, node: Node) -> None:
        self.builder = builder
        self.node = node
        self.arguments = bind(node)

    def __getitem__(self, name: str) -> object:
        return self.arguments[name]

    def has(self, name: str) -> bool:
        """Whether an argument is there and not None."""
        return self.arguments.get(name) is not None

    @property
    def name(self) -> str:
        """The op's name without namespace and overload."""
        return op_key(self.node.target).split(".")[1]

    @property
    def first(self) -> str:
        """The name of the first argument."""
        return next(iter(self.arguments))

    @property
    def out(self) -> torch.Tensor:
        """The (fake) result, the first of several."""
        value = self.node.meta["val"]
        if isinstance(value, (list, tuple)):
            value = value[0]
        assert isinstance(value, torch.Tensor)
        return value

    @property
    def outs(self) -> list[torch.Tensor]:
        """The (fake) results of an op with several."""
        return list(self.node.meta["val"])

    def fake(self, name: str = "") -> torch.Tensor:
        """A tensor argument's (fake) value; by default the first argument's."""
        argument = self.arguments[name or self.first]
        value = argument.meta["val"] if isinstance(argument, Node) else None
        if not isinstance(value, torch.Tensor):
            raise self.error(f"{name or self.first} is no tensor")
        return value

    @property
    def rank(self) -> int:
        """The rank of the first argument."""
        return self.fake().dim()

    @property
    def shape(self) -> Sequence[Size]:
        """The shape of the first argument."""
        return tuple(self.fake().shape)

    @property
    def x(self) -> Value:
        """The first argument."""
        return self.tensor()

    def shape_of(self, name: str) -> Sequence[Size]:
        """The shape of a tensor argument."""
        return tuple(self.fake(name).shape)

    def tensor(self, name: str = "", dtype: torch.dtype | None = None) -> Value:
        """A tensor (or number) argument, cast to a dtype."""
        return self.builder.operand(self.arguments[name or self.first], dtype)

    def optional(self, name: str, dtype: torch.dtype | None = None) -> Value:
        """A tensor argument that may be missing: "" then."""
        return self.tensor(name, dtype) if self.has(name) else ""

    def nodes(self, name: str) -> list[Node]:
        """The tensors of a list argument."""
        argument = self.arguments[name]
        if not isinstance(argument, (list, tuple)) or not all(isinstance(a, Node) for a in argument):
            raise self.error(f"{name} is no list of tensors")
        return [a for a in argument if isinstance(a, Node)]

    def number(self, name: str) -> float | int | bool:
        """A literal number."""
        value = self.arguments[name]
        if not isinstance(value, (int, float, bool)):
            raise self.error(f"{name} must be a fixed number")
        return value

    def integer(self, name: str) -> int:
        """A literal integer."""
        value = self.arguments[name]
        if not isinstance(value, int):
            raise self.error(f"{name} must be a fixed integer")
        return value

    def integers(self, name: str) -> list[int]:
        """A literal list of integers."""
        value = self.arguments[name]
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, int) for v in value):
            raise self.error(f"{name} must be fixed integers")
        return [int(v) for v in value]

    def dim(self, name: str = "dim", *, rank: int | None = None) -> int:
        """A dimension, non-negative."""
        return self.integer(name) % max(self.rank if rank is None else rank, 1)

    def dims(self, name: str = "dim") -> list[int]:
        """Dimensions, non-negative and in order; all of them where the argument is missing or empty."""
        value = self.arguments.get(name)
        rank = max(self.rank, 1)
        if value is None or value == []:
            return list(range(self.rank))
        given = [value] if isinstance(value, int) else self.integers(name)
        return sorted(d % rank for d in given)

    def flag(self, name: str) -> bool:
        """A literal bool."""
        return bool(self.arguments.get(name))

    def text(self, name: str) -> str:
        """A literal string."""
        return str(self.arguments[name])

    def result_type(self, *names: str) -> torch.dtype:
        """The dtype that torch computes in for these operands."""
        stand_ins = [_stand_in(self.arguments[n]) for n in names]
        result = stand_ins[0]
        if len(names) == 1:
            return torch.result_type(result, result)
        dtype = torch.result_type(result, stand_ins[1])
        for other in stand_ins[2:]:
            dtype = torch.promote_types(dtype, torch.result_type(other, other))
        return dtype

    def promoted(self, *names: str, dtype: torch.dtype | None = None) -> list[Value]:
        """Operands in the dtype that torch computes in, or a given one."""
        dtype = dtype or self.result_type(*names)
        return [self.tensor(n, dtype) for n in names]

    def error(self, why: str) -> LoweringError:
        """An error that names this call."""
        return self.builder.error(why)


def _stand_in(argument: object) -> torch.Tensor | bool | int | float:
    value = argument.meta["val"] if isinstance(argument, Node) else argument
    if isinstance(value, torch.SymInt):
        return 1
    if isinstance(value, torch.SymFloat):
        return 1.0
    if isinstance(value, torch.SymBool):
        return True
    assert isinstance(value, (torch.Tensor, bool, int, float))
    return value


Rule = Callable[[Builder, Call], Result]


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Registers a rule of this package, written over a `Call`, for ops named as packet or overload."""

    def register(function: Rule) -> Rule:
        @lowering_rule("onnx", *ops)
        def lower(builder: Builder, node: Node) -> Result:
            return function(builder, Call(builder, node))

        return function

    return register
