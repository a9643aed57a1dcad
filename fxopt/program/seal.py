"""The seal at the end of a file: a SHA-256 of everything before it, where the file's own format allows one.

TorchScript and ONNX files have no hash of their own, and their runtimes take a file with a flipped bit, two
weights exchanged or bytes behind its end. The seal is the last thing in the file and part of its format (a
comment of the zip, a metadata entry of the ONNX model), so that other tools read the file as ever. It shows
damage and changes by mistake; who changes a file on purpose can seal it anew.

>>> import pathlib, tempfile
>>> path = tempfile.mkdtemp() + "/file"
>>> data = sealed([b"content"], b"mark:")
>>> _ = pathlib.Path(path).write_bytes(data)
>>> is_sealed(path, b"mark:"), is_intact(path, b"mark:")
(True, True)
>>> _ = pathlib.Path(path).write_bytes(b"CONTENT" + data[7:])
>>> is_sealed(path, b"mark:"), is_intact(path, b"mark:")
(True, False)
"""

import hashlib
import os
from collections.abc import Sequence

from fxopt.program.writing import Buffer

__all__ = ["SEAL_SIZE", "digest_of", "is_intact", "is_sealed", "sealed"]

SEAL_SIZE = 64
"""Bytes of the hash, in hexadecimal digits; the mark before it is the format's."""
_CHUNK = 1 << 20


def sealed(parts: Sequence[Buffer], mark: bytes) -> bytes:
    """The joined parts with the mark and the hash of both behind them."""
    digest = hashlib.sha256()
    for part in (*parts, mark):
        digest.update(part)
    return b"".join([*parts, mark, digest.hexdigest().encode()])


def is_sealed(path: str, mark: bytes) -> bool:
    """Whether a file ends in a seal, right or wrong.

    Raises:
        OSError: it can't be read.
    """
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - SEAL_SIZE - len(mark)))
        return file.read(len(mark)) == mark


def is_intact(path: str, mark: bytes) -> bool:
    """Whether a file ends in the seal of what it holds.

    Raises:
        OSError: it can't be read.
    """
    if not is_sealed(path, mark):
        return False
    size = os.path.getsize(path) - SEAL_SIZE
    with open(path, "rb") as file:
        file.seek(size)
        expected = file.read()
    return digest_of(path, size).encode() == expected


def digest_of(path: str, size: int | None = None) -> str:
    """SHA-256 of a file's first bytes (of all by default) in hexadecimal digits; takes a megabyte of memory.

    Raises:
        OSError: it can't be read.
    """
    digest = hashlib.sha256()
    left = os.path.getsize(path) if size is None else size
    chunk = memoryview(bytearray(_CHUNK))
    with open(path, "rb", buffering=0) as file:
        while left > 0 and (count := file.readinto(chunk[: min(left, _CHUNK)])):
            digest.update(chunk[:count])
            left -= count
    return digest.hexdigest()
