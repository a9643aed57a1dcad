"""The file around a program: an uncompressed zip of which every byte is determined by its members.

Writer and reader share `_layout`: what is not a member's content must be, byte for byte, what the writer
would have put there. So a flipped bit in a header, a hidden or repeated member, a link, a comment, bytes
between members are all refused without a rule for each. The manifest comes last and holds size and SHA-256 of
the others.

>>> import io
>>> file = io.BytesIO(b"".join(container_bytes({"a.json": [b"{}"]}, {"kind": "program"})))
>>> container = Container(file, "example")
>>> container.manifest["kind"], container.read_json("a.json")
('program', {})
"""

import hashlib
import json
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from fxopt.errors import ArtifactError
from fxopt.program.archive import ZIP_ERRORS
from fxopt.program.writing import Buffer

__all__ = ["MANIFEST", "Container", "container_bytes", "json_bytes"]

MANIFEST = "manifest.json"
_ALIGNMENT = 64
_LIMIT_32 = 0xFFFFFFFF
_LARGEST_JSON = 1 << 28
_MOST_MEMBERS = 100
_CHUNK = 1 << 24
_DATE = (1 << 5) | 1  # 1980-01-01, as early as a zip can say
_UTF8 = 1 << 11


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    checksum: int


def json_bytes(value: object) -> bytes:
    """JSON in one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True, check_circular=False
    ).encode()


def _wide(*values: int) -> tuple[bytes, list[int]]:
    """The zip64 extra field for values beyond 32 bits, and what stands in the header's own fields."""
    large = [v for v in values if v >= _LIMIT_32]
    extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    return extra, [min(v, _LIMIT_32) for v in values]


def _local_header(entry: _Entry, offset: int) -> bytes:
    """A member's header, padded so that its content is aligned in the file."""
    name = entry.name.encode()
    extra, (size, _) = _wide(entry.size, entry.size)
    end = offset + 30 + len(name) + len(extra) + 4
    padding = -end % _ALIGNMENT
    extra += struct.pack("<HH", 0x4246, padding) + bytes(padding)
    fixed = struct.pack(
        "<4s5H3I2H", b"PK\3\4", 45, _UTF8, 0, 0, _DATE, entry.checksum, size, size, len(name), len(extra)
    )
    return fixed + name + extra


def _directory_entry(entry: _Entry, offset: int) -> bytes:
    name = entry.name.encode()
    extra, (size, _, start) = _wide(entry.size, entry.size, offset)
    fixed = struct.pack(
        "<4s6H3I5H2I",
        b"PK\1\2", 45, 45, _UTF8, 0, 0, _DATE, entry.checksum, size, size, len(name), len(extra), 0, 0, 0, 0,
        start,
    )  # fmt: skip
    return fixed + name + extra


def _end(count: int, size: int, offset: int) -> bytes:
    tail = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, count, count, min(size, _LIMIT_32), min(offset, _LIMIT_32), 0
    )
    if offset < _LIMIT_32:
        return tail
    wide = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    return wide + struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1) + tail


def _layout(entries: Sequence[_Entry]) -> tuple[list[bytes], list[int]]:
    """All bytes that are not content (headers, the directory), and where content starts."""
    headers: list[bytes] = []
    starts: list[int] = []
    directory = b""
    offset = 0
    for entry in entries:
        header = _local_header(entry, offset)
        directory += _directory_entry(entry, offset)
        headers.append(header)
        starts.append(offset + len(header))
        offset += len(header) + entry.size
    headers.append(directory + _end(len(entries), len(directory), offset))
    return headers, starts


def _entry(name: str, buffers: Sequence[Buffer]) -> _Entry:
    checksum = 0
    for buffer in buffers:
        checksum = zlib.crc32(buffer, checksum)
    return _Entry(name, sum(memoryview(b).nbytes for b in buffers), checksum)


def _digest(buffers: Sequence[Buffer]) -> str:
    digest = hashlib.sha256()
    for buffer in buffers:
        digest.update(buffer)
    return digest.hexdigest()


def container_bytes(
    members: Mapping[str, Sequence[Buffer]], manifest: Mapping[str, object]
) -> Iterator[Buffer]:
    """The file's bytes, piece by piece, the members' buffers among them uncopied.

    Args:
        members: contents by name.
        manifest: what the manifest holds besides the members' sizes and hashes.
    """
    entries = [_entry(name, buffers) for name, buffers in members.items()]
    sums = {e.name: {"size": e.size, "sha256": _digest(members[e.name])} for e in entries}
    text = json_bytes({**manifest, "members": sums})
    headers, _ = _layout([*entries, _entry(MANIFEST, [text])])
    for header, buffers in zip(headers, [*members.values(), [text], []], strict=True):
        yield header
        yield from buffers


