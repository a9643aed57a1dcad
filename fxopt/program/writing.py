"""Files are written whole or not at all: to a hidden name in the same folder, flushed to the disk, renamed.

>>> import tempfile, pathlib
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> with replacing(folder / "a.txt") as temporary:
...     _ = temporary.write_text("all of it")
>>> [p.name for p in folder.iterdir()]
['a.txt']
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from fxopt.errors import ArtifactError

__all__ = [
    "Buffer",
    "checked_folder",
    "checked_path",
    "hidden_name",
    "replace_file",
    "replace_folder",
    "replacing",
    "write_file",
    "writing",
]

Buffer = bytes | bytearray | memoryview


def checked_path(path: object) -> str:
    """A path as text.

    Raises:
        ArtifactError: it is none.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArtifactError(f"expected a path, got {path!r}")
    return str(os.fspath(path))


def hidden_name(path: Path) -> Path:
    """A name of its own in the folder of `path`, hidden, with the suffix of `path`."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into one line that names the file.

    Raises:
        ArtifactError: for an OSError inside.
    """
    try:
        yield
    except OSError as error:
        if not path.parent.is_dir():
            reason = f"the folder {path.parent} does not exist"
        elif path.is_dir():
            reason = "it is a folder"
        else:
            reason = error.strerror or str(error)
        raise ArtifactError(f"can't write {path}: {reason}") from error


def write_file(path: Path, buffers: Iterable[Buffer]) -> None:
    """Writes a file that must not exist yet, through to the disk; leaves none behind if that fails.

    Raises:
        OSError: the file system refuses.
    """
    # The mode open() would use: mkstemp's private one would make the final file unreadable to others.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for buffer in buffers:
                file.write(buffer)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace_file(temporary: Path, path: Path) -> None:
    """Renames over `path` and makes the rename last.

    Raises:
        OSError: the file system refuses.
    """
    temporary.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, renamed to `path` when the block ends well, removed when it does not.

    Raises:
        ArtifactError: the file system refuses.
    """
    temporary = hidden_name(path)
    try:
        with writing(path):
            yield temporary
            replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def checked_folder(final: Path, manifest: str) -> Path:
    """A folder that can be written: it is not there, is empty, or one of the same kind, with that manifest.

    Raises:
        ArtifactError: it is something else, or stands nowhere.
    """
    with writing(final):
        if not final.parent.is_dir():
            raise FileNotFoundError
    if final.is_file() or (final.is_dir() and any(final.iterdir()) and not (final / manifest).is_file()):
        raise ArtifactError(
            f"can't write {final}: it is a {'file' if final.is_file() else 'folder of something else'}"
        )
    return final


def replace_folder(temporary: Path, final: Path) -> None:
    """Gives a new folder its name; the one that had it is put back if that fails.

    Raises:
        ArtifactError: it can't be renamed.
    """
    old = hidden_name(final) if final.is_dir() else None
    with writing(final):
        if old is not None:
            final.replace(old)
        try:
            temporary.replace(final)
        except BaseException:
            if old is not None:
                old.replace(final)
            raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
