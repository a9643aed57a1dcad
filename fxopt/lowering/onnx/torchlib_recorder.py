"""The evaluator under which torchlib functions run: each op they call becomes a node of the graph."""

import functools
from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir
import torch
from onnxscript import evaluator
from torch.fx import Node

from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.dtypes import onnx_type, torch_dtype
from fxopt.lowering.onnx.graph import Attribute, Value

__all__ = ["RecordedValue", "Recorder"]

_CHANGED = {"DFT": 20, "GridSample": 20, "GroupNormalization": 21}
"""Ops that the functions, written for opset 18, use in a way that this later opset changed."""


class RecordedValue(ir.Value):
    """A value as the functions see it: name, dtype, shape as far as known, and Python's operators."""

    def __init__(self, recorder: "Recorder", name: Value, shape: Sequence[object] | None = None) -> None:
        dtype = recorder.builder.graph.dtypes.get(name)
        super().__init__(
            name=name,
            shape=None if shape is None else ir.Shape([d if isinstance(d, int) else None for d in shape]),
            type=None if dtype is None else ir.TensorType(ir.DataType(onnx_type(dtype))),
        )
        self.recorder = recorder

    @property
    def rank(self) -> int | None:
        """How many axes there are, if known."""
        return None if self.shape is None else len(self.shape)

    def _with(self, op_type: str, *operands: object, **attributes: int) -> "RecordedValue":
        result = self.recorder.call(onnx.defs.get_schema(op_type, 18), operands, attributes)
        assert isinstance(result, RecordedValue)
        return result

    def __mod__(self, other: object) -> "RecordedValue":
        floating = self.dtype is not None and self.dtype.is_floating_point()
        return self._with("Mod", self, other, **({"fmod": 1} if floating else {}))

    def __ne__(self, other: object) -> "RecordedValue":  # type: ignore[override]
        return self._with("Not", self._with("Equal", self, other))

    def __neg__(self) -> "RecordedValue":
        return self._with("Neg", self)

    def __bool__(self) -> bool:
        """A branch or a loop over values has no graph to be recorded in.

        Raises:
            LoweringError: always; the alternative is one branch for all values, or a loop that never ends.
        """
        raise self.recorder.builder.error("onnxscript's function branches on a computed value (If or Loop)")

    __hash__ = ir.Value.__hash__


def _binary(op_type: str, *, reflected: bool = False) -> object:
    def operate(self: RecordedValue, other: object) -> RecordedValue:
        return self._with(op_type, other, self) if reflected else self._with(op_type, self, other)

    return operate


for _method, _op_type in (
    ("add", "Add"), ("mul", "Mul"), ("sub", "Sub"), ("truediv", "Div"), ("pow", "Pow"), ("matmul", "MatMul"),
    ("lt", "Less"), ("le", "LessOrEqual"), ("gt", "Greater"), ("ge", "GreaterOrEqual"), ("and", "And"),
    ("or", "Or"),
):  # fmt: skip
    setattr(RecordedValue, f"__{_method}__", _binary(_op_type))
    if _method in ("add", "mul", "sub", "and", "or"):
        setattr(RecordedValue, f"__r{_method}__", _binary(_op_type, reflected=True))


