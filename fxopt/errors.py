"""The exception tree. Every error that fxopt raises on purpose is an `FxoptError` with one clear line.

A message says what was found, where (the user's file and line where known), and what to do.
"""

__all__ = [
    "ArtifactError",
    "FxoptError",
    "InputError",
    "LoweringError",
    "PassError",
    "PipelineError",
    "TraceError",
    "VerificationError",
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


class ArtifactError(FxoptError):
    """A file is corrupt, tampered with, of an unsupported version, or can't be written."""
