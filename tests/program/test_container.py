import io
import mmap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fxopt.errors import ArtifactError
from fxopt.program import container as module
from fxopt.program.container import Container, container_bytes, json_bytes

MEMBERS = {"graph.json": [b'{"a":', b"1}"], "weights": [bytes(range(256)) * 3]}
NAMES = tuple(MEMBERS)


def packed() -> bytes:
    return b"".join(container_bytes(MEMBERS, {"kind": "program"}))


def opened(data: bytes) -> Container:
    return Container(io.BytesIO(data), "x.fxopt", NAMES)


def read_all(container: Container) -> tuple[dict[str, object], bytes]:
    return container.read_json("graph.json"), bytes(container.view("weights"))


def test_what_is_written_is_read():
    container = opened(packed())
    assert container.manifest["kind"] == "program"
    assert read_all(container) == ({"a": 1}, bytes(range(256)) * 3)


def test_it_is_a_plain_zip_that_others_read():
    with zipfile.ZipFile(io.BytesIO(packed())) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["graph.json", "weights", "manifest.json"]
        assert archive.read("weights") == bytes(range(256)) * 3
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_content_is_aligned():
    data = packed()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            content = archive.read(info)
            assert data.find(content) % 64 == 0


def test_sizes_beyond_32_bits_use_zip64(monkeypatch: pytest.MonkeyPatch):
    # The limit lowered: every size and offset goes the way that four gigabytes would.
    monkeypatch.setattr(module, "_LIMIT_32", 0xFFFFFFFF)
    extra, fields = module._wide(5 << 30, 5 << 30, 7)
    assert fields == [0xFFFFFFFF, 0xFFFFFFFF, 7]
    assert extra == b"\x01\x00\x10\x00" + (5 << 30).to_bytes(8, "little") * 2
    end = module._end(2, 100, 5 << 30)
    assert end[:4] == b"PK\6\6"
    assert end[-22:-18] == b"PK\5\6"


class Sparse(io.RawIOBase):
    """A file of which only some stretches are not zero."""

    def __init__(self, size: int, pieces: dict[int, bytes]) -> None:
        self.size, self.pieces, self.at = size, pieces, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (self.size if whence == 2 else self.at if whence == 1 else 0)
        return self.at

    def read(self, count: int = -1) -> bytes:
        stop = self.size if count < 0 else min(self.at + count, self.size)
        data = bytearray(stop - self.at)
        for start, piece in self.pieces.items():
            low, high = max(start, self.at), min(start + len(piece), stop)
            if low < high:
                data[low - self.at : high - self.at] = piece[low - start : high - start]
        self.at = stop
        return bytes(data)


