"""One run of a pipeline over one program: each pass in turn, held to what it claims.

"Changed" is what the journal says. The ledger shows every edit that did not go through the Rewriter; what a
pass touched is checked against the dialect, and by induction the rest is as it was.
"""

import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch.fx import Node

from fxopt.dialect import check_program
from fxopt.errors import FxoptError, PassError, PipelineError
from fxopt.pipeline.base import Contract, Pass
from fxopt.pipeline.instruments import Failure, Instrument
from fxopt.pipeline.options import step_of
from fxopt.pipeline.text import Fixpoint, Step, print_steps
from fxopt.program import Program
from fxopt.report import AppliedRewrite, PassReport
from fxopt.rewriting import Analyses, Journal, Ledger, Rewriter
from fxopt.rewriting.journal import Rewrite
from fxopt.rewriting.recorder import is_size_question, size_question

__all__ = ["Bound", "PipelineResult", "Run"]

_FIXPOINT_BOUND = 32
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PipelineResult:
    """What a run made.

    Attributes:
        program: the rewritten program; the one that was given is unchanged.
        passes: one report an application, in order.
        attachments: what passes attached, in order.
        journals: the edit journals, parallel to `passes`.
        reference: what the function of `program` is held to: the program after the last pass that changed it on
            purpose (contract APPROXIMATE), the given one if there is none.
        changed_by: that pass's name, empty if there is none.
    """

    program: Program
    reference: Program
    passes: tuple[PassReport, ...] = ()
    attachments: tuple[object, ...] = ()
    journals: tuple[Journal, ...] = ()
    changed_by: str = ""

    @property
    def held_to(self) -> str:
        """What a file is compared with, if not with the model; else empty."""
        return f"the program after {self.changed_by}" if self.changed_by else ""

    @property
    def on_purpose(self) -> str:
        """Why a file is not compared with the model; empty if it is."""
        if not self.changed_by:
            return ""
        return (
            f"{self.changed_by} changes the function on purpose: the file is verified against the program after "
            "it; how good that is, a metric says"
        )


@dataclass(frozen=True)
class Bound:
    """Passes in order, once or to a fixpoint."""

    passes: tuple["Pass | Bound", ...]
    fixpoint: bool = False

    def flat(self) -> list[Pass]:
        """The passes in order, those of a fixpoint once."""
        return [p for item in self.passes for p in (item.flat() if isinstance(item, Bound) else [item])]

    def placed(self, placement: str) -> "Bound":
        """The same passes as a target's runtime wants them."""
        return Bound(tuple(item.placed(placement) for item in self.passes), self.fixpoint)

    def steps(self) -> tuple[Step, ...]:
        """The steps that make it, named pipelines written out."""
        steps: list[Step] = []
        for item in self.passes:
            if not isinstance(item, Bound):
                steps.append(step_of(item))
            elif item.fixpoint:
                steps += [Fixpoint(item.steps())] if item.passes else []
            else:
                steps += item.steps()
        return tuple(steps)


