"""Other libraries' output on standard error: held back, and shown where something failed that should not have.

C++ code writes to the file descriptor; loggers to the stream that they found when they were made, or through
the root logger. What Python code prints while the block runs is seen at once, the user's own as well as
fxopt's; all of it on standard error, since standard output is for results.

>>> with held_back():
...     logging.getLogger("some.library").warning("nobody asked")
"""

import contextlib
import functools
import io
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, ParamSpec, TypeVar

from fxopt.errors import FxoptError, LoweringError, PassError, VerificationError

__all__ = ["heard", "held_back"]

P = ParamSpec("P")
T = TypeVar("T")

_STDERR = 2
_MOST = 20_000
"""Characters that are shown, the last ones."""


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Holds back what is written to standard error; shows it if the block fails, the user's mistakes aside."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as kept:
        try:
            with (
                _python_stream(),
                contextlib.redirect_stdout(sys.stderr),
                _descriptor(kept),
                _root_logger(kept),
            ):
                yield
        except BaseException as error:
            if _is_a_failure(error):
                _show(kept)
            raise


def heard(function: Callable[P, T]) -> Callable[P, T]:
    """The function, with standard error as it was before it was held back: the user's own is never noise."""
    outer = os.dup(_STDERR)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        kept = os.dup(_STDERR)
        os.dup2(outer, _STDERR)
        try:
            return function(*args, **kwargs)
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)

    return run


def _is_a_failure(error: BaseException) -> bool:
    """Whether something failed that should not have: a mistake of the user's is one line."""
    if isinstance(error, FxoptError):
        return isinstance(error, (LoweringError, PassError, VerificationError))
    return isinstance(error, Exception)


@contextlib.contextmanager
def _python_stream() -> Iterator[None]:
    """`sys.stderr` on a descriptor of its own, if it stands for the process's."""
    before = sys.stderr
    try:
        ours = before.fileno() == _STDERR
    except (io.UnsupportedOperation, AttributeError, ValueError):
        ours = False
    if not ours:
        yield
        return
    before.flush()
    with os.fdopen(os.dup(_STDERR), "w", buffering=1, encoding="utf-8", errors="backslashreplace") as own:
        sys.stderr = own
        try:
            yield
        finally:
            sys.stderr = before


@contextlib.contextmanager
def _descriptor(kept: IO[str]) -> Iterator[None]:
    saved = os.dup(_STDERR)
    os.dup2(kept.fileno(), _STDERR)
    try:
        yield
    finally:
        os.dup2(saved, _STDERR)
        os.close(saved)


@contextlib.contextmanager
def _root_logger(kept: IO[str]) -> Iterator[None]:
    """Takes records that nobody handles, which logging itself would print."""
    handler = logging.StreamHandler(kept)
    handler.setLevel(logging.WARNING)
    handler.addFilter(_is_unhandled)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        kept.flush()


def _is_unhandled(record: logging.LogRecord) -> bool:
    """Whether no handler below the root logger has written the record."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger.parent is not None:
        if logger.handlers:
            return False
        logger = logger.parent
    return True


def _show(kept: IO[str]) -> None:
    kept.seek(0)
    text = kept.read()[-_MOST:].strip()
    if text:
        sys.stderr.write(f"--- what other libraries said ---\n{text}\n---\n")
