"""Progress lines."""

import io
import logging
import warnings

import pytest

from fxopt.cli.console import progress, stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_elsewhere(capsys: pytest.CaptureFixture[str]):
    with progress(quiet=False):
        logging.getLogger("fxopt.frontend").info("tracing %s", "net")
        logging.getLogger("fxopt.frontend").debug("details")
    assert capsys.readouterr() == ("", "tracing net\n")


def test_a_moving_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress(quiet=False):
        logging.getLogger("fxopt").info("tracing net[0]")
    assert "tracing net[0]" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]):
    with warnings.catch_warnings(action="always"), progress(quiet=False):
        warnings.warn("a weight is NaN", stacklevel=1)
    assert capsys.readouterr() == ("", "fxopt: warning: a weight is NaN\n")


def test_quiet(capsys: pytest.CaptureFixture[str]):
    with progress(quiet=True):
        logging.getLogger("fxopt").info("tracing")
    assert capsys.readouterr() == ("", "")


def test_logging_is_as_before_also_after_an_error():
    logger = logging.getLogger("fxopt")
    before = (logger.level, list(logger.handlers))
    with pytest.raises(KeyboardInterrupt), progress(quiet=False):
        raise KeyboardInterrupt
    assert (logger.level, logger.handlers) == before


def test_tables_are_plain_text_in_a_file(capsys: pytest.CaptureFixture[str]):
    stdout().print("[bold]x[/bold] 12", style="red")
    assert capsys.readouterr().out == "x 12\n"
