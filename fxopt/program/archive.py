"""What is asked of a zip of torch's (`.pt`, `.pt2`) before torch opens it.

torch takes names, sizes and checksums on trust. Here a zip is refused that is cut or damaged, holds links or
names that leave it, holds a name twice, or unpacks to much more than it is: torch stores tensors as they are
and compresses code only.

>>> check_archive("missing.pt2")
Traceback (most recent call last):
    ...
fxopt.errors.ArtifactError: can't read missing.pt2: no such file
"""

import os
import stat
import struct
import zipfile
import zlib

from fxopt.errors import ArtifactError

__all__ = ["ZIP_ERRORS", "check_archive"]

ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, ValueError, OSError, struct.error, NotImplementedError, OverflowError,
    EOFError, RuntimeError,
)  # fmt: skip
"""What `zipfile` raises on bytes that are no zip."""
_CODE = 1 << 25
"""Bytes of code that a small file may unpack to."""


def check_archive(path: str, *, sums: bool = True) -> None:
    """Checks a zip's structure and its members' checksums.

    Args:
        path: the file.
        sums: read all members and compare their checksums; not needed where a hash of the file was checked.

    Raises:
        ArtifactError: it is missing, damaged, or not what torch would write.
    """
    if not os.path.isfile(path):
        raise ArtifactError(
            f"can't read {path}: {'it is a folder' if os.path.isdir(path) else 'no such file'}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            problem = _problem(archive.infolist(), os.path.getsize(path))
            if not problem and sums:
                damaged = archive.testzip()
                problem = (
                    f"{damaged!r} in it is damaged (its checksum differs)" if damaged is not None else ""
                )
    except ZIP_ERRORS as error:
        raise ArtifactError(f"can't read {path}: it is damaged, or no file of torch") from error
    if problem:
        raise ArtifactError(f"can't read {path}: {problem}")


def _problem(members: list[zipfile.ZipInfo], size: int) -> str:
    """What is wrong with the list of members; empty if nothing is."""
    seen: set[str] = set()
    unpacked = 0
    for member in members:
        name = member.orig_filename
        if name in seen:
            return f"it holds {name!r} twice"
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            return f"it holds {name!r}, which leaves the file"
        if stat.S_ISLNK(member.external_attr >> 16):
            return f"it holds {name!r}, which is a link"
        seen.add(name)
        unpacked += member.file_size
    if unpacked > 2 * size + _CODE:
        return f"it unpacks to {unpacked} bytes, far more than it holds"
    return ""
