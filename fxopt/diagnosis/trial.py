"""`Trial`: passes run on a program, as many rewrites of the last one kept as wanted.

A pipeline is replayed as the flat list of passes that it came to (a fixpoint's rounds one after another), so
that any prefix of it can be run; and within the last pass only the first `limit` rewrites stay, or only those
of one rule (as LLVM's opt-bisect-limit).

>>> import torch
>>> from fxopt.frontend import trace
>>> from fxopt.pipeline import PassManager
>>> program = trace(torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout()).eval(), (torch.ones(2),))
>>> passes = passes_in_time(PassManager.parse("eliminate-identities"), program)
>>> [len(Trial(passes, limit=n).run(program).journals[-1].rewrites) for n in (0, 1, 2)]
[0, 1, 2]
"""

import dataclasses
from collections import Counter
from dataclasses import dataclass

from torch.fx import Node

from fxopt.errors import FxoptError
from fxopt.pipeline import Failure, Instrument, Pass, PassManager, PipelineResult
from fxopt.program import Program, origins_of
from fxopt.rewriting import Rewrite, failed_rewrite

__all__ = ["Trial", "TrialError", "passes_in_time"]


class TrialError(Exception):
    """A pass failed in a trial.

    Attributes:
        failure: which, and the program as it left it.
        error: as the manager raised it.
        made: the rewrites of the last pass until then.
    """

    def __init__(self, failure: Failure, error: FxoptError, made: tuple[Rewrite, ...]) -> None:
        super().__init__(str(error))
        self.failure, self.error, self.made = failure, error, made

    @property
    def pass_name(self) -> str:
        """The pass that failed."""
        return self.failure.item.pass_name()

    @property
    def rewrite(self) -> Rewrite | None:
        """The rewrite in which it was raised; None if it was outside of one."""
        place = failed_rewrite(self.error) or failed_rewrite(self.failure.error)
        if place is None:
            return None
        rule, root = place
        node = next((n for n in self.failure.program.graph.nodes if n.name == root), None)
        return Rewrite(rule, root, (), (), origins_of(node) if node is not None else ())


@dataclass(frozen=True)
class Trial:
    """Passes in order.

    Attributes:
        passes: run one after another.
        limit: how many rewrites of the last pass stay; None: all.
        rule: the last pass keeps rewrites of this rule only; None: of all.
        allowed: the last pass keeps these rewrites only, as rule and root, each so often.
        calibration: example inputs, for passes that need them.
    """

    passes: tuple[Pass, ...]
    limit: int | None = None
    rule: str | None = None
    allowed: tuple[tuple[str, str], ...] | None = None
    calibration: object = None

    @property
    def last(self) -> Pass:
        """The pass whose rewrites are limited."""
        return self.passes[-1]

    def run(self, program: Program) -> PipelineResult:
        """Runs the passes on a copy.

        Raises:
            TrialError: a pass failed.
        """
        watch = _Watch(self)
        try:
            return PassManager.of(self.passes).run(
                program, calibration=self.calibration, instruments=(watch,)
            )
        except FxoptError as error:
            if watch.failure is None:
                raise
            raise TrialError(watch.failure, error, tuple(watch.made)) from error

    def repeated(self, result: PipelineResult) -> "Trial":
        """The same trial held to the rewrites that it made before, to be run on a twin of the program.

        The float64 twin of a program has other casts and may take other rewrites in between; a number of
        rewrites means nothing there.
        """
        if self.limit is None and self.rule is None and self.allowed is None:
            return self
        made = result.journals[-1].rewrites if result.journals else []
        return dataclasses.replace(self, limit=None, rule=None, allowed=tuple((r.rule, r.root) for r in made))


class _Watch(Instrument):
    """Holds the last pass to the trial's limits, and remembers a failure."""

    limits = True

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.started = 0
        self.made: list[Rewrite] = []
        self.left = Counter(trial.allowed or ())
        self.failure: Failure | None = None

    def before_pass(self, item: Pass, program: Program) -> None:
        """Counts."""
        self.started += 1

    def allow(self, rule: str, root: Node) -> bool:
        """Whether a rewrite may stay."""
        trial = self.trial
        if self.started < len(trial.passes):
            return True
        if trial.rule is not None and rule != trial.rule:
            return False
        if trial.limit is not None and len(self.made) >= trial.limit:
            return False
        if trial.allowed is not None:
            if not self.left[rule, root.name]:
                return False
            self.left[rule, root.name] -= 1
        self.made.append(Rewrite(rule, root.name, (), (), origins_of(root)))
        return True

    def failed(self, failure: Failure) -> str | None:
        """Remembers it."""
        self.failure = failure
        return None


class _Sequence(Instrument):
    """The passes as they are run."""

    def __init__(self) -> None:
        self.items: list[Pass] = []
        self.failure: Failure | None = None

    def before_pass(self, item: Pass, program: Program) -> None:
        """Notes it."""
        self.items.append(item)

    def failed(self, failure: Failure) -> str | None:
        """Remembers it."""
        self.failure = failure
        return None


def passes_in_time(manager: PassManager, program: Program, *, calibration: object = None) -> tuple[Pass, ...]:
    """The passes in the order in which a pipeline runs them on a program, up to one that fails, that included."""
    sequence = _Sequence()
    try:
        manager.run(program, calibration=calibration, instruments=(sequence,))
    except FxoptError:
        if sequence.failure is None:
            raise
    return tuple(sequence.items)
