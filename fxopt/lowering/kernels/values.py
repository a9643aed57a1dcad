"""What a kernel plan is made of: calls, and the forms that a value has between them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.fx import Node

__all__ = [
    "Integers",
    "Kernel",
    "KernelPlan",
    "Number",
    "Packed",
    "Part",
    "Step",
    "Value",
    "node_of",
    "operands_of",
    "result_of",
]


@dataclass(frozen=True)
class Integers:
    """A rounded value as a quantized tensor of torch's; the node by itself is the same value in floats."""

    node: Node


@dataclass(frozen=True)
class Part:
    """A value on the way to a node's, other than its integers."""

    node: Node


@dataclass(frozen=True)
class Number:
    """What a tensor of one element holds, as a Python number."""

    node: Node
    kind: str
    """"float" or "int"."""
    least: float | None = None
    """The number is no less than this."""

    def text(self, tensor: str) -> str:
        """The number in Python and in TorchScript, of the tensor's variable."""
        number = f"{self.kind}({tensor})"
        return number if self.least is None else f"max({number}, {self.least!r})"


@dataclass(frozen=True)
class Packed:
    """Weight and bias of a product, in the layout that a kernel reads; weights by their names in the program.

    Attributes:
        kind: "linear", "conv1d", "conv2d" or "conv3d".
        weight: int8, output channels first, or last with `transposed`.
        scale: one number, or one an output channel.
        bias: "" for none; floats, or int32 in units of `bias_scale`.
        bias_scale: "" for a bias of floats.
        transposed: the weight is a matrix `[in, out]`.
        geometry: of a convolution: stride, padding, dilation.
        groups: of a convolution.
    """

    kind: str
    weight: str
    scale: str
    bias: str = ""
    bias_scale: str = ""
    transposed: bool = False
    geometry: tuple[tuple[int, ...], ...] = ()
    groups: int = 1


Value = Node | Integers | Part
"""What a step computes."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """One call that stands for calls of the program.

    Attributes:
        result: what it gives.
        op: the overload.
        args: values (a node for floats), `Number`, `Packed`, literals, and lists of them.
        origin: the call of the program that it is named after.
    """

    result: Value
    op: torch._ops.OpOverload
    args: tuple[object, ...]
    origin: Node


Step = Node | Kernel
"""A call of the program as it is, or one that stands for some."""


@dataclass
class KernelPlan:
    """The steps that compute a program.

    Attributes:
        steps: in order: calls of the program as they are, and kernels.
        floats: products of integer weights that stay in float, and why.
        integer: the products that became kernels.
    """

    steps: list[Step] = field(default_factory=list)
    floats: dict[Node, str] = field(default_factory=dict)
    integer: list[Node] = field(default_factory=list)

    def packed(self) -> list[Packed]:
        """The packed weights, each once, in the order of their use."""
        found = (a for s in self.steps if isinstance(s, Kernel) for a in s.args if isinstance(a, Packed))
        return list(dict.fromkeys(found))


def node_of(value: Value) -> Node:
    """The node that a value is of."""
    return value if isinstance(value, Node) else value.node


def result_of(step: Step) -> Value:
    """What a step computes."""
    return step.result if isinstance(step, Kernel) else step


def operands_of(step: Step) -> list[Value]:
    """What a step reads."""
    return list(_values(step.args)) if isinstance(step, Kernel) else list(step.all_input_nodes)


def _values(argument: object) -> Iterator[Value]:
    if isinstance(argument, (Node, Integers, Part)):
        yield argument
    elif isinstance(argument, Number):
        yield argument.node
    elif isinstance(argument, (list, tuple)):
        for item in argument:
            yield from _values(item)
