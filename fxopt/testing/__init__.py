"""The test kit: valid Programs by hypothesis, inputs for a program, `check_pass`.

Needs the extra `testing` (hypothesis).
"""

from fxopt.testing.builder import ProgramBuilder
from fxopt.testing.check import CheckFailure, check_once, check_pass, reproducer
from fxopt.testing.families import FAMILIES
from fxopt.testing.strategies import build_program, inputs_for, programs, script_of

__all__ = [
    "FAMILIES",
    "CheckFailure",
    "ProgramBuilder",
    "build_program",
    "check_once",
    "check_pass",
    "inputs_for",
    "programs",
    "reproducer",
    "script_of",
]
