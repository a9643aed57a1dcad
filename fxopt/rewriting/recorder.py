"""Recording a plain function as a canonical graph: patterns pass through the same door as programs.

The function runs on fake tensors under a mode on torch's PreDispatch key, where composite ops are still
whole. A run costs about a millisecond, a `make_fx` trace of the same function ten. Where a size varies, the
function must hold for all its values: a branch on the example's size is an error.
"""

import contextlib
import operator
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv, _ShapeEnvGuardError
from torch.utils._python_dispatch import TorchDispatchMode

from fxopt.ops import canonical_arguments, check_taken, is_mutating, op_key
from fxopt.ops.spelling import canonical_call
from fxopt.program import Program, infer_value
from fxopt.program.inference import by_example
from fxopt.rewriting.quiet import quiet

__all__ = ["Recording", "RecordingError", "is_size_question", "record", "size_question"]

_Call = tuple[object, tuple[object, ...], Mapping[str, object], object]
"""Op, arguments and result."""


class RecordingError(Exception):
    """A function can't be recorded on these values.

    It raises, writes in place, branches on a size that varies, or makes tensors out of nothing.
    """


class _Recorder(ProxyTorchDispatchMode):
    """Notes every call on the PreDispatch key and runs it as it is.

    torch admits only its own infra modes on that key, hence the base class; nothing of its tracing is used.
    """

    def __init__(self, shape_env: ShapeEnv) -> None:
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)
        self._mode_key = torch._C._TorchDispatchModeKey.PROXY
        self.shape_env = shape_env
        self.calls: list[_Call] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if is_mutating(func):  # before it runs: the values are those of the program's own nodes
            raise RecordingError(f"{op_key(func)} writes in place")
        with by_example(self.shape_env):
            out = func(*args, **(kwargs or {}))
        check_taken(func, args, kwargs or {}, out)
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def __sym_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> object:
        return func(*args, **kwargs)

    def __enter__(self) -> "_Recorder":
        TorchDispatchMode.__enter__(self)
        return self

    def __exit__(self, *exc: object) -> None:
        TorchDispatchMode.__exit__(self, *exc)


@dataclass
class Recording:
    """A function as a graph: one placeholder a tensor argument, its results in order.

    Sizes that come from symbolic shapes stand in the arguments as `SymInt`.
    """

    graph: Graph
    placeholders: dict[str, Node]
    outputs: list[object]

    def __post_init__(self) -> None:
        self.calls = [n for n in self.graph.nodes if n.op == "call_function"]
        """The calls that the results need, in order."""


def record(program: Program, function: Callable[..., object], values: Mapping[str, object]) -> Recording:
    """Runs a function on fake values and returns its canonical graph, dead calls removed.

    Args:
        program: whose fake mode the values belong to.
        function: called with `values` by position.
        values: fake tensors, literals or None by argument name, in the function's order.

    Raises:
        RecordingError: the function raises, or does what no graph can hold.
    """
    shape_env = program.fake_mode.shape_env
    assert shape_env is not None
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Raw Sym", UserWarning
        )  # sizes stand in a recording, not in a program
        try:
            calls, result = _run(program, function, values, shape_env.error_on_new_guards())
        except _ShapeEnvGuardError as error:
            if not _asked_by_torch(error):
                raise RecordingError(size_question(error)) from error
            # Checks in torch's own Python functions, such as group_norm's, go by the example, as in tracing.
            calls, result = _run(program, function, values, by_example(shape_env))
        return _Build(program, values).build(calls, result)


def is_size_question(error: Exception) -> bool:
    """Whether an exception says that a branch on a size that varies was not decided."""
    return isinstance(error, _ShapeEnvGuardError)


def size_question(error: Exception) -> str:
    """What was asked of a size that varies, from torch's error."""
    asked = str(error).rsplit(": ", 1)[-1].rsplit(" == ", 1)[0]
    return f"it branches on a size that varies ({asked})"


def _run(
    program: Program,
    function: Callable[..., object],
    values: Mapping[str, object],
    sizes: contextlib.AbstractContextManager[None],
) -> tuple[list[_Call], object]:
    mode = program.fake_mode
    assert mode.shape_env is not None
    recorder = _Recorder(mode.shape_env)
    with torch.no_grad(), enable_python_dispatcher(), mode, sizes, recorder:
        try:
            result = function(*values.values())
        except (_ShapeEnvGuardError, RecordingError):
            raise
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RecordingError(first) from error
    return recorder.calls, result


def _asked_by_torch(error: Exception) -> bool:
    """Whether it is torch's own Python code, rather than the function, that asks for a size."""
    files = [f.filename.replace("\\", "/") for f in traceback.extract_tb(error.__traceback__)]
    asking = [f for f in files if not f.endswith("torch/__init__.py") and "/torch/fx/experimental/" not in f]
    asking = [f for f in asking if not f.endswith("torch/utils/_config_module.py")]
    return "/torch/" in asking[-1] if asking else True


class _Build:
    def __init__(self, program: Program, values: Mapping[str, object]) -> None:
        self.program = program
        self.graph = Graph()
        self.env: dict[int, object] = {}
        # torch's factories (zeros_like, full) hand out another object over the memory that the op made
        self.memory: dict[object, object] = {}
        self.placeholders: dict[str, Node] = {}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                node = self.graph.placeholder(name)
                node.meta = {"val": value}
                self.placeholders[name] = node
                self.env[id(value)] = node

    def build(self, calls: Sequence[_Call], result: object) -> Recording:
        for op, args, kwargs, out in calls:
            mapped = tuple(self._map(a) for a in args)
            named = {k: self._map(v) for k, v in kwargs.items()}
            self._bind(out, canonical_call(self._emit, op, mapped, named, out))
        results = result if isinstance(result, (tuple, list)) else (result,)
        outputs = [self._map(r) for r in results]
        self.graph.output(tuple(outputs))  # type: ignore[arg-type]
        for node in reversed(list(self.graph.nodes)):
            if node.op == "call_function" and not node.users:
                self.graph.erase_node(node)
        return Recording(self.graph, self.placeholders, outputs)

    def _bind(self, out: object, node: object) -> None:
        if isinstance(out, torch.Tensor):
            self.env[id(out)] = node
            self.memory[_memory(out)] = node
        elif isinstance(out, (tuple, list)):
            for i, item in enumerate(out):
                if isinstance(item, torch.Tensor):
                    assert isinstance(node, Node)
                    getitem = self.graph.call_function(operator.getitem, (node, i))
                    getitem.meta = {"val": item}
                    self.env[id(item)] = getitem

    def _map(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            known = self.env.get(id(value))
            known = self.memory.get(_memory(value)) if known is None else known
            if known is None:
                raise RecordingError("it uses a tensor that is neither an argument nor computed from one")
            return known
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)(self._map(v) for v in value)
        return value

    def _emit(
        self,
        op: object,
        args: tuple[object, ...],
        kwargs: dict[str, object] | None = None,
        *,
        value: object = None,
    ) -> Node:
        if isinstance(op, torch._ops.OpOverload):
            args, kwargs = canonical_arguments(op, args, kwargs or {})
        if value is None:
            value = infer_value(self.program, op, args, kwargs)
        node = self.graph.create_node("call_function", op, args, kwargs or {})  # type: ignore[arg-type]
        node.meta = {"val": value}
        return node


def _memory(tensor: torch.Tensor) -> object:
    """Which part of which storage a fake tensor is, and as what."""
    layout = (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))
    return (tensor.untyped_storage()._cdata, str(layout), tensor.dtype)
