"""What an ONNX file says of itself, read without a runtime: its metadata, and whether it is whole.

A runtime takes a file with a flipped bit in a weight. So a file of fxopt's ends in a seal, which is one more
metadata entry: a protobuf message is the concatenation of its fields, in any order.

>>> from fxopt.program.seal import sealed
>>> import tempfile
>>> path = tempfile.mkdtemp() + "/model.onnx"
>>> with open(path, "wb") as file:
...     _ = file.write(sealed([b""], SEAL_MARK))
>>> list(read_metadata(path))
['fxopt.sha256']
"""

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fxopt.errors import ArtifactError
from fxopt.program.seal import SEAL_SIZE, digest_of, is_intact, is_sealed

__all__ = ["DATA_KEY", "SEAL_KEY", "SEAL_MARK", "SIGNATURE_KEY", "check_whole", "read_metadata"]

SIGNATURE_KEY, DATA_KEY, SEAL_KEY = "fxopt.signature", "fxopt.data", "fxopt.sha256"
_METADATA = 14
"""Field number of ModelProto.metadata_props; an entry has its key in field 1, its value in field 2."""
_LENGTHS = {1: 8, 5: 4}
"""Bytes of a field by wire type, where they are fixed."""
_BYTES = 2
"""The wire type of a field with a length before it."""
_DATA_NAME = re.compile(r"[^/\\]+\.([0-9a-f]{16})\.data")


def _entry(key: bytes, value_size: int) -> bytes:
    """A metadata entry up to its value."""
    inner = bytes([1 << 3 | _BYTES, len(key)]) + key + bytes([2 << 3 | _BYTES, value_size])
    return bytes([_METADATA << 3 | _BYTES, len(inner) + value_size]) + inner


SEAL_MARK = _entry(SEAL_KEY.encode(), SEAL_SIZE)
"""What stands before the hash at the end of a file."""


def read_metadata(path: str) -> dict[str, str]:
    """The metadata entries of a model; weights are stepped over, not read.

    Raises:
        ArtifactError: it is missing, or no ONNX file.
    """
    if not os.path.isfile(path):
        raise ArtifactError(
            f"can't read {path}: {'it is a folder' if os.path.isdir(path) else 'no such file'}"
        )
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            entries = [content[a:b] for number, a, b in _fields(content) if number == _METADATA]
            pairs = [{n: e[a:b] for n, a, b in _fields(e)} for e in entries]
            return {p.get(1, b"").decode(): p.get(2, b"").decode() for p in pairs}
    except (ValueError, IndexError) as error:
        raise ArtifactError(f"can't read {path}: it is damaged, or no ONNX file") from error
    except OSError as error:
        raise ArtifactError(f"can't read {path}: {error.strerror or error}") from error


def check_whole(path: str, metadata: dict[str, str]) -> None:
    """Checks a file of fxopt's, and the file beside it that holds its weights, against their hashes.

    Raises:
        ArtifactError: one is damaged, was changed, or is missing.
    """
    if not is_intact(path, SEAL_MARK):
        how = "its hash differs" if is_sealed(path, SEAL_MARK) else "its hash is gone"
        raise ArtifactError(
            f"can't read {path}: it is damaged or was changed since fxopt wrote it ({how}); "
            "pass trust=True if you changed it yourself"
        )
    name = metadata.get(DATA_KEY)
    if name is None:
        return
    found = _DATA_NAME.fullmatch(name)
    beside = Path(path).with_name(name) if found else Path()
    if found is None or beside.is_symlink():
        raise ArtifactError(
            f"can't read {path}: it names {name!r} as its weights, which is no file beside it"
        )
    if not beside.is_file():
        raise ArtifactError(f"can't read {path}: its weights are missing; {name} must stand beside it")
    if not digest_of(str(beside)).startswith(found[1]):
        raise ArtifactError(f"can't read {path}: its weights in {name} are damaged or were changed")


def _fields(content: bytes | mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """The fields of a message: number, start and end of the content; numbers (varints) have none.

    Raises:
        ValueError: it is no message.
        IndexError: it is cut off.
    """
    at, end = 0, len(content)
    while at < end:
        tag, at = _varint(content, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _, at = _varint(content, at)
            continue
        if kind == _BYTES:
            size, at = _varint(content, at)
        elif kind in _LENGTHS:
            size = _LENGTHS[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if number == 0 or at + size > end:
            raise ValueError("a field reaches beyond the end")
        yield number, at, at + size
        at += size


def _varint(content: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while shift < 70:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number has more than ten bytes")