class Container:
    """An open container whose layout and manifest are checked; a member is checked when it is read.

    Args:
        file: seekable, stays the caller's.
        path: for messages.
        expected: the names of all members besides the manifest, in order; None for any.

    Raises:
        ArtifactError: it is damaged, was changed, or is no container of fxopt.
    """

    def __init__(self, file: BinaryIO, path: str, expected: Sequence[str] | None = None) -> None:
        self.file, self.path = file, path
        try:
            with zipfile.ZipFile(file) as archive:
                listed = archive.infolist()
        except ZIP_ERRORS as error:
            raise self.error("it is no complete .fxopt file") from error
        entries = [_Entry(i.filename, i.file_size, i.CRC) for i in listed]
        self._check_names([i.filename for i in listed], expected)
        self._check_layout(entries)
        self.manifest = self._read_manifest(entries[-1])
        self._check_members(entries[:-1])

    def error(self, reason: str) -> ArtifactError:
        """An error that names the file."""
        return ArtifactError(f"can't read {self.path}: {reason}")

    def _check_names(self, names: Sequence[str], expected: Sequence[str] | None) -> None:
        if len(names) > _MOST_MEMBERS:
            raise self.error(f"it holds {len(names)} members, most of which have no place in it")
        for name in names:
            if names.count(name) > 1 or (expected is not None and name not in (*expected, MANIFEST)):
                raise self.error(f"it holds {name!r}, which has no place in it")
        if not names or names[-1] != MANIFEST or (expected is not None and len(names) <= len(expected)):
            missing = next((n for n in (*(expected or ()), MANIFEST) if n not in names), MANIFEST)
            raise self.error(f"it lacks {missing!r} in its place")

    def _check_layout(self, entries: Sequence[_Entry]) -> None:
        headers, starts = _layout(entries)
        end = starts[-1] + entries[-1].size
        places = [*(s - len(h) for s, h in zip(starts, headers, strict=False)), end]
        self.file.seek(0, 2)
        intact = self.file.tell() == end + len(headers[-1])
        for place, header in zip(places, headers, strict=True):
            self.file.seek(place)
            intact = intact and self.file.read(len(header)) == header
        if not intact:
            raise self.error("its structure is damaged or was changed")
        self._starts = {e.name: s for e, s in zip(entries, starts, strict=True)}

    def _read_manifest(self, entry: _Entry) -> dict[str, object]:
        text = self._read(entry.name, entry.size)
        if zlib.crc32(text) != entry.checksum:
            raise self.error("its manifest is damaged or was changed")
        return self._parse(text, MANIFEST)

    def _check_members(self, entries: Sequence[_Entry]) -> None:
        sums = self.manifest.get("members")
        sizes = {e.name: e.size for e in entries}
        if not isinstance(sums, dict) or set(sums) != set(sizes):
            raise self.error("its manifest lists other members than it holds")
        self._sums: dict[str, str] = {}
        for name, size in sizes.items():
            entry = sums[name]
            if (
                not isinstance(entry, dict)
                or entry.get("size") != size
                or not isinstance(entry.get("sha256"), str)
            ):
                raise self.error(f"the size or hash of {name!r} is not the one in its manifest")
            self._sums[name] = entry["sha256"]
        self.sizes = sizes

    def _read(self, name: str, size: int) -> bytes:
        if size > _LARGEST_JSON:
            raise self.error(f"{name!r} has {size} bytes, more than any program needs")
        self.file.seek(self._starts[name])
        return self.file.read(size)

    def _parse(self, text: bytes, name: str) -> dict[str, object]:
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise self.error(f"{name!r} is not JSON") from error
        if not isinstance(value, dict):
            raise self.error(f"{name!r} is not a JSON object")
        return value

    def read_json(self, name: str) -> dict[str, object]:
        """A JSON member, its hash checked before it is parsed.

        Raises:
            ArtifactError: its hash is another, or it is no JSON object.
        """
        text = self._read(name, self.sizes[name])
        if hashlib.sha256(text).hexdigest() != self._sums[name]:
            raise self.error(f"{name!r} is damaged or was changed (its hash differs)")
        return self._parse(text, name)

    def view(self, name: str) -> memoryview:
        """A member's bytes, their hash checked, mapped from the file where it is one on a disk.

        They are read when they are used, and may be written to: the file stays as it is.

        Raises:
            ArtifactError: the hash is another.
        """
        start, size = self._starts[name], self.sizes[name]
        content = self._mapped(start, size)
        digest = hashlib.sha256()
        for at in range(0, size, _CHUNK):
            digest.update(content[at : at + _CHUNK])
        if len(content) != size or digest.hexdigest() != self._sums[name]:
            raise self.error(f"{name!r} is damaged or was changed (its hash differs)")
        return content

    def _mapped(self, start: int, size: int) -> memoryview:
        try:
            mapping = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # no file on a disk: held in memory, or on a device that maps nothing
            self.file.seek(start)
            return memoryview(bytearray(self.file.read(size)))
        return memoryview(mapping)[start : start + size]


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
