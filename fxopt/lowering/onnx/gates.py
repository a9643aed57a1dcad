"""What a model must pass before anything is written: ONNX's own checker and strict shape inference."""

import math
from collections.abc import Iterable

import onnx
from onnx import helper

from fxopt.errors import LoweringError

__all__ = ["SMALL", "check_model", "content_size", "without_weights"]

SMALL = 1024
"""Bytes up to which a tensor is part of the graph: shape inference must see the shapes among them."""


def content_size(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's elements, without touching them: protobuf would serialize it to tell its size."""
    width: int = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims)) * width


def without_weights(model: onnx.ModelProto, beside: Iterable[onnx.TensorProto] = ()) -> onnx.ModelProto:
    """The same graph with its larger weights as inputs, for checks: they do not read weights, but would copy them.

    Args:
        model: the model; it stays as it is.
        beside: headers of weights that are not in it.
    """
    twin = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph, source = twin.graph, model.graph
    graph.name = source.name
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.initializer.extend(t for t in source.initializer if content_size(t) <= SMALL)
    for tensor in (*(t for t in source.initializer if content_size(t) > SMALL), *beside):
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return twin


def check_model(model: onnx.ModelProto) -> None:
    """Checks a model.

    Raises:
        LoweringError: ONNX's checker or its strict shape inference refuses it: the fault of a rule.
    """
    for what, check in (("checker", _check), ("strict shape inference", _infer)):
        try:
            check(model)
        except Exception as error:
            first = " ".join(str(error).split())[:300]
            raise LoweringError(f"ONNX's {what} refuses the lowered model: {first}") from error


def _check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)


def _infer(model: onnx.ModelProto) -> None:
    try:
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        # onnx 1.23 takes the elements of any vector for sizes: it sees an "invalid rank" in x[:, None] * y.
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
