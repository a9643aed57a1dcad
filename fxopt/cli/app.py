"""The application: its verbs, and the one place where an error becomes one line and an exit code.

Exit codes: 0 done, 1 a verification failed, 2 the user's mistake or something that could not run.

>>> main(["--version"])
fxopt 0.1.0
0
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

import fxopt
from fxopt.cli.bench import bench
from fxopt.cli.bisect import bisect
from fxopt.cli.demo import demo
from fxopt.cli.optimize import optimize
from fxopt.cli.partition import partition
from fxopt.cli.passes import passes
from fxopt.cli.reduce import reduce
from fxopt.cli.run import run
from fxopt.cli.verify import verify
from fxopt.cli.words import spoken
from fxopt.errors import FxoptError, VerificationError

__all__ = ["app", "main"]

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
PLANNED = ("show", "diff", "why", "tune", "check", "recipe")
"""Verbs that later versions will have."""

app = typer.Typer(
    name="fxopt",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(optimize)
app.command()(verify)
app.command()(bench)
app.command()(bisect)
app.command()(reduce)
app.command()(partition)
app.command()(run)
app.command()(passes)


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"fxopt {fxopt.__version__}\n")
        raise typer.Exit(DONE)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A compiler for PyTorch inference: optimize a model, lower it, verify the file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows `fxopt`; by default the process's own.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    missing = _planned(given[0])
    if missing:
        return _fail(missing, MISTAKE)
    try:
        code = get_command(app).main(args=given, prog_name="fxopt", standalone_mode=False)
    except VerificationError as error:
        return _fail(str(error), FAILED)
    except FxoptError as error:
        return _fail(str(error), MISTAKE)
    except typer.TyperException as error:
        return _fail(_usage_message(error), MISTAKE)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:  # a full disk, a folder that went away
        return _fail(str(error), MISTAKE)
    except Exception:
        # A fault of fxopt, not of the user: shown in full, and never with the exit code of a verdict.
        traceback.print_exc()
        return _fail("internal error, see above", MISTAKE)
    if code == INTERRUPTED:  # typer makes this number of Ctrl-C
        return _fail("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else DONE


def _planned(verb: str) -> str:
    """Why a verb that will exist does not; empty for any other word."""
    have = [command.callback.__name__ for command in app.registered_commands if command.callback]
    if verb not in PLANNED or verb in have:
        return ""
    return f"`fxopt {verb}` is not in this version yet; it has {', '.join(have)}"


def _usage_message(error: typer.TyperException) -> str:
    """One line, and where to read on."""
    format_message = getattr(error, "format_message", None)
    message = str(format_message()) if format_message else str(error)
    context = getattr(error, "ctx", None)
    return f"{message.rstrip('.')} (see {context.command_path} --help)" if context else message


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"fxopt: error: {spoken(message)}\n")
    return code
