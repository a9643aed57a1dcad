"""The long tail: ops without a rule of ours, by onnxscript's torchlib functions.

Each is a Python function over ONNX ops. It is run with values of the graph being recorded, under an
evaluator that records the ops it calls. Functions are looked up one by one: to list them all, torch takes
half a second a call.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from fxopt.errors import LoweringError
from fxopt.lowering.onnx.builder import Builder, Result
from fxopt.lowering.onnx.dtypes import onnx_type
from fxopt.ops.schema import bind

if TYPE_CHECKING:
    from fxopt.lowering.onnx.torchlib_recorder import Recorder

__all__ = ["knows", "lower_by_torchlib"]


def _function(op: torch._ops.OpOverload) -> Callable[..., object] | None:
    """The Python function for an op, or None."""
    importlib.import_module("onnxscript.function_libs.torch_lib.ops")
    from onnxscript.function_libs.torch_lib.registration import default_registry

    overload = "" if op._overloadname == "default" else f".{op._overloadname}"
    name = op._schema.name + overload
    if name not in default_registry:
        return None
    for function in default_registry[name].overloads:
        # Traced and scripted functions keep the Python function that they were made from.
        found: Callable[..., object] | None = getattr(function, "func", None) or getattr(
            function, "function", None
        )
        return found
    return None


def knows(op: torch._ops.OpOverload) -> bool:
    """Whether there is a function for the op."""
    return _function(op) is not None


def lower_by_torchlib(builder: Builder, node: Node) -> Result:
    """What stands for a call whose op a torchlib function lowers.

    Raises:
        LoweringError: the function refuses the call, or needs what is not offered.
    """
    from onnxscript import evaluator

    from fxopt.lowering.onnx.torchlib_recorder import Recorder

    op = node.target
    assert isinstance(op, torch._ops.OpOverload)
    function = _function(op)
    assert function is not None
    recorder = Recorder(builder)
    arguments = _arguments(node, function, recorder)
    try:
        with evaluator.default_as(recorder):
            result = function(**arguments)
    except LoweringError:
        raise
    except Exception as error:
        raise builder.error(f"onnxscript's function failed: {' '.join(str(error).split())[:200]}") from error
    if isinstance(result, (list, tuple)):
        return tuple(recorder.value(r) for r in result)
    return recorder.value(result)


def _arguments(node: Node, function: Callable[..., object], recorder: "Recorder") -> dict[str, object]:
    """The call's arguments as the function takes them, without those it does not know (device, layout)."""
    taken = inspect.signature(function).parameters
    given = {}
    bound = bind(node)
    first, own = next(iter(bound)), next(iter(taken))
    if first not in taken:
        # Some functions call their first parameter otherwise than the schema.
        bound = {own: bound.pop(first), **bound}
    for name, value in bound.items():
        if name not in taken or (value is None and taken[name].default is not inspect.Parameter.empty):
            continue
        given[name] = _argument(value, recorder)
    return given


def _argument(value: object, recorder: "Recorder") -> object:
    if isinstance(value, Node):
        return recorder.tensor(value)
    if isinstance(value, (list, tuple)):
        return [_argument(v, recorder) for v in value]
    if isinstance(value, torch.dtype):
        return onnx_type(value)
    return value
