"""`Builder`: what a lowering rule writes with; it knows the program, its nodes' values, sizes and weights.

A rule takes `(builder, node)` and returns the value that stands for the node, a tuple of them for an op with
several results. A user's rule for an op of theirs:

    @fxopt.lowering_rule("onnx", "mylib.scale")
    def scale(builder, node):
        x, factor = node.args
        return builder.op("Mul", builder.operand(x, torch.float32), builder.operand(factor, torch.float32))
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from fxopt.errors import LoweringError
from fxopt.lowering.few_bits import Few, few_bits, packed_bits
from fxopt.lowering.onnx.dtypes import is_float
from fxopt.lowering.onnx.graph import Attribute, Graph, Value
from fxopt.lowering.onnx.kernels import lacks_kernel
from fxopt.lowering.onnx.sizes import Sizes, UnknownSizeError, aligned
from fxopt.ops.info import op_key
from fxopt.ops.sizes import Size
from fxopt.program.program import Program, origins_of

__all__ = ["FOUR_BITS", "Builder", "NoKernelError", "Result", "place_of"]

FOUR_BITS = 21
"""The first opset whose DequantizeLinear takes integers of 4 bits."""

Result = Value | tuple[Value, ...]
"""What stands for a node: a value, or one for each of its results."""
_SMALL = 4096
"""Elements up to which a constant is stored instead of computed when the file runs."""


class NoKernelError(LoweringError):
    """A rule wrote an op that onnxruntime has no kernel for; the lowering tries the call's parts."""


def place_of(node: Node) -> str:
    """` (module layer1.conv, model.py:12)` for messages; empty if unknown."""
    origins = origins_of(node)
    if not origins:
        return ""
    origin = origins[0]
    parts = [f"module {origin.module}"] if origin.module else []
    if origin.file:
        parts.append(f"{origin.file.rsplit('/', 1)[-1]}:{origin.line}")
    return f" ({', '.join(parts)})" if parts else ""


