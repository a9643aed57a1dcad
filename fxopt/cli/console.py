"""What the command line writes: progress on standard error, results on standard output.

The library tells what it does by logging, so that nothing in it knows of the command line.

>>> with progress(quiet=True):
...     logging.getLogger("fxopt").info("tracing")
"""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from fxopt.cli.noise import held_back
from fxopt.cli.words import spoken

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["json_text", "progress", "stdout"]

_LOG_WIDTH = 120
"""Columns where standard output is a file or a pipe."""


def json_text(value: object) -> str:
    """JSON as the command line prints it."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def stdout() -> "Console":
    """Standard output for tables: as wide as the terminal, plain text elsewhere."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _LOG_WIDTH, highlight=False)


class _Handler(logging.Handler):
    def __init__(self, show: Callable[[str], object]) -> None:
        super().__init__(logging.INFO)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[None]:
    """Show what the library says while the block runs: a moving line on a terminal, plain lines elsewhere.

    A warning is one line too, without the place in the source that Python would print. What other libraries
    write to standard error is held back.
    """
    if quiet:
        with held_back(), warnings.catch_warnings(action="ignore"):
            yield
        return
    logger = logging.getLogger("fxopt")
    level = logger.level
    with contextlib.ExitStack() as stack:
        stack.enter_context(held_back())
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _warning_line
        handler = _Handler(_moving_line(stack) if sys.stderr.isatty() else _plain_line)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


def _warning_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    sys.stderr.write(f"fxopt: warning: {spoken(str(message))}\n")


def _plain_line(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def _moving_line(stack: contextlib.ExitStack) -> Callable[[str], object]:
    from rich.markup import escape

    from fxopt.training import stderr_console

    status = stack.enter_context(stderr_console().status(""))
    return lambda message: status.update(escape(message))