def test_zipfile_understands_our_zip64():
    huge = module._Entry("weights", 5 << 30, 0)
    small = module._Entry("manifest.json", 2, 0x9E0A5A8A)
    headers, starts = module._layout([huge, small])
    end = starts[1] + 2
    pieces = {0: headers[0], starts[1] - len(headers[1]): headers[1], starts[1]: b"{}", end: headers[2]}
    with zipfile.ZipFile(Sparse(end + len(headers[2]), pieces)) as archive:  # type: ignore[arg-type]
        assert [(i.filename, i.file_size) for i in archive.infolist()] == [
            ("weights", 5 << 30),
            ("manifest.json", 2),
        ]
        assert archive.infolist()[1].header_offset == starts[1] - len(headers[1])


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_cut_file_is_refused(sixteenth: int):
    data = packed()
    with pytest.raises(ArtifactError):
        read_all(opened(data[: len(data) * sixteenth // 16]))


def test_any_flipped_bit_is_found():
    data = packed()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(ArtifactError):
            read_all(opened(bytes(flipped)))


def rewritten(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    """The file as another zip tool would write it, after a change."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed())) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), old.read(name))
        change(new)
    return out.getvalue()


def add(name: str, kind: int = zipfile.ZIP_STORED, mode: int = 0) -> Callable[[zipfile.ZipFile], None]:
    def change(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, kind
        archive.writestr(info, "{}")

    return change


@pytest.mark.parametrize(
    "name", ["extra.bin", "../graph.json", "/etc/passwd", "graph.json/", "C:\\x", "Graph.json", ""]
)
def test_an_unlisted_member_is_refused(name: str):
    with pytest.raises(ArtifactError, match="has no place in it"):
        opened(rewritten(add(name)))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_member_is_refused():
    with pytest.raises(ArtifactError, match="has no place in it"):
        opened(rewritten(add("graph.json")))


def test_many_members_are_refused_at_once():
    def change(archive: zipfile.ZipFile) -> None:
        for i in range(200):
            archive.writestr(str(i), "")

    with pytest.raises(ArtifactError, match="203 members"):
        opened(rewritten(change))


@pytest.mark.parametrize("mode", [0o100644, 0o120777], ids=["file", "link"])
@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_another_writers_zip_of_the_same_members_is_refused(kind: int, mode: int):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed())) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, kind
            new.writestr(info, old.read(name))
    with pytest.raises(ArtifactError, match="structure"):
        opened(out.getvalue())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no complete"),
        (b"PK\5\6" + bytes(18), "lacks 'graph.json'"),
        (b"x" * 1000, "no complete"),
        (packed() + b"tail", "structure"),
        (b"#!/bin/sh\n" + packed(), "structure"),
    ],
)
def test_other_bytes_are_refused(data: bytes, reason: str):
    with pytest.raises(ArtifactError, match=reason):
        opened(data)


def forged(members: dict[str, list[bytes]], manifest: dict[str, object]) -> bytes:
    """A container whose manifest says what we want it to say."""
    entries = [module._entry(n, b) for n, b in members.items()]
    text = json_bytes(manifest)
    headers, _ = module._layout([*entries, module._entry("manifest.json", [text])])
    parts = [h + b"".join(b) for h, b in zip(headers, [*members.values(), [text], []], strict=True)]
    return b"".join(parts)


def test_a_wrong_hash_is_found_before_the_member_is_parsed():
    sums = {n: {"size": sum(map(len, b)), "sha256": "0" * 64} for n, b in MEMBERS.items()}
    container = opened(forged(MEMBERS, {"members": sums}))
    with pytest.raises(ArtifactError, match=r"'graph.json' is damaged or was changed \(its hash differs\)"):
        container.read_json("graph.json")
    with pytest.raises(ArtifactError, match=r"'weights' is damaged or was changed"):
        container.view("weights")


@pytest.mark.parametrize(
    "sums",
    [
        None,
        [],
        {},
        {"graph.json": {"size": 7, "sha256": ""}},
        {"graph.json": 1, "weights": 2},
        {"graph.json": {"size": 1, "sha256": ""}, "weights": {"size": 768, "sha256": ""}},
    ],
)
def test_a_manifest_that_lists_other_members_is_refused(sums: object):
    with pytest.raises(ArtifactError):
        opened(forged(MEMBERS, {"members": sums}))


def test_a_missing_member_is_named():
    with pytest.raises(ArtifactError, match="lacks 'weights'"):
        opened(forged({"graph.json": [b"{}"]}, {}))


@pytest.mark.parametrize("text", [b"[" * 100_000, b"NaN", b"[1]", b"{", b"\xff", b"1" * 10_000])
def test_what_is_no_json_object_is_refused(text: bytes):
    data = b"".join(container_bytes({"graph.json": [text], "weights": [b""]}, {}))
    with pytest.raises(ArtifactError, match="JSON"):
        opened(data).read_json("graph.json")


def test_a_member_is_mapped_and_the_file_stays_as_it_is(tmp_path: Path):
    path = tmp_path / "x.fxopt"
    path.write_bytes(packed())
    with path.open("rb") as file:
        content = Container(file, "x.fxopt", NAMES).view("weights")
    assert isinstance(content.obj, mmap.mmap)
    assert content[:4] == bytes(range(4))
    content[0] = 255
    assert path.read_bytes() == packed()
