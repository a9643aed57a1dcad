"""`FailureReproducer`: an instrument that diagnoses a pass when it fails in a run.

>>> FailureReproducer("failures").folder
PosixPath('failures')
"""

import os

from fxopt.diagnosis.bisect import bisect_pass
from fxopt.diagnosis.checks import check_values
from fxopt.diagnosis.diagnose import Diagnosis, explain
from fxopt.errors import FxoptError, PassError, VerificationError
from fxopt.pipeline import CrashReproducer, Failure

__all__ = ["FailureReproducer"]


class FailureReproducer(CrashReproducer):
    """Bisects the failing pass to its rewrite, reduces the program, and writes the folder of it.

    What does not show again on the pass alone is written as it is.

    Args:
        folder: where the folder is made.
        seconds: when the reduction stops at the latest.
    """

    def __init__(self, folder: str | os.PathLike[str], *, seconds: float = 300.0) -> None:
        super().__init__(folder)
        self.seconds = seconds
        self.diagnosis: Diagnosis | None = None

    def failed(self, failure: Failure) -> str | None:
        """Diagnoses; says what was found."""
        error = failure.error
        if isinstance(error, FxoptError) and not isinstance(error, (PassError, VerificationError)):
            return None
        found = bisect_pass(failure.before(), failure.item, check_values, calibration=failure.calibration)
        if found is None:
            return super().failed(failure)
        try:
            self.diagnosis = explain(found, check_values, folder=self.folder, seconds=self.seconds)
        except OSError as problem:
            return f"no reproducer was written: {problem}"
        self.written = self.diagnosis.folder
        return str(self.diagnosis).replace("\n", "; ")
