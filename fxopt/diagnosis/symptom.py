"""`Symptom`: how a failure shows, so that a smaller program can be told to show the same one.

Two symptoms are equal if kind, manner and pass are; numbers, names of nodes and sizes, which change as a
program shrinks, are not compared.

>>> pattern("rewrite 'fold' at relu_3: expected 4 sizes, got [2, 8]")
"rewrite 'fold' at #: expected # sizes, got [#]"
"""

import dataclasses
import re
from dataclasses import dataclass, field

from fxopt.report import VerifyReport

__all__ = ["Symptom", "of_crash", "of_report", "pattern"]

_MANNERS = (
    ("raises where", "one side raises"),
    ("has shape", "shape"),
    ("has dtype", "dtype"),
    ("NaN or infinite", "non-finite values"),
    ("integers differ", "integers"),
    ("writes to its input", "an input is written to"),
)
"""What in a reason says how outputs differ; all else is a difference of values."""


@dataclass(frozen=True)
class Symptom:
    """One way to fail.

    Attributes:
        kind: "values", "crash", "effects", "target", "slower" or "test".
        manner: by which oracle and how, or the error's type and text without its particulars.
        pass_name: the pass that fails, where the failure itself says so.
        text: one line for people.
        report: the comparison, for values.
        error: the exception, for a crash.
    """

    kind: str
    manner: str = ""
    pass_name: str = ""
    text: str = field(default="", compare=False)
    report: VerifyReport | None = field(default=None, compare=False, repr=False)
    error: Exception | None = field(default=None, compare=False, repr=False)

    def is_as(self, other: "Symptom") -> bool:
        """Whether it is the other's failure: the same, or one of values that float32 shows too by now.

        What only the oracle of algebra saw in a deep program is larger than rounding once there is little
        around it.
        """
        clearer = self.manner.replace("rounding:", "algebra:", 1)
        return self == other or dataclasses.replace(self, manner=clearer) == other


def pattern(message: str) -> str:
    """A message without what changes from program to program: numbers, lists of them, names with numbers."""
    first = (message.strip().splitlines() or [""])[0]
    first = re.sub(r"%?\b[a-z][a-z0-9_]*_\d+\b|-?\b\d[\d.e+-]*\b", "#", first)
    return re.sub(r"#(?:, #)+", "#", first)


def of_report(report: VerifyReport, kind: str = "values") -> Symptom:
    """The symptom of a comparison that found a difference."""
    manner = next((name for words, name in _MANNERS if words in report.reason), "values")
    output = report.counterexample.output if report.counterexample is not None else ""
    algebra = output.endswith(" in float64")
    oracle = report.oracle if report.oracle in ("bitwise", "budget") else "algebra" if algebra else "rounding"
    return Symptom(kind, f"{oracle}: {manner}", text=report.reason, report=report)


def of_crash(error: Exception, pass_name: str = "") -> Symptom:
    """The symptom of an exception; of one that was wrapped in an error of fxopt, the cause's."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    manner = f"{type(cause).__name__}: {pattern(str(cause))}"
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return Symptom("crash", manner, pass_name, text=text, error=error)
