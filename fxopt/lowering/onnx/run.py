"""Runs an ONNX file with numpy and onnxruntime alone: what the worker process and the artifact use.

Tensors come and go as bytes with their dtype's name, so that bfloat16 needs no numpy of its own. One thread,
on the CPU. Where onnxruntime is not installed, ONNX's reference evaluator runs the file, slowly.
"""

import ctypes
import functools
import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fxopt.lowering.wire import Packed, Value

__all__ = ["DTYPES", "NUMBERS", "Array", "Port", "Session", "open_run", "open_session"]

DTYPES = {
    "float": ("float32", 1), "uint8": ("uint8", 2), "int8": ("int8", 3), "uint16": ("uint16", 4),
    "int16": ("int16", 5), "int32": ("int32", 6), "int64": ("int64", 7), "bool": ("bool", 9),
    "float16": ("float16", 10), "double": ("float64", 11), "uint32": ("uint32", 12), "uint64": ("uint64", 13),
    "bfloat16": ("bfloat16", 16), "float8e4m3fn": ("float8_e4m3fn", 17),
    "float8e4m3fnuz": ("float8_e4m3fnuz", 18),
    "float8e5m2": ("float8_e5m2", 19), "float8e5m2fnuz": ("float8_e5m2fnuz", 20),
}  # fmt: skip
"""ONNX's name of an element type -> torch's name, ONNX's number."""

NUMBERS: Mapping[str, Callable[[object], int | float | bool]] = {"bool": bool, "int": int, "float": float}  # type: ignore[dict-item]
"""Python's kinds of numbers by name."""

_NAMES = {number: name for name, number in DTYPES.values()}
_NUMBERS = dict(DTYPES.values())
Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
_ORT_FORMAT = b"ORTM"
_RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Port:
    """An input or output: its name, torch's name of its dtype ("" if torch has none), its sizes."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Session:
    """An opened file. `run` takes the inputs' tensors in order and returns the outputs'."""

    runtime: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: Mapping[str, str]
    run: Callable[[Sequence[Packed]], list[Packed]]
    arrays: Callable[[Sequence[Array]], list[Array]] | None
    """`run` on numpy's arrays, with nothing around the runtime; None where numpy lacks a dtype."""
    scalars: Mapping[int, str] = field(default_factory=dict)
    """Outputs that are Python numbers for the model's caller, and their kind."""

    def values(self, inputs: Sequence[Packed]) -> list[Value]:
        """The outputs, those that are numbers as such."""
        results = self.run(inputs)
        return [_number(r, self.scalars[i]) if i in self.scalars else r for i, r in enumerate(results)]

    def bind(self, inputs: Sequence[Packed]) -> Callable[[], object]:
        """Takes the inputs' tensors once; what it returns runs on them."""
        if self.arrays is None:
            return functools.partial(self.run, inputs)
        given = [_raw(t).view(np.dtype(t.dtype)) for t in inputs]
        return functools.partial(self.arrays, given)


def open_run(path: str, *, as_written: bool = False) -> Callable[[Sequence[Packed]], list[Value]]:
    """A function that runs the file."""
    return open_session(path, as_written=as_written).values


def open_session(path: str, *, threads: int = 1, as_written: bool = False) -> Session:
    """Opens a file with onnxruntime, or with `onnx.reference` if that is not installed.

    Args:
        path: the file.
        threads: how many compute an op.
        as_written: node by node, without onnxruntime's optimisations, which round biases beside integer weights.

    Raises:
        Exception: what the runtime raises for a file that it can't open.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return _open_reference(path)
    return _open_onnxruntime(path, threads, as_written=as_written)


def _open_onnxruntime(path: str, threads: int, *, as_written: bool) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(_source(path), options, providers=["CPUExecutionProvider"])
    inputs, outputs = (
        tuple(_port(a) for a in args) for args in (session.get_inputs(), session.get_outputs())
    )
    names = [o.name for o in outputs]

    def run(tensors: Sequence[Packed]) -> list[Packed]:
        feeds = {
            port.name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(_raw(t), _NUMBERS[t.dtype])
            for port, t in zip(inputs, tensors, strict=True)
        }
        results = session.run_with_ort_values(names, feeds)
        return [_packed_ort(value) for value in results]

    def arrays(given: Sequence[Array]) -> list[Array]:
        return session.run(names, {p.name: a for p, a in zip(inputs, given, strict=True)})  # type: ignore[no-any-return]

    metadata = session.get_modelmeta().custom_metadata_map
    direct = arrays if _all_plain(inputs, outputs) else None
    return Session("onnxruntime", inputs, outputs, metadata, run, direct, _scalars(metadata))


def _source(path: str) -> str | bytes:
    """The path, or for a file of onnxruntime's own format the content: it knows that by the name alone."""
    with open(path, "rb") as file:
        if file.read(8)[4:] != _ORT_FORMAT:
            return path
        file.seek(0)
        return file.read()


