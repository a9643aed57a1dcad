"""Instruments: objects that the manager calls around each pass; dumps, checks, limits are of this kind.

>>> class Names(Instrument):
...     def before_pass(self, item, program):
...         print(item.pass_name())
>>> from fxopt.pipeline import PassManager
>>> from fxopt.frontend import trace
>>> import torch
>>> program = trace(torch.nn.ReLU().eval(), (torch.ones(2),))
>>> _ = PassManager.parse("eliminate-dead-code").run(program, instruments=[Names()])
eliminate-dead-code
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from torch.fx import Node

from fxopt.dialect import check_program
from fxopt.pipeline.base import Pass
from fxopt.program import Program
from fxopt.report import PassReport
from fxopt.rewriting import Journal

if TYPE_CHECKING:
    from fxopt.pipeline.manager import PassManager

__all__ = [
    "CheckEach",
    "DiffAfterChange",
    "Failure",
    "Instrument",
    "RewriteLimit",
    "StructuralVerify",
]


@dataclass(frozen=True)
class Failure:
    """A pass that raised or broke a rule."""

    item: Pass
    program: Program
    """As the pass left it; it may be ill-formed."""
    error: Exception
    rest: str
    """The pipeline from this pass on, in full."""
    passes: tuple[Pass, ...]
    """Its passes."""
    before: Callable[[], Program]
    """Makes the program again as it was before this pass, by the passes that went before."""
    calibration: object = None


class Instrument:
    """Base of instruments; every hook does nothing by default."""

    limits = False
    """Whether `allow` decides about rewrites."""

    def begin(self, manager: "PassManager", program: Program) -> None:
        """Called once before the first pass."""

    def before_pass(self, item: Pass, program: Program) -> None:
        """Called before each pass."""

    def after_pass(self, item: Pass, program: Program, report: PassReport, journal: Journal) -> None:
        """Called after each pass that did not fail; what it raises counts as the pass's failure."""

    def failed(self, failure: Failure) -> str | None:
        """Called when a pass failed, before the error goes on; what it returns is added to the message."""
        return None

    def end(self, program: Program, passes: Sequence[PassReport]) -> None:
        """Called once after the last pass."""

    def allow(self, rule: str, root: Node) -> bool:
        """Whether a rewrite may stay, asked once each if `limits`."""
        return True


class _Compares(Instrument):
    """Keeps the program as it was before each pass."""

    def __init__(self) -> None:
        self.before: Program | None = None

    def before_pass(self, item: Pass, program: Program) -> None:
        """Keeps a copy."""
        self.before = program.copy()


class DiffAfterChange(_Compares):
    """Writes the text diff of every pass that changed something."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def after_pass(self, item: Pass, program: Program, report: PassReport, journal: Journal) -> None:
        """Writes the difference."""
        if report.changed and self.before is not None:
            self.stream.write(f"# after {report.name}\n{self.before.diff(program)}\n")


class CheckEach(_Compares):
    """Checks every application that changed something, before against after, by the pass's contract.

    Args:
        check: compares (before, after, pass) and raises if they differ.
    """

    def __init__(self, check: Callable[[Program, Program, Pass], None]) -> None:
        super().__init__()
        self.check = check

    def after_pass(self, item: Pass, program: Program, report: PassReport, journal: Journal) -> None:
        """Compares."""
        if report.changed and self.before is not None:
            self.check(self.before, program, item)


class StructuralVerify(Instrument):
    """Checks the whole program after each pass that changed something.

    The manager checks what a pass touched; this checks every node, and infers every value afresh.

    Args:
        values: infer values too, which takes a tenth of a millisecond a node and more.
    """

    def __init__(self, *, values: bool = True) -> None:
        self.values = values

    def after_pass(self, item: Pass, program: Program, report: PassReport, journal: Journal) -> None:
        """Raises PassError with the first violations."""
        if report.changed:
            check_program(program, after=report.name, values=self.values)


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
