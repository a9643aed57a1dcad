"""Recording a plain function as a canonical graph: patterns and replacements pass through the same door as programs.

The function runs on fake tensors under a mode on torch's PreDispatch key, where composite ops are still
whole. A run costs about a millisecond, a `make_fx` trace of the same function ten.
"""

import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils._python_dispatch import TorchDispatchMode

from fxopt.ops import canonical_arguments, is_mutating, op_key
from fxopt.ops.spelling import canonical_call
from fxopt.program.inference import infer_value
from fxopt.program.program import Program

__all__ = ["Recording", "RecordingError", "record"]


class RecordingError(Exception):
    """A function can't be recorded on these values: it raises, writes in place, or makes tensors out of nothing."""


class _Recorder(ProxyTorchDispatchMode):
    """Notes every call on the PreDispatch key and runs it as it is.

    torch admits only its own infra modes on that key, hence the base class; nothing of its tracing is used.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)
        self._mode_key = torch._C._TorchDispatchModeKey.PROXY
        self.calls: list[tuple[object, tuple[object, ...], Mapping[str, object], object]] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
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

    @property
    def calls(self) -> list[Node]:
        """The calls that the results need, in order."""
        return [n for n in self.graph.nodes if n.op == "call_function"]


def record(program: Program, function: Callable[..., object], values: Mapping[str, object]) -> Recording:
    """Runs a function on fake values and returns its canonical graph, dead calls removed.

    Args:
        program: whose fake mode the values belong to.
        function: called with `values` by position.
        values: fake tensors, literals or None by argument name, in the function's order.

    Raises:
        RecordingError: the function raises, or does what no graph can hold.
    """
    mode = program.fake_mode
    assert mode.shape_env is not None
    with (
        torch.no_grad(),
        enable_python_dispatcher(),
        mode,
        mode.shape_env.suppress_guards(),
        _Recorder() as recorder,
    ):
        try:
            result = function(*values.values())
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RecordingError(first) from error
    return _Build(program, values).build(recorder.calls, result)


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

    def build(
        self, calls: Sequence[tuple[object, tuple[object, ...], Mapping[str, object], object]], result: object
    ) -> Recording:
        for op, args, kwargs, out in calls:
            if is_mutating(op):
                raise RecordingError(f"{op_key(op)} writes in place")
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

    def _node(self, op: object, args: tuple[object, ...], kwargs: dict[str, object]) -> Node:
        """A call whose sizes may be symbols: this graph is read, never run, which torch.fx does not know."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Raw SymInt value", UserWarning)
            return self.graph.create_node("call_function", op, args, kwargs)  # type: ignore[arg-type]

    def _map(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            known = self.env.get(id(value), self.memory.get(_memory(value)))
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
        node = self._node(op, args, kwargs or {})
        node.meta = {"val": value}
        return node


def _memory(tensor: torch.Tensor) -> object:
    """Which part of which storage a fake tensor is, and as what."""
    offset = tensor.storage_offset()
    return (
        tensor.untyped_storage()._cdata,
        str(offset),
        tuple(map(str, tensor.shape)),
        tuple(map(str, tensor.stride())),
        tensor.dtype,
    )
