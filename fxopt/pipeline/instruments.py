"""Instruments: objects that the manager calls around each pass. Timing, dumps, checks and limits are all of this kind."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from torch.fx import Node

from fxopt.pipeline.base import Pass
from fxopt.program import Program
from fxopt.report import PassReport
from fxopt.rewriting.journal import Journal

if TYPE_CHECKING:
    from fxopt.pipeline.manager import PassManager

__all__ = ["CheckEach", "DiffAfterChange", "Instrument", "RewriteLimit"]

log = logging.getLogger(__name__)


class Instrument:
    """Base of instruments; every hook does nothing by default."""

    limits = False
    """Whether `allow` decides about rewrites."""

    def begin(self, manager: "PassManager", program: Program) -> None:
        """Called once before the first pass."""

    def before_pass(self, item: Pass, program: Program) -> None:
        """Called before each pass."""

    def after_pass(self, item: Pass, program: Program, report: PassReport, journal: Journal) -> None:
        """Called after each pass that did not fail."""

    def failed(self, item: Pass, program: Program, error: Exception) -> None:
        """Called when a pass raised or broke a rule, before the error goes on."""

    def end(self, program: Program, passes: Sequence[PassReport]) -> None:
        """Called once after the last pass."""

    def allow(self, rule: str, root: Node) -> bool:
        """Whether a rewrite may stay, asked once each if `limits`."""
        return True


class DiffAfterChange(Instrument):
    """Writes the text diff of every pass that changed something."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._before: Program | None = None

    def before_pass(self, item: Pass, program: Program) -> None:
        """Keeps the program as it was."""
        self._before = program.copy()

    def after_pass(self, item: Pass, program: Program, report: PassReport, journal: Journal) -> None:
        """Writes the difference."""
        if report.changed and self._before is not None:
            self.stream.write(f"# after {report.name}\n{self._before.diff(program)}\n")


class RewriteLimit(Instrument):
    """Lets only the first `limit` rewrites stay, counted over the whole run (as LLVM's opt-bisect-limit)."""

    limits = True

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.applied: list[tuple[str, str]] = []
        self.asked = 0

    def allow(self, rule: str, root: Node) -> bool:
        """True for the first `limit` rewrites."""
        self.asked += 1
        if len(self.applied) >= self.limit:
            return False
        self.applied.append((rule, root.name))
        return True


class CheckEach(Instrument):
    """Checks every application that changed something, before against after, by the pass's contract.

    Args:
        check: compares (before, after, pass) and raises if they differ.
    """

    def __init__(self, check: Callable[[Program, Program, Pass], None]) -> None:
        self.check = check
        self._before: Program | None = None

    def before_pass(self, item: Pass, program: Program) -> None:
        """Keeps the program as it was."""
        self._before = program.copy()

    def after_pass(self, item: Pass, program: Program, report: PassReport, journal: Journal) -> None:
        """Compares."""
        if report.changed and self._before is not None:
            self.check(self._before, program, item)
