import errno
import os
from pathlib import Path

import pytest

from fxopt.errors import ArtifactError
from fxopt.program import writing
from fxopt.program.writing import replacing, write_file


def test_a_file_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        write_file(temporary, [b"new ", bytearray(b"text"), memoryview(b"!")])
        assert path.read_text() == "old"
    assert path.read_text() == "new text!"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_permissions_are_those_of_open(tmp_path: Path):
    with replacing(tmp_path / "a.txt") as temporary:
        write_file(temporary, [b"x"])
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("before", [None, "old"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)
    monkeypatch.setattr(writing.os, "fsync", full_disk)
    one_line = r"^can't write .*a\.txt: No space left on device$"
    with pytest.raises(ArtifactError, match=one_line), replacing(path) as temporary:
        write_file(temporary, [b"x"])
    assert [p.read_text() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_ctrl_c_passes_through_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writing.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt") as temporary:
        write_file(temporary, [b"x"])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path):
    path = tmp_path / "nowhere" / "a.txt"
    with (
        pytest.raises(ArtifactError, match=r"the folder .*nowhere does not exist"),
        replacing(path) as temporary,
    ):
        write_file(temporary, [b"x"])


def test_a_folder_in_the_way_is_named(tmp_path: Path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(ArtifactError, match="it is a folder"), replacing(tmp_path / "a.txt") as temporary:
        write_file(temporary, [b"x"])
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_name_in_use_is_not_written_over(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "a.txt", [b"new"])
    assert (tmp_path / "a.txt").read_text() == "old"
