"""What travels between fxopt and a worker: a JSON header and the raw bytes of its tensors; never pickle.

A frame is eight bytes of header length, the header, and the tensors' bytes in the header's order. The module
imports the standard library only, because the worker may have nothing else.

>>> import io
>>> pipe = io.BytesIO()
>>> write_frame(pipe, {"do": "run"}, [Packed("int64", (2,), bytes(16)), 3])
>>> _ = pipe.seek(0)
>>> header, values = read_frame(pipe)
>>> header["do"], values[0].dtype, values[0].shape, values[1]
('run', 'int64', (2,), 3)
"""

import json
import math
import struct
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

__all__ = ["Header", "Packed", "Value", "read_frame", "write_frame"]

Header = dict[str, object]


class Packed(NamedTuple):
    """A tensor as bytes: torch's dtype name ("float32"), its shape, its values in row-major order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview


Value = Packed | int | float | bool
"""A tensor or a number computed from sizes."""

_LENGTH = struct.Struct("<Q")
_LARGEST_HEADER = 1 << 28


def _describe(value: Value) -> object:
    if isinstance(value, Packed):
        return {"dtype": value.dtype, "shape": list(value.shape), "bytes": memoryview(value.data).nbytes}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def write_frame(stream: BinaryIO, header: Header, values: Sequence[Value] = ()) -> None:
    """Writes one frame and flushes."""
    text = json.dumps({**header, "values": [_describe(v) for v in values]}, allow_nan=False).encode()
    stream.write(_LENGTH.pack(len(text)))
    stream.write(text)
    for value in values:
        if isinstance(value, Packed):
            stream.write(value.data)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[Header, list[Value]]:
    """Reads one frame.

    Raises:
        EOFError: the other side has closed the stream.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > _LARGEST_HEADER:
        raise EOFError("the stream between fxopt and its worker is out of step")
    header: Header = json.loads(bytes(_exactly(stream, length)))
    described = header.pop("values")
    assert isinstance(described, list)
    return header, [_value(stream, d) for d in described]


def _value(stream: BinaryIO, described: object) -> Value:
    if isinstance(described, dict):
        if "float" in described:
            return float(described["float"])
        return Packed(described["dtype"], tuple(described["shape"]), _exactly(stream, described["bytes"]))
    assert isinstance(described, (int, float))
    return described


def _exactly(stream: BinaryIO, count: int) -> bytearray:
    """Exactly `count` bytes, in memory that may be written to (a tensor is made over it)."""
    buffer = bytearray(count)
    view, done = memoryview(buffer), 0
    while done < count:
        got = stream.readinto(view[done:])  # type: ignore[attr-defined]  # BinaryIO lacks it, buffered streams have it
        if not got:
            raise EOFError("the stream between fxopt and its worker was closed")
        done += got
    return buffer
