"""The exception tree. Every error that fxopt raises on purpose is an `FxoptError` with one clear line.

A message says what was found, where (the user's file and line where known), and what to do.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "FxoptError",
    "InputError",
    "LoweringError",
    "PassError",
    "PipelineError",
    "TraceError",
    "TrainingError",
    "VerificationError",
    "nearest",
]


class FxoptError(Exception):
    """Root of all errors that fxopt raises on purpose."""


class TraceError(FxoptError):
    """The model can't be captured as a functional graph; names the user's own line and what to change there."""


class InputError(FxoptError, TypeError):
    """A program or artifact was called with arguments that its signature does not take."""


class PipelineError(FxoptError):
    """Pipeline text that does not parse, an unknown pass or option, an illegal order."""


class PassError(FxoptError):
    """A pass broke a rule of the framework or crashed; names the pass."""


class LoweringError(FxoptError):
    """Ops without a lowering rule for the target; names each with its module path and line."""


class VerificationError(FxoptError):
    """An artifact or program is not equivalent to its reference; carries the report as `report`."""

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class TrainingError(FxoptError):
    """Training can't go on: the loss or a weight is no number. `program` holds the best weights until then."""

    def __init__(self, message: str, program: object = None) -> None:
        super().__init__(message)
        self.program = program


class ArtifactError(FxoptError):
    """A file is corrupt, tampered with, of an unsupported version, or can't be written."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant, for "did you mean": letters' case, - and _ count for little.

    >>> known = ["fuse-conv-bn", "O0", "O1"]
    >>> nearest("fuse_conv_BN", known), nearest("o1", known), nearest("fuse", known), nearest("x", known)
    ('fuse-conv-bn', 'O1', 'fuse-conv-bn', None)
    """
    by_letters: dict[str, str] = {}
    for candidate in known:
        by_letters.setdefault(_letters(candidate), candidate)
    # Of two letters one may be wrong.
    cutoff = 0.5 if len(name) <= 2 else 0.6
    close = difflib.get_close_matches(_letters(name), by_letters, 1, cutoff)
    begun = [k for k in by_letters if len(name) > 2 and k.startswith(_letters(name))]
    return by_letters[(close or begun)[0]] if close or begun else None


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
