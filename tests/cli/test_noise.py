"""What other libraries write to standard error."""

import logging
import os
import subprocess
import sys

import pytest

from fxopt.cli.noise import held_back
from fxopt.errors import InputError, LoweringError

TALKING = """
import logging, os, sys
from fxopt.cli.noise import heard, held_back
old = logging.StreamHandler()
logging.getLogger("torch.talkative").addHandler(old)
os.write(2, b"before\\n")
def metric(): os.write(2, b"the user's library\\n")
try:
    metric = heard(metric)
    with held_back():
        os.write(2, b"from C++\\n")
        logging.getLogger("torch.talkative").warning("from an old handler")
        logging.getLogger("onnx.unhandled").warning("from no handler")
        print("of the user", file=sys.stderr)
        metric()
        {end}
except BaseException as error:
    print(type(error).__name__)
os.write(2, b"after\\n")
"""


def said(end: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", TALKING.replace("{end}", end)], capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()


QUIET = ["before", "of the user", "the user's library"]


def test_it_is_held_back_but_for_the_users_own():
    assert said("pass") == [*QUIET, "after"]


def test_a_mistake_shows_nothing():
    assert said("from fxopt.errors import InputError; raise InputError('x')") == [*QUIET, "after"]


@pytest.mark.parametrize("error", ["ZeroDivisionError", "LoweringError"])
def test_a_failure_shows_it(error: str):
    lines = said(f"from fxopt.errors import *; raise {error}('x')")
    assert [line for line in lines if not line.startswith("---")] == [
        *QUIET,
        "from C++",
        "from an old handler",
        "onnx.unhandled: from no handler",
        "after",
    ]


def test_everything_is_as_before(capfd: pytest.CaptureFixture[str]):
    root, stream = logging.getLogger(), sys.stderr
    handlers = list(root.handlers)
    for error in (InputError("x"), LoweringError("y"), KeyboardInterrupt()):
        with pytest.raises(type(error)), held_back():
            raise error
    assert (root.handlers, sys.stderr) == (handlers, stream)
    os.write(2, b"seen\n")
    assert capfd.readouterr().err == "seen\n"
