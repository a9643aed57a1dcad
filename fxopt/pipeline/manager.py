"""`PassManager`: parses a pipeline, checks it when it is built, runs it, holds each pass to what it claims.

>>> str(PassManager.parse("O1"))
'O1'
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch.fx import Node

from fxopt.dialect import check_program
from fxopt.errors import FxoptError, PassError, PipelineError
from fxopt.pipeline.base import Pass
from fxopt.pipeline.instruments import Instrument
from fxopt.pipeline.named import NAMED, expand_named
from fxopt.pipeline.options import make_pass
from fxopt.pipeline.registry import registry
from fxopt.pipeline.text import Fixpoint, Named, Step, parse_steps, print_steps
from fxopt.program import Program
from fxopt.report import PassReport
from fxopt.rewriting import Rewriter, fingerprint
from fxopt.rewriting.journal import Journal

__all__ = ["PassManager", "PipelineResult"]

_FIXPOINT_BOUND = 32


@dataclass(frozen=True)
class PipelineResult:
    """What a run made.

    Attributes:
        program: the rewritten program; the one that was given is unchanged.
        passes: one report an application, in order.
        attachments: what passes attached, in order.
        journals: the edit journals, parallel to `passes`.
    """

    program: Program
    passes: tuple[PassReport, ...] = ()
    attachments: tuple[object, ...] = ()
    journals: tuple[Journal, ...] = ()


@dataclass(frozen=True)
class _Bound:
    """A step with its passes made."""

    passes: tuple["Pass | _Bound", ...]
    fixpoint: bool = False


@dataclass
class _Run:
    """The state of one run."""

    program: Program
    instruments: Sequence[Instrument]
    calibration: object
    passes: list[PassReport] = field(default_factory=list)
    attachments: list[object] = field(default_factory=list)
    journals: list[Journal] = field(default_factory=list)


class PassManager:
    """A pipeline, built and checked."""

    def __init__(self, steps: tuple[Step, ...], *, text: str | None = None) -> None:
        self.steps = steps
        self._text = text
        self._bound = _Bound(tuple(self._bind(s) for s in steps))
        self._check_properties()

    @classmethod
    def parse(cls, text: "str | PassManager | Pass | Sequence[Pass]") -> "PassManager":
        """The manager of a pipeline text (or of passes made in Python).

        Raises:
            PipelineError: bad text (a caret marks the place), an unknown pass or option, an illegal order.
        """
        if isinstance(text, PassManager):
            return text
        if isinstance(text, str):
            return cls(parse_steps(text), text=text)
        return cls.of([text] if isinstance(text, Pass) else text)

    @classmethod
    def of(cls, passes: Iterable[Pass]) -> "PassManager":
        """The manager of pass objects, which need not be registered."""
        manager = cls(())
        made = tuple(passes)
        for item in made:
            if not isinstance(item, Pass):
                raise PipelineError(f"expected pipeline text or passes, got {item!r}")
        manager.steps = tuple(_step_of(p) for p in made)
        manager._bound = _Bound(made)
        manager._check_properties()
        return manager

    def __str__(self) -> str:
        return print_steps(self.steps)

    def expand(self) -> str:
        """The pipeline in full: named pipelines written out."""
        return print_steps(tuple(s for step in self.steps for s in _expanded(step)))

    def hash(self) -> str:
        """A stable hash of the expanded pipeline: a cache key."""
        return hashlib.sha256(self.expand().encode()).hexdigest()[:16]

    def passes(self) -> list[Pass]:
        """The passes in order, those of a fixpoint once."""
        return list(_flat(self._bound))

    def run(
        self,
        program: Program,
        *,
        calibration: object = None,
        instruments: Sequence[Instrument] = (),
    ) -> PipelineResult:
        """Runs the pipeline on a copy of the program.

        Args:
            program: left as it is; its weights are shared with the result where no pass changes them.
            calibration: example inputs for passes that need them.
            instruments: called around each pass.

        Raises:
            PassError: a pass crashed, or broke a rule of the framework; names it.
            PipelineError: calibration data or a property that a pass needs is missing.
        """
        needy = next((p for p in self.passes() if p.needs_calibration), None)
        if needy is not None and calibration is None:
            raise PipelineError(f"pass {needy.pass_name()!r} needs calibration data: pass calibration=")
        run = _Run(program.copy(), instruments, calibration)
        for instrument in instruments:
            instrument.begin(self, run.program)
        _run_bound(run, self._bound)
        run.program.history = (*program.history, *([self.expand()] if self.steps else []))
        result = PipelineResult(run.program, tuple(run.passes), tuple(run.attachments), tuple(run.journals))
        for instrument in instruments:
            instrument.end(result.program, result.passes)
        return result

    def _bind(self, step: Step) -> "Pass | _Bound":
        if isinstance(step, Fixpoint):
            return _Bound(tuple(self._bind(s) for s in step.steps), fixpoint=True)
        text = expand_named(step)
        if text is not None:
            return _Bound(tuple(self._bind(s) for s in parse_steps(text)))
        if step.name not in registry:
            message = f"unknown pass {step.name!r}{registry.hint(step.name, tuple(NAMED))}"
            if self._text is not None:
                message += f"\n  {self._text}\n  {' ' * step.position}^"
            raise PipelineError(message)
        return make_pass(registry.get(step.name), step)

    def _check_properties(self) -> None:
        """Whether each pass finds the properties that it requires, as far as the pipeline itself establishes or breaks them."""
        broken: dict[str, str] = {}
        established: dict[str, str] = {}
        for item in _flat(self._bound):
            name = item.pass_name()
            for needed in sorted(item.requires):
                if needed in broken:
                    raise PipelineError(
                        f"pass {name!r} requires {needed!r}, which {broken[needed]!r} before it breaks: move it before that"
                    )
            for excluded in sorted(item.excludes):
                if excluded in established:
                    raise PipelineError(
                        f"pass {name!r} can't run on a program that is {excluded!r}, "
                        f"as {established[excluded]!r} makes it: move it before that"
                    )
            for gone in item.breaks:
                broken[gone] = name
                established.pop(gone, None)
            for new in item.establishes:
                established[new] = name
                broken.pop(new, None)


def _step_of(item: Pass) -> Named:
    import dataclasses

    options = tuple(
        (f.name, getattr(item, f.name))
        for f in dataclasses.fields(item)  # type: ignore[arg-type]
        if getattr(item, f.name) != f.default
    )
    return Named(item.pass_name(), options)


def _expanded(step: Step) -> Iterator[Step]:
    if isinstance(step, Fixpoint):
        yield Fixpoint(tuple(s for inner in step.steps for s in _expanded(inner)))
        return
    text = expand_named(step)
    if text is None:
        yield step
    else:
        for inner in parse_steps(text):
            yield from _expanded(inner)


def _flat(bound: _Bound) -> Iterator[Pass]:
    for item in bound.passes:
        if isinstance(item, _Bound):
            yield from _flat(item)
        else:
            yield item


def _run_bound(run: _Run, bound: _Bound) -> bool:
    """Runs steps; True if anything changed."""
    changed = False
    for round_ in range(_FIXPOINT_BOUND if bound.fixpoint else 1):
        again = False
        first = len(run.passes)
        for item in bound.passes:
            again |= _run_bound(run, item) if isinstance(item, _Bound) else _run_pass(run, item)
        changed |= again
        if not again:
            break
        if bound.fixpoint and round_ == _FIXPOINT_BOUND - 1:
            names = sorted({p.name for p in run.passes[first:] if p.changed})
            raise PassError(
                f"fixpoint: still changing after {_FIXPOINT_BOUND} rounds; the passes {', '.join(names)} undo one another"
            )
    return changed


def _run_pass(run: _Run, item: Pass) -> bool:
    name = item.pass_name()
    program = run.program
    _check_requirements(item, program)
    before = fingerprint(program.graph)
    allow = next((i.allow for i in run.instruments if i.limits), None)
    rewriter = Rewriter(program, allow=allow, calibration=run.calibration)
    nodes_before = len(before)
    for instrument in run.instruments:
        instrument.before_pass(item, program)
    start = time.perf_counter()
    try:
        item.run(rewriter)
        seconds = time.perf_counter() - start
        _check_journal(name, before, program, rewriter.journal)
        check_program(program, after=name)
    except Exception as error:
        for instrument in run.instruments:
            instrument.failed(item, program, error)
        if isinstance(error, FxoptError):
            raise (
                error if str(error).startswith("pass ") else type(error)(f"pass {name!r}: {error}")
            ) from error
        raise PassError(f"pass {name!r} failed: {type(error).__name__}: {error}") from error
    journal = rewriter.journal
    program.properties = (program.properties - item.breaks) | item.establishes
    report = PassReport(
        name=name,
        seconds=seconds,
        changed=journal.changed,
        rewrites=len(journal.rewrites),
        nodes=len(program.graph.nodes),
        nodes_before=nodes_before,
        refusals=tuple(rewriter.refusals),
        rules=journal.counts(),
    )
    run.passes.append(report)
    run.journals.append(journal)
    run.attachments += rewriter.attachments
    for instrument in run.instruments:
        instrument.after_pass(item, program, report, journal)
    return journal.changed


def _check_requirements(item: Pass, program: Program) -> None:
    missing = sorted(item.requires - program.properties)
    if missing:
        raise PipelineError(f"pass {item.pass_name()!r} requires a program that is {missing[0]!r}")
    excluded = sorted(item.excludes & program.properties)
    if excluded:
        raise PipelineError(f"pass {item.pass_name()!r} can't run on a program that is {excluded[0]!r}")


def _check_journal(name: str, before: Mapping[Node, object], program: Program, journal: Journal) -> None:
    """Catches edits around the Rewriter: a node that differs and that the journal does not know."""
    after = fingerprint(program.graph)
    edited = [n for n, key in after.items() if before.get(n) != key and n not in journal.touched]
    edited += [n for n in before if n not in after and n not in journal.touched]
    if edited:
        raise PassError(
            f"pass {name!r} edited {edited[0].name} around the Rewriter; edit with rewriter.rewrite(...) only"
        )