class Builder:
    """Records the ONNX graph of one program.

    Attributes:
        program: what is lowered.
        opset: the version of ONNX's operators to use, 18 to 23.
        graph: the recording.
        sizes: symbolic sizes as values.
        notes: for the report, in order.
    """

    def __init__(self, program: Program, opset: int) -> None:
        self.program = program
        self.opset = opset
        self.graph = Graph()
        self.sizes = Sizes(self.graph)
        self.notes: list[str] = []
        self.node: Node | None = None
        self._few = few_bits(program)
        self._values: dict[Node, Result] = {}
        self._stored: dict[tuple[object, ...], Value] = {}
        self._transposed: dict[Value, tuple[Value, Sequence[int]]] = {}
        """What each transposed value was made of, and in what order."""
        self._reshaped: dict[Value, tuple[Value, Sequence[Size], Sequence[Size]]] = {}
        """What each value that was given a constant shape was made of, its shape before and after."""
        self._unsqueezed: dict[Value, tuple[Value, Sequence[int]]] = {}
        """What each value with axes of size 1 was made of, and the axes."""
        self._sliced: dict[Value, tuple[Value, dict[int, tuple[int, int, int]]]] = {}
        """What each value that was cut was made of, and from where to where in what steps, by axis."""
        self._padded: dict[Value, tuple[Value, Sequence[int], Sequence[int]]] = {}
        """What each value with zeros around it was made of, and how many before and after each axis."""
        self._negated: dict[Value, Value] = {}
        """What each negation is of."""

    def enter(self, node: Node) -> None:
        """Says for which node the next calls are made."""
        self.node = node
        self.graph.source = f"v_{node.name}"
        origins = origins_of(node)
        self.graph.module = origins[0].module if origins else ""

    def bind(self, node: Node, result: Result) -> None:
        """Notes what stands for a node, and what its sizes tell."""
        self._values[node] = result
        fakes = node.meta.get("val")
        results = (result,) if isinstance(result, str) else result
        for value, fake in zip(
            results, fakes if isinstance(fakes, (list, tuple)) else (fakes,), strict=False
        ):
            if isinstance(fake, torch.Tensor) and value:
                self.graph.dtypes.setdefault(value, fake.dtype)
                self.sizes.learn(value, fake.shape, derived=node.op != "placeholder")

    def result(self, node: Node) -> Result:
        """What stands for a node."""
        return self._values[node]

    def value(self, node: Node) -> Value:
        """The value that stands for a node with one result."""
        result = self._values[node]
        if not isinstance(result, str):
            raise self.error("a tensor is expected where a list of them is given")
        return result

    def weight(self, node: Node) -> Value:
        """The initializer of a `get_attr` node; one per distinct weight."""
        name = str(node.target)
        tensor = self.program.weights[name]
        if tensor.is_meta:
            raise LoweringError(f"the weight {name!r} is on the meta device: it has no values to store")
        return self.graph.add_initializer(name, tensor)

    def four_bits(self, argument: object) -> Value:
        """The initializer of a weight of 4 bits or less around zero, which ONNX has a type for from opset 21; "" for none."""
        name = str(argument.target) if isinstance(argument, Node) and argument.op == "get_attr" else ""
        few = self._few.get(name)
        if few is None or not few.signed or self.opset < FOUR_BITS:
            return ""
        tensor = self.program.weights[name]
        value = self.stored(name, lambda: packed_bits(tensor, Few(4, signed=True)), of=("4 bits",))
        self.graph.four_bits[value] = tuple(tensor.shape)
        return value

    def weight_of(self, argument: object) -> torch.Tensor | None:
        """The tensor of an argument that is a weight, else None."""
        if isinstance(argument, Node) and argument.op == "get_attr":
            return self.program.weights[str(argument.target)]
        return None

    def stored(self, name: str, make: Callable[[], torch.Tensor], *, of: tuple[object, ...] = ()) -> Value:
        """An initializer computed from weights, made once for its name and what it is made `of`."""
        key = (name, *of)
        if key not in self._stored:
            self._stored[key] = self.graph.add_initializer(name, make())
        return self._stored[key]

    def error(self, why: str) -> LoweringError:
        """An error that names the op being lowered and its place."""
        if self.node is None:
            return LoweringError(why)
        return LoweringError(
            f"{op_key(self.node.target)} can't be lowered to onnx: {why}{place_of(self.node)}"
        )

    # Nodes and constants

    def op(
        self, op_type: str, *inputs: Value, dtype: torch.dtype | None = None, **attributes: Attribute | None
    ) -> Value:
        """A node with one output; equal calls give the same value. See `Graph.op`."""
        if op_type == "Where" and inputs[0] in self._negated:
            condition, chosen, other = inputs
            inputs = self._negated[condition], other, chosen
        self._check_kernel(op_type, inputs)
        result = self.graph.op(op_type, *inputs, dtype=dtype, **attributes)
        if op_type == "Not":
            self._negated[result] = inputs[0]
        return result

    def ops(
        self, op_type: str, *inputs: Value, outputs: int, **attributes: Attribute | None
    ) -> tuple[Value, ...]:
        """A node with several outputs."""
        self._check_kernel(op_type, inputs)
        return self.graph.ops(op_type, inputs, outputs, attributes=attributes)

    def _check_kernel(self, op_type: str, inputs: Sequence[Value]) -> None:
        if lacks_kernel(op_type, [self.graph.dtypes.get(v) for v in inputs]):
            why = f"onnxruntime has no {op_type} of float64: lower the float32 model (model.float())"
            raise NoKernelError(str(self.error(why)))

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """The value in a dtype; itself if it has it."""
        return self.graph.cast(value, dtype)

    def constant(self, value: object, dtype: torch.dtype) -> Value:
        """A constant of a number, nested lists or a tensor."""
        return self.graph.constant(value, dtype)

    def like(self, number: object, value: Value) -> Value:
        """A number in the dtype of a value, as a 0-dimensional constant."""
        return self.graph.constant(number, self.dtype(value))

    def ints(self, values: Sequence[int]) -> Value:
        """A constant i64 vector."""
        return self.graph.ints(values)

    def dtype(self, value: Value) -> torch.dtype:
        """The dtype of a value."""
        return self.graph.dtypes[value]

    # Arguments

    def operand(self, argument: object, dtype: torch.dtype | None = None) -> Value:
        """A tensor, a number or a computed number as a tensor value.

        Args:
            argument: a node or a literal.
            dtype: what to cast it to; None leaves a tensor as it is.
        """
        if not isinstance(argument, Node):
            return self._literal(argument, dtype)
        fake = argument.meta.get("val")
        value = self.value(argument) if isinstance(fake, torch.Tensor) else self.number(argument)
        return value if dtype is None else self.cast(value, dtype)

    def _literal(self, argument: object, dtype: torch.dtype | None) -> Value:
        if not isinstance(argument, (bool, int, float)):
            raise self.error(f"{argument!r} is no tensor and no number")
        if dtype is None:
            dtype = (
                torch.bool
                if isinstance(argument, bool)
                else torch.int64
                if isinstance(argument, int)
                else torch.float32
            )
        if isinstance(argument, float) and not is_float(dtype):
            argument = int(argument) if dtype is not torch.bool else bool(argument)
        return self.constant(argument, dtype)

    def number(self, argument: object) -> Value:
        """A computed number (a size, or arithmetic on sizes) as a 0-dimensional value."""
        if isinstance(argument, Node):
            vector = self.value(argument)
            return self.op("Squeeze", vector, self.ints([0]))
        return self._literal(argument, None)

    # Shapes

    def size(self, size: Size) -> Value:
        """A size as i64[1]."""
        try:
            return self.sizes.value(size)
        except UnknownSizeError as unknown:
            raise self.error(f"the size {unknown} can't be computed from the inputs") from None

    def scalar(self, size: Size) -> Value:
        """A size as i64[]."""
        return (
            self.op("Squeeze", self.size(size), self.ints([0]))
            if isinstance(size, torch.SymInt)
            else self.constant(int(size), torch.int64)
        )

    def places(self, size: Size) -> Value:
        """0, 1, ... below a size, i64[size]; a constant if the size does not vary."""
        if isinstance(size, int) and size <= _SMALL:
            return self.ints(range(size))
        zero, one = (self.constant(v, torch.int64) for v in (0, 1))
        return self.op("Range", zero, self.scalar(size), one)

    def shape(self, sizes: Sequence[Size]) -> Value:
        """A shape as an i64 vector."""
        try:
            return self.sizes.shape(sizes)
        except UnknownSizeError as unknown:
            raise self.error(f"the size {unknown} can't be computed from the inputs") from None

    def reshape(self, value: Value, old: Sequence[Size], new: Sequence[Size]) -> Value:
        """Reshapes with as constant a shape as sizes allow: 0 copies an axis, one -1 takes the rest."""
        same = aligned(old, new)
        if len(old) == len(new) and all(same):
            return value
        stored = self.graph.initializers.get(value)
        if stored is not None and stored.numel() <= _SMALL and all(isinstance(n, int) for n in new):
            return self.stored(f"{value}.reshaped", lambda: stored.reshape(list(new)), of=tuple(new))
        if any(isinstance(s, int) and s == 0 for s in new):
            return self.op("Reshape", value, self.shape(new), allowzero=1)
        target: list[int] = []
        for size, kept in zip(new, same, strict=True):
            target.append((0 if kept else -1) if isinstance(size, torch.SymInt) else int(size))
        if target.count(-1) > 1:
            return self.op("Reshape", value, self.shape(new))
        result = self.op("Reshape", value, self.ints(target))
        self._reshaped[result] = value, old, new
        return result

    def expand(self, value: Value, old: Sequence[Size], new: Sequence[Size]) -> Value:
        """Broadcasts; an axis that keeps its size is given as 1, which leaves it."""
        pad = len(new) - len(old)
        same = [False] * pad + aligned(old, new[pad:])
        if all(same):
            return value
        return self.op(
            "Expand", value, self.shape([1 if kept else size for size, kept in zip(new, same, strict=True)])
        )

    def unsqueeze(self, value: Value, *axes: int) -> Value:
        """Adds axes of size 1, with those that the value was given before."""
        if not axes:
            return value
        if value in self._reshaped and min(axes) >= 0:
            source, old, new = self._reshaped[value]
            sizes = iter(new)
            return self.reshape(
                source, old, [1 if a in axes else next(sizes) for a in range(len(new) + len(axes))]
            )
        source, before = self._unsqueezed.get(value, (value, ()))
        if min(*axes, *before, 0) < 0:  # from the end, which moves with each that is added
            return self.op("Unsqueeze", value, self.ints(axes))
        kept = itertools.filterfalse(axes.__contains__, itertools.count())
        moved = dict(zip(range(max(before, default=-1) + 1), kept, strict=False))
        together = sorted((*axes, *(moved[a] for a in before)))
        result = self.op("Unsqueeze", source, self.ints(together))
        self._unsqueezed[result] = source, together
        return result

    def pad_zeros(self, value: Value, before: Sequence[int], after: Sequence[int]) -> Value:
        """Puts zeros before and after each axis."""
        result = self.op("Pad", value, self.ints([*before, *after]), mode="constant")
        self._padded[result] = value, before, after
        return result

    def unpadded(self, value: Value, spatial: int) -> tuple[Value, list[int]]:
        """What was padded with zeros along the last axes alone, and by how much, as a convolution's `pads`."""
        source, before, after = self._padded.get(value, (value, (), ()))
        if any(before[:-spatial]) or any(after[:-spatial]) or not before:
            return value, [0] * 2 * spatial
        return source, [*before[-spatial:], *after[-spatial:]]

    def squeeze(self, value: Value, *axes: int) -> Value:
        """Removes axes of size 1."""
        return self.op("Squeeze", value, self.ints(axes)) if axes else value

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Permutes axes, those of a transposed value from where they were; itself if nothing moves."""
        source, before = self._transposed.get(value, (value, range(len(order))))
        composed = [before[d] for d in order]
        if composed == sorted(composed):
            return source
        result = self.op("Transpose", source, perm=composed)
        self._transposed[result] = source, composed
        return result

    def slice(self, value: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
        """Elements `start` to `end` of an axis, with those of other axes that were taken before."""
        source, before = self._sliced.get(value, (value, {}))
        if axis in before:
            source, before = value, {}
        taken = {**before, axis: (start, end, step)}
        starts, ends, steps = zip(*taken.values(), strict=True)
        given = (self.ints(starts), self.ints(ends), self.ints([*taken]))
        result = self.op("Slice", source, *given, *((self.ints(steps),) if {*steps} != {1} else ()))
        self._sliced[result] = source, taken
        return result