@dataclass
class Run:
    """The state of one run."""

    original: Program
    """Left as it is; the run works on a copy."""
    instruments: Sequence[Instrument] = ()
    calibration: object = None
    passes: list[PassReport] = field(default_factory=list)
    attachments: list[object] = field(default_factory=list)
    journals: list[Journal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.program = self.original.copy()
        check_program(self.program)
        self._ledger = Ledger(self.program)
        self._analyses: Analyses = {}
        self._place: list[tuple[Bound, int]] = []
        """The groups that are being run, outermost first, with the index in each."""
        self._applied: list[Pass] = []
        self._reference, self._changed_by = self.original, ""

    def result(self) -> PipelineResult:
        """What was made so far."""
        return PipelineResult(
            self.program,
            self._reference,
            tuple(self.passes),
            tuple(self.attachments),
            tuple(self.journals),
            self._changed_by,
        )

    def run(self, bound: Bound) -> bool:
        """Runs passes; True if anything changed."""
        changed = False
        for _ in range(_FIXPOINT_BOUND if bound.fixpoint else 1):
            first = len(self.passes)
            again = self._once(bound)
            changed |= again
            if not (bound.fixpoint and again):
                return changed
        names = sorted({p.name for p in self.passes[first:] if p.changed})
        raise PassError(
            f"fixpoint: still changing after {_FIXPOINT_BOUND} rounds; the passes {', '.join(names)} undo "
            "one another"
        )

    def _once(self, bound: Bound) -> bool:
        changed = False
        for i, item in enumerate(bound.passes):
            self._place.append((bound, i))
            changed |= self.run(item) if isinstance(item, Bound) else self._apply(item)
            self._place.pop()
        return changed

    def _apply(self, item: Pass) -> bool:
        """Runs one pass and checks it."""
        _check_requirements(item, self.program)
        for instrument in self.instruments:
            instrument.before_pass(item, self.program)
        limits = [i for i in self.instruments if i.limits]

        def allow(rule: str, root: Node) -> bool:
            return all(limit.allow(rule, root) for limit in limits)

        rewriter = Rewriter(
            self.program,
            allow=allow if limits else None,
            calibration=self.calibration,
            ledger=self._ledger,
            analyses=self._analyses,
        )
        try:
            report = self._checked(item, rewriter)
            for instrument in self.instruments:
                instrument.after_pass(item, self.program, report, rewriter.journal)
        except Exception as error:
            raise self._failure(item, error) from error
        self._applied.append(item)
        if report.changed and item.contract is Contract.APPROXIMATE:
            self._reference, self._changed_by = self.program.copy(), item.pass_name()
        return report.changed

    def _again(self) -> Program:
        """The program as it was before the pass that failed."""
        again = Run(self.original, calibration=self.calibration)
        for item in self._applied:
            again._apply(item)
        return again.program

    def _checked(self, item: Pass, rewriter: Rewriter) -> PassReport:
        name, program, journal = item.pass_name(), self.program, rewriter.journal
        before, ops_before = len(program.graph.nodes), _ops(program)
        start = time.perf_counter()
        shape_env = program.fake_mode.shape_env
        assert shape_env is not None
        with shape_env.error_on_new_guards():
            item.run(rewriter)
        seconds = time.perf_counter() - start
        strange = self._ledger.difference()
        if strange is not None:
            raise PassError(
                f"pass {name!r} {strange} around the Rewriter; edit inside "
                "`with rewriter.rewrite(rule, root):` only"
            )
        check_program(program, after=name, nodes=[n for n in journal.touched if not n._erased])
        self._note_properties(item, journal.changed)
        report = PassReport(
            name=name,
            seconds=seconds,
            changed=journal.changed,
            rewrites=len(journal.rewrites),
            nodes=len(program.graph.nodes),
            nodes_before=before,
            refusals=tuple(rewriter.refusals),
            rules=journal.counts(),
            ops=_ops(program),
            ops_before=ops_before,
            applied=tuple(map(_applied, journal.rewrites)),
        )
        self.passes.append(report)
        self.journals.append(journal)
        self.attachments += rewriter.attachments
        return report

    def _note_properties(self, item: Pass, changed: bool) -> None:
        """What the program has after a pass; what was attached to a graph that is no longer is lost."""
        program = self.program
        lost = (
            program.attached.keys() - item.establishes if changed else item.breaks & program.attached.keys()
        )
        for name in sorted(lost):
            log.info("pass %r changes the graph: it is no longer %r", item.pass_name(), name)
            del program.attached[name]
        program.properties = (program.properties - item.breaks - lost) | item.establishes

    def _failure(self, item: Pass, error: Exception) -> FxoptError:
        """The error that names the pass, with what instruments have to say."""
        name = item.pass_name()
        rest = self._rest()
        text, passes = print_steps(rest.steps()), tuple(rest.flat())
        failure = Failure(item, self.program, error, text, passes, self._again, self.calibration)
        notes = [note for i in self.instruments if (note := i.failed(failure))]
        if not isinstance(error, FxoptError):
            said = size_question(error) if is_size_question(error) else f"{type(error).__name__}: {error}"
            return PassError("; ".join([f"pass {name!r} failed: {said}{_line(error)}", *notes]))
        said = str(error) if f"pass {name!r}" in str(error) else f"pass {name!r}: {error}"
        Exception.__init__(error, "; ".join([said, *notes]))  # keeps what else it carries, a report
        return error

    def _rest(self) -> "Bound":
        """The pipeline from this pass on; the round of a fixpoint is finished, then it is begun anew."""
        rest: list[Pass | Bound] = []
        for depth, (bound, index) in enumerate(reversed(self._place)):
            rest += bound.passes[index + (depth > 0) :]
            if bound.fixpoint:
                rest.append(bound)
        return Bound(tuple(rest))


def _ops(program: Program) -> int:
    return sum(1 for _ in program.calls())


def _applied(rewrite: Rewrite) -> AppliedRewrite:
    where = "; ".join(dict.fromkeys(map(str, rewrite.origins)))
    return AppliedRewrite(rewrite.rule, rewrite.root, where, len(rewrite.created), len(rewrite.removed))


def _check_requirements(item: Pass, program: Program) -> None:
    missing = sorted(item.requires - program.properties)
    if missing:
        raise PipelineError(f"pass {item.pass_name()!r} requires a program that is {missing[0]!r}")
    excluded = sorted(item.excludes & program.properties)
    if excluded:
        raise PipelineError(f"pass {item.pass_name()!r} can't run on a program that is {excluded[0]!r}")


def _line(error: Exception) -> str:
    """The last line outside of torch and of the layers below, where the pass's author looks first."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and "/fxopt/rewriting/" not in f.filename]
    own = [f for f in own if not f.filename.endswith("/fxopt/pipeline/run.py")]
    return f" (at {own[-1].filename.rsplit('/', 1)[-1]}:{own[-1].lineno})" if own else ""
