"""What `lower` leaves behind when the machine or the user stops it: nothing, or what was there."""

import errno
import os
from pathlib import Path

import pytest

from fxopt.errors import ArtifactError, VerificationError
from fxopt.lowering import check as check_module
from fxopt.lowering import lower
from fxopt.lowering.torchscript.target import TorchScriptTarget
from fxopt.program import writing
from tests.lowering.targets import WithData, Wrong, files
from tests.traced import traced


def test_data_is_written_beside(tmp_path: Path):
    artifact = lower(traced("mlp", True), WithData(TorchScriptTarget()), path=tmp_path / "m.pt")
    assert files(tmp_path) == ["m.abc.data", "m.pt"]
    assert artifact.size == (tmp_path / "m.pt").stat().st_size + 7


def test_data_of_a_wrong_file_is_removed(tmp_path: Path):
    with pytest.raises(VerificationError):
        lower(traced("mlp", True), WithData(Wrong()), path=tmp_path / "m.pt")
    assert files(tmp_path) == []


def test_data_that_an_older_file_uses_is_left(tmp_path: Path):
    lower(traced("mlp", True), WithData(TorchScriptTarget()), path=tmp_path / "m.pt", verify=False)
    with pytest.raises(VerificationError):
        lower(traced("mlp", True), WithData(Wrong()), path=tmp_path / "m.pt")
    assert files(tmp_path) == ["m.abc.data", "m.pt"]


def test_data_of_a_kept_file_is_kept(tmp_path: Path):
    with pytest.raises(VerificationError):
        lower(traced("mlp", True), WithData(Wrong()), path=tmp_path / "m.pt", keep_unverified=True)
    assert files(tmp_path) == ["m.abc.data", "m.pt.unverified"]


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    at: int, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = 0
    owner = writing.os if function == "fsync" else Path
    original = getattr(owner, function)

    def counting(*args: object) -> object:
        nonlocal calls
        calls += 1
        return full_disk() if calls == at else original(*args)

    monkeypatch.setattr(owner, function, counting)
    target = WithData(TorchScriptTarget())
    with pytest.raises(ArtifactError, match=r"^can't write [^\n]*: No space left on device$"):
        lower(traced("mlp", True), target, path=tmp_path / "m.pt", verify=False)
    assert files(tmp_path) == []


@pytest.mark.parametrize("place", ["fsync", "verify", "rename"])
def test_ctrl_c_passes_through_and_leaves_nothing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if place == "fsync":
        monkeypatch.setattr(writing.os, "fsync", interrupt)
    elif place == "verify":
        monkeypatch.setattr(check_module, "verify_runs", interrupt)
    else:
        monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lower(traced("mlp", True), "torchscript", path=tmp_path / "m.pt")
    assert files(tmp_path) == []


def test_ctrl_c_just_after_the_rename_leaves_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = Path.replace

    def replace_then_interrupt(self: Path, target: Path) -> None:
        original(self, target)
        if target.suffix == ".pt":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", replace_then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        lower(traced("mlp", True), WithData(TorchScriptTarget()), path=tmp_path / "m.pt", verify=False)
    assert files(tmp_path) == ["m.abc.data", "m.pt"]


def test_an_unwritable_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def denied(*_: object, **__: object) -> None:  # chmod would not stop root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(writing.os, "open", denied)
    with pytest.raises(ArtifactError, match=r"^can't write [^\n]*m\.fxopt: Permission denied$"):
        lower(traced("mlp", True), "eager", path=tmp_path / "m.fxopt")
    assert files(tmp_path) == []
