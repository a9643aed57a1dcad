"""An ONNX graph while it is recorded: nodes, initializers, names, and the dtype of every value.

Equal calls are one node and equal constants one initializer, so that rules need not remember what they have
made. All names come from one namespace: ONNX has one for inputs, outputs, initializers and inner values.

>>> graph = Graph()
>>> x = graph.add_input("x", torch.float32)
>>> graph.op("Neg", x) == graph.op("Neg", x), graph.op("Abs", x) == graph.op("Neg", x)
(True, False)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from fxopt.lowering.onnx.dtypes import onnx_type, raw_bytes
from fxopt.lowering.onnx.kernels import data_inputs, output_dtypes, wider_dtype

__all__ = ["Attribute", "Body", "Graph", "Names", "OnnxNode", "Value"]

Value = str
"""The name of an ONNX value; "" stands for an optional input that is left out."""


class Names:
    """One namespace."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def unique(self, base: str) -> str:
        """`base`, or `base_1` and so on where it is taken."""
        name, i = base, self._next.get(base, 0)
        while name in self._taken:
            i += 1
            name = f"{base}_{i}"
        self._next[base] = i
        self._taken.add(name)
        return name


@dataclass
class OnnxNode:
    """A node to be: its outputs may still be renamed."""

    op_type: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: "dict[str, Attribute]"
    source: str
    """The fx node it stands for, for names."""
    module: str
    """The path of the module that the fx node comes from."""


@dataclass
class Body:
    """A graph within a node: one side of an If. It sees the values around it."""

    nodes: list[OnnxNode]
    outputs: list[tuple[Value, torch.dtype]]


Attribute = (
    int
    | float
    | str
    | bool
    | Sequence[int]
    | Sequence[float]
    | Sequence[str]
    | torch.dtype
    | torch.Tensor
    | Body
)


@dataclass
class Graph:
    """A recording. `source` and `module` say for which fx node the next nodes are made."""

    names: Names = field(default_factory=Names)
    nodes: list[OnnxNode] = field(default_factory=list)
    initializers: dict[Value, torch.Tensor] = field(default_factory=dict)
    four_bits: dict[Value, tuple[int, ...]] = field(default_factory=dict)
    """The shapes of initializers of 4-bit integers, which are stored two a byte."""
    dtypes: dict[Value, torch.dtype] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    source: str = ""
    module: str = ""
    _calls: dict[object, tuple[Value, ...]] = field(default_factory=dict)
    _constants: dict[object, Value] = field(default_factory=dict)

    def add_input(self, name: str, dtype: torch.dtype) -> Value:
        """A graph input."""
        value = self.names.unique(name)
        self.inputs.append(value)
        self.dtypes[value] = dtype
        return value

    def add_initializer(self, name: str, tensor: torch.Tensor) -> Value:
        """A stored tensor under (nearly) this name."""
        value = self.names.unique(name)
        self.initializers[value] = tensor
        self.dtypes[value] = tensor.dtype
        return value

    def constant(self, value: object, dtype: torch.dtype) -> Value:
        """A small stored tensor of a number, nested lists of numbers, or a tensor."""
        tensor = (
            value.detach().to(dtype) if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=dtype)
        )
        key = (dtype, tuple(tensor.shape), raw_bytes(tensor))
        if key not in self._constants:
            self._constants[key] = self.add_initializer("const", tensor)
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> Value:
        """A constant vector, i64[len(values)]."""
        return self.constant(list(values), torch.int64)

    def op(
        self, op_type: str, *inputs: Value, dtype: torch.dtype | None = None, **attributes: Attribute | None
    ) -> Value:
        """A node with one output.

        Args:
            op_type: of the default domain.
            inputs: values; "" leaves an optional input out.
            dtype: of the output, where it isn't the usual one for the op.
            attributes: those that are None are left out.
        """
        return self.ops(
            op_type, inputs, 1, dtypes=None if dtype is None else (dtype,), attributes=attributes
        )[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[Value],
        outputs: int,
        *,
        dtypes: Sequence[torch.dtype | None] | None = None,
        attributes: Mapping[str, Attribute | None] | None = None,
    ) -> tuple[Value, ...]:
        """A node with several outputs; see `op`."""
        given = {k: v for k, v in (attributes or {}).items() if v is not None}
        kinds = [self.dtypes.get(v) for v in inputs]
        data = data_inputs(op_type, kinds)
        dtype = kinds[data[0]] if data else None
        wide = wider_dtype(op_type, dtype) if dtype is not None else None
        if wide is None or dtype is None:
            return self._record(op_type, tuple(inputs), outputs, dtypes, given)
        cast = [self.cast(v, wide) if i in data else v for i, v in enumerate(inputs)]
        results = self._record(op_type, tuple(cast), outputs, dtypes, given)
        return tuple(self.cast(r, dtype) if self.dtypes.get(r) is wide else r for r in results)

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """The value in another dtype; itself if it has that one."""
        if self.dtypes.get(value) is dtype:
            return value
        return self._record("Cast", (value,), 1, (dtype,), {"to": onnx_type(dtype)})[0]

    def _record(
        self,
        op_type: str,
        inputs: tuple[Value, ...],
        outputs: int,
        dtypes: Sequence[torch.dtype | None] | None,
        attributes: dict[str, Attribute],
    ) -> tuple[Value, ...]:
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        key = (op_type, inputs, outputs, *((k, _hashable(v)) for k, v in sorted(attributes.items())))
        known = self._calls.get(key)
        if known is not None:
            return known
        values = tuple(self.names.unique(f"{self.source or 'v'}.{op_type}") for _ in range(outputs))
        kinds = dtypes or output_dtypes(op_type, [self.dtypes.get(v) for v in inputs], outputs)
        self.dtypes.update({v: k for v, k in zip(values, kinds, strict=True) if k is not None})
        self.nodes.append(OnnxNode(op_type, inputs, values, attributes, self.source, self.module))
        self._calls[key] = values
        return values


def _hashable(value: Attribute) -> object:
    """A key under which only equal attributes meet: `1`, `1.0` and `True` differ, as do `0.0` and `-0.0`."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, tuple(value.shape), raw_bytes(value))
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    return (type(value), repr(value))