def _all_plain(*ports: Sequence[Port]) -> bool:
    """Whether numpy has every dtype."""
    return not any(p.dtype.startswith(("bfloat", "float8")) or not p.dtype for side in ports for p in side)


def _port(argument: "onnxruntime.NodeArg") -> Port:  # type: ignore[name-defined]  # noqa: F821
    element = str(argument.type).removeprefix("tensor(").removesuffix(")")
    return Port(argument.name, DTYPES.get(element, ("", 0))[0], tuple(argument.shape))


def _raw(tensor: Packed) -> Array:
    """The tensor's bits as unsigned integers: numpy has no bfloat16."""
    count = math.prod(tensor.shape)
    width = memoryview(tensor.data).nbytes // count if count else 1
    if count == 0:
        width = _width(tensor.dtype)
    return np.frombuffer(tensor.data, dtype=_RAW[width]).reshape(tensor.shape)


def _width(dtype: str) -> int:
    if dtype.startswith("float8") or dtype in ("bool", "int8", "uint8"):
        return 1
    return int("".join(c for c in dtype if c.isdigit())) // 8


def _packed_ort(value: "onnxruntime.OrtValue") -> Packed:  # type: ignore[name-defined]  # noqa: F821
    element = str(value.data_type()).removeprefix("tensor(").removesuffix(")")
    content = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return Packed(DTYPES[element][0], tuple(value.shape()), content)


def _open_reference(path: str) -> Session:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    evaluator = ReferenceEvaluator(model)
    stored = {i.name for i in model.graph.initializer}
    inputs = tuple(_proto_port(i) for i in model.graph.input if i.name not in stored)
    outputs = tuple(_proto_port(o) for o in model.graph.output)

    def run(tensors: Sequence[Packed]) -> list[Packed]:
        feeds = {p.name: _raw(t).view(_numpy_dtype(t.dtype)) for p, t in zip(inputs, tensors, strict=True)}
        results = evaluator.run(None, feeds)
        return [_packed_numpy(r) for r in results]

    metadata = {p.key: p.value for p in model.metadata_props}
    return Session("onnx.reference", inputs, outputs, metadata, run, None, _scalars(metadata))


def _proto_port(info: "onnx.ValueInfoProto") -> Port:  # type: ignore[name-defined]  # noqa: F821
    tensor = info.type.tensor_type
    dims = tuple(d.dim_param or (d.dim_value if d.HasField("dim_value") else None) for d in tensor.shape.dim)
    return Port(info.name, _NAMES.get(tensor.elem_type, ""), dims)


def _numpy_dtype(name: str) -> np.dtype[np.generic]:
    import onnx.helper

    return onnx.helper.tensor_dtype_to_np_dtype(_NUMBERS[name])


def _packed_numpy(array: object) -> Packed:
    values = np.asarray(array)
    return Packed(values.dtype.name, values.shape, values.tobytes())


def _scalars(metadata: Mapping[str, str]) -> dict[int, str]:
    """Which of the file's outputs are numbers, by the signature that fxopt writes into its files."""
    try:
        outputs = json.loads(metadata.get("fxopt.signature", "{}")).get("outputs", [])
        computed = [o for o in outputs if o["kind"] != "constant"]
        return {i: str(o["type"]) for i, o in enumerate(computed) if o["kind"] == "scalar"}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}  # the artifact, which reads the whole signature, says what is wrong with it


def _number(result: Packed, kind: str) -> int | float | bool:
    return NUMBERS[kind](np.frombuffer(result.data, dtype=np.dtype(result.dtype)).item())
