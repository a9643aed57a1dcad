"""`PassManager`: parses a pipeline, checks it when it is built, runs it.

>>> manager = PassManager.parse("clean,fixpoint(fold-constants)")
>>> str(manager)
'clean,fixpoint(fold-constants)'
>>> PassManager.parse(manager.expand()).hash() == manager.hash()
True
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fxopt.errors import PipelineError
from fxopt.pipeline.base import Pass
from fxopt.pipeline.collector import full_collections_put_off
from fxopt.pipeline.instruments import Instrument
from fxopt.pipeline.named import NAMED, expand_named
from fxopt.pipeline.options import make_pass, step_of
from fxopt.pipeline.registry import registry
from fxopt.pipeline.run import Bound, PipelineResult, Run
from fxopt.pipeline.text import Fixpoint, Named, Step, Value, marked, parse_steps, print_steps
from fxopt.program import Program, expect_program

__all__ = ["PassManager", "PipelineResult", "check_calibration"]


class PassManager:
    """A pipeline, built and checked."""

    def __init__(self, steps: tuple[Step, ...], *, text: str | None = None) -> None:
        self.steps = steps
        self._bound = Bound(tuple(_bind(s, text, ()) for s in steps))
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
        """The manager of pass objects, which need not be registered.

        Raises:
            PipelineError: an object that is no pass, an illegal order.
        """
        if not isinstance(passes, Iterable):
            raise PipelineError(f"expected pipeline text or passes, got {passes!r}")
        given: Iterable[object] = passes
        made: list[Pass] = []
        for item in given:
            if not isinstance(item, Pass):
                raise PipelineError(f"expected pipeline text or passes, got {item!r}{_hint(item)}")
            made.append(item)
        manager = cls(())
        manager.steps = tuple(step_of(p) for p in made)
        manager._bound = Bound(tuple(made))
        manager._check_properties()
        return manager

    def placed(self, placement: str) -> "PassManager":
        """The same pipeline, with what its passes leave to the target's runtime chosen: `expand` shows it."""
        manager = PassManager(())
        manager.steps, manager._bound = self.steps, self._bound.placed(placement)
        return manager

    def with_options(self, name: str, options: Mapping[str, Value]) -> "PassManager":
        """The same pipeline with options of a pass set, also where a named pipeline hands them on to it.

        Raises:
            PipelineError: a named pipeline does not take them.
        """
        return PassManager.parse(print_steps(tuple(_with_options(s, name, options) for s in self.steps)))

    def __str__(self) -> str:
        return print_steps(self.steps)

    def expand(self) -> str:
        """The pipeline in full: named pipelines written out, options at their defaults left out."""
        return print_steps(self._bound.steps())

    def hash(self) -> str:
        """A stable hash of the expanded pipeline: a cache key."""
        return hashlib.sha256(self.expand().encode()).hexdigest()[:16]

    def passes(self) -> list[Pass]:
        """The passes in order, those of a fixpoint once."""
        return self._bound.flat()

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
            InputError: it is no program.
        """
        expect_program(program, "a pipeline")
        check_calibration(self, calibration)
        if isinstance(calibration, Iterator):
            calibration = list(calibration)  # the first pass would leave nothing for the second
        # Calibration runs programs on data, whose tensors may wait for a collection.
        with full_collections_put_off() if calibration is None else contextlib.nullcontext():
            return self._run(program, calibration, instruments)

    def _run(
        self, program: Program, calibration: object, instruments: Sequence[Instrument]
    ) -> PipelineResult:
        run = Run(program, instruments, calibration)
        for instrument in instruments:
            instrument.begin(self, run.program)
        run.run(self._bound)
        run.program.history = (*program.history, *([self.expand()] if self.steps else []))
        result = run.result()
        for instrument in instruments:
            instrument.end(result.program, result.passes)
        return result

    def _check_properties(self) -> None:
        """Whether each pass finds the properties that it requires, as far as the pipeline decides them."""
        broken: dict[str, str] = {}
        established: dict[str, str] = {}
        for item in _in_time(self._bound):
            name = item.pass_name()
            for needed in sorted(item.requires & broken.keys()):
                raise PipelineError(
                    f"pass {name!r} requires {needed!r}, which {broken[needed]!r} before it breaks: "
                    "move it before that"
                )
            for excluded in sorted(item.excludes & established.keys()):
                raise PipelineError(
                    f"pass {name!r} can't run on a program that is {excluded!r}, as "
                    f"{established[excluded]!r} makes it: move it before that"
                )
            for gone in item.breaks:
                broken[gone] = name
                established.pop(gone, None)
            for new in item.establishes:
                established[new] = name
                broken.pop(new, None)


def _bind(step: Step, text: str | None, within: tuple[str, ...]) -> Pass | Bound:
    """A step with its passes made.

    Args:
        step: of the text.
        text: to mark mistakes in.
        within: the named pipelines that it stands in, outermost first.
    """
    if isinstance(step, Fixpoint):
        return Bound(tuple(_bind(s, text, within) for s in step.steps), fixpoint=True)
    if step.name in within:
        raise PipelineError(
            f"the named pipeline {step.name!r} contains itself: {' > '.join((*within, step.name))}"
        )
    try:
        inner = expand_named(step)
    except PipelineError as error:
        raise _error(text, step, f"{step.name}: {error}") from error
    if inner is not None:
        return Bound(tuple(_bind(s, inner, (*within, step.name)) for s in parse_steps(inner)))
    if step.name not in registry:
        raise _error(text, step, f"unknown pass {step.name!r}{registry.hint(step.name, tuple(NAMED))}")
    return make_pass(registry.get(step.name), step, text)


def _with_options(step: Step, name: str, options: Mapping[str, Value]) -> Step:
    if isinstance(step, Fixpoint):
        return Fixpoint(tuple(_with_options(s, name, options) for s in step.steps))
    inner = None if step.name == name else expand_named(step)
    holds = inner is not None and any(p.pass_name() == name for p in PassManager.parse(inner).passes())
    if step.name == name or holds:
        return Named(step.name, tuple({**dict(step.options), **options}.items()))
    return step


def _hint(item: object) -> str:
    if isinstance(item, str):
        return '; names stand in one text: "O1,fold-constants"'
    return f"; write {item.__name__}()" if isinstance(item, type) and issubclass(item, Pass) else ""


def _error(text: str | None, step: Named, problem: str) -> PipelineError:
    return PipelineError(problem) if text is None else marked(text, step.position, problem)


def _in_time(bound: Bound) -> Iterator[Pass]:
    """The passes in the order in which they run, those of a fixpoint twice: a round follows a round."""
    for _ in range(2 if bound.fixpoint else 1):
        for item in bound.passes:
            if isinstance(item, Bound):
                yield from _in_time(item)
            else:
                yield item


def check_calibration(manager: PassManager, calibration: object) -> None:
    """Whether there is calibration data if a pass needs it.

    Raises:
        PipelineError: there is none; names the pass.
    """
    needy = next((p for p in manager.passes() if p.takes_calibration()), None)
    if needy is not None and calibration is None:
        raise PipelineError(f"pass {needy.pass_name()!r} needs calibration data: pass calibration=")