class Recorder(evaluator.Evaluator):
    """Records into a builder's graph."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def tensor(self, node: Node) -> RecordedValue:
        """A node's value for a function: a tensor, or a computed number without dimensions."""
        fake = node.meta["val"]
        if isinstance(fake, torch.Tensor):
            return RecordedValue(self, self.builder.value(node), tuple(fake.shape))
        return RecordedValue(self, self.builder.number(node), ())

    def value(self, result: object) -> Value:
        """The value that a function returned."""
        if isinstance(result, RecordedValue):
            return str(result.name)
        if isinstance(result, (bool, int, float)):
            return self.builder.operand(result)
        raise self.builder.error(f"onnxscript's function returned {type(result).__name__}")

    def eval_op(self, op: object, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """Called by onnxscript for each op."""
        return self.call(op.op_schema, args, kwargs)  # type: ignore[attr-defined]

    def eval_function(self, function: object, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """Called by onnxscript for functions that call others: run in Python as well."""
        return function.function(*args, **kwargs)  # type: ignore[attr-defined]

    def call(
        self, schema: onnx.defs.OpSchema, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> RecordedValue | tuple[RecordedValue, ...]:
        """Records one op."""
        inputs = list(args)
        attributes: dict[str, object] = {
            k: v for k, v in kwargs.items() if k in schema.attributes and v is not None
        }
        inputs += [kwargs[p.name] for p in schema.inputs[len(inputs) :] if p.name in kwargs]
        if schema.name == "Constant":
            return RecordedValue(self, self._constant(attributes))
        if self.builder.opset >= _CHANGED.get(schema.name, 99):
            raise self.builder.error(
                f"onnxscript's function uses {schema.name} as before opset {_CHANGED[schema.name]}"
            )
        values = self._inputs(schema, inputs)
        outputs = _output_count(schema, attributes)
        plain = {k: self._attribute(v) for k, v in attributes.items()}
        target = plain.get("to")
        kinds = [torch_dtype(target)] if isinstance(target, int) else None
        names = self.builder.graph.ops(schema.name, values, outputs, dtypes=kinds, attributes=plain)
        results = tuple(RecordedValue(self, name) for name in names)
        return results[0] if outputs == 1 else results

    def _inputs(self, schema: onnx.defs.OpSchema, inputs: Sequence[object]) -> list[Value]:
        """Tensors, and Python's numbers and lists as constants in the dtype that the op wants."""
        known: dict[str, torch.dtype] = {}
        kinds = [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in range(len(inputs))]
        for kind, value in zip(kinds, inputs, strict=True):
            if isinstance(value, RecordedValue):
                known.setdefault(kind, self.builder.dtype(str(value.name)))
        return [self._input(v, known.get(k, _named(k))) for k, v in zip(kinds, inputs, strict=True)]

    def _input(self, value: object, dtype: torch.dtype | None) -> Value:
        if value is None:
            return ""
        if isinstance(value, RecordedValue):
            return str(value.name)
        if isinstance(value, (list, tuple)) and any(isinstance(v, RecordedValue) for v in value):
            flat = self.builder.ints([-1])
            parts = [self.builder.op("Reshape", self._input(v, dtype or torch.int64), flat) for v in value]
            return self.builder.op("Concat", *parts, axis=0)
        if isinstance(value, (ir.TensorProtocol, onnx.TensorProto)):
            return self._constant({"value": value})
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        usual = (
            torch.bool
            if isinstance(first, bool)
            else torch.float32
            if isinstance(first, float)
            else torch.int64
        )
        return self.builder.constant(value, dtype or usual)

    def _constant(self, attributes: Mapping[str, object]) -> Value:
        ((name, value),) = attributes.items()
        if name == "value":
            tensor = self._attribute(value)
            assert isinstance(tensor, torch.Tensor)
            return self.builder.constant(tensor, tensor.dtype)
        return self.builder.constant(value, torch.int64 if "int" in name else torch.float32)

    def _attribute(self, value: object) -> Attribute:
        if isinstance(value, ir.TensorProtocol):
            return torch.from_numpy(value.numpy().copy())
        if isinstance(value, onnx.TensorProto):
            return torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
        if isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)) and all(isinstance(v, (int, float, str)) for v in value):
            return list(value)
        raise self.builder.error("onnxscript's function uses an op with a body (If, Loop or Scan)")


@functools.cache
def _named(kind: str) -> torch.dtype | None:
    """The dtype of a schema's fixed type, `tensor(int64)`; None for a type variable."""
    names = {"tensor(int64)": torch.int64, "tensor(float)": torch.float32, "tensor(bool)": torch.bool}
    return names.get(kind)


def _output_count(schema: onnx.defs.OpSchema, attributes: Mapping[str, object]) -> int:
    if schema.name == "Split":
        count = attributes.get("num_outputs")
        assert isinstance(count, int)
        return count
    if schema.name in ("BatchNormalization", "MaxPool", "LayerNormalization", "Dropout"):
        return 1
    return len(schema.outputs)
