"""Mixed precision: which layers of a quantized program get a higher one so that an accuracy is kept.

What each layer's rounding does to the outputs is measured for all at once (`layer_errors`). Changes, a layer's
activations to float and then its weights too, are put in order of error taken away by cost. The shortest beginning of that
list that keeps the accuracy is found by doubling and halving: a pipeline is run and scored for each that is tried.

>>> goal = Goal("at least 3", score=lambda run: 4.0, enough=lambda score: score >= 3)
>>> goal.enough(goal.score(lambda: None))
True
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from fxopt.passes.quantize import LayerError, layer_errors
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program
from fxopt.report import LayerReport, PrecisionReport, Trial
from fxopt.verification.sampling import batch_tensors

__all__ = ["Chosen", "Goal", "choose_precisions", "describe_layers", "quantizes", "sqnr"]

PASS = "insert-fake-quant"
_FLOAT = 32
_NEXT = 3
"""Choices beyond the one made that a report names."""
_LEAST = 1e-6
"""What a change costs at least."""


@dataclass(frozen=True)
class Goal:
    """What a quantized program is to reach.

    Attributes:
        text: in words.
        score: of a callable that takes the model's arguments; higher is better.
        enough: whether a score will do.
    """

    text: str
    score: Callable[[Callable[..., object]], float]
    enough: Callable[[float], bool]


@dataclass(frozen=True)
class Chosen:
    """The pipeline that was chosen, what it made, and how it was found."""

    manager: PassManager
    result: PipelineResult
    report: PrecisionReport


@dataclass(frozen=True)
class _Change:
    """A layer in a higher precision."""

    module: str
    scheme: str
    gain: float
    cost: float


def quantizes(manager: PassManager) -> bool:
    """Whether a pipeline has precisions to choose."""
    return any(p.pass_name() == PASS for p in manager.passes())


def sqnr(original: Program, data: Iterable[object]) -> Callable[[Callable[..., object]], float]:
    """A score of programs and artifacts: signal to quantization noise of their outputs, dB, the mean of all outputs.

    Args:
        original: whose outputs are the signal.
        data: read anew for each score.
    """

    def score(run: object) -> float:
        sums: dict[int, tuple[float, float]] = {}
        for item in data:
            tensors = batch_tensors(original.signature, item)
            wanted, got = (r.run_flat(list(tensors)) for r in (original, run))  # type: ignore[attr-defined]  # a program or artifact
            for i, (w, g) in enumerate(zip(wanted, got, strict=True)):
                if isinstance(w, torch.Tensor) and w.is_floating_point():
                    signal, noise = sums.get(i, (0.0, 0.0))
                    off = (w.double() - g.double()).square().sum()
                    sums[i] = signal + float(w.double().square().sum()), noise + float(off)
        shares = [noise / signal if signal else math.inf for signal, noise in sums.values() if noise]
        return -10 * math.log10(sum(shares) / len(sums)) if shares else math.inf

    return score


def choose_precisions(
    manager: PassManager,
    result: PipelineResult,
    goal: Goal,
    data: Iterable[object],
    run: Callable[[PassManager], PipelineResult],
) -> Chosen:
    """Finds the cheapest changes with which a pipeline reaches a goal; the best that was tried if none does.

    Args:
        manager: the pipeline as it was asked for.
        result: what it made.
        goal: to be reached by the simulated program.
        data: calibration data.
        run: runs another pipeline.
    """
    search = _Search(manager, goal, run)
    search.note((), Chosen(manager, result, PrecisionReport(goal.text, False, math.nan)))
    if not search.trials[0].met:
        found = layer_errors(result.program, data)
        search.changes = list(_in_order(found))
        search.find()
    return search.chosen()


class _Search:
    """Beginnings of the list of changes that were tried."""

    def __init__(
        self, manager: PassManager, goal: Goal, run: Callable[[PassManager], PipelineResult]
    ) -> None:
        self._manager, self._goal, self._run = manager, goal, run
        self.changes: list[_Change] = []
        self.trials: list[Trial] = []
        self._made: list[tuple[int, Chosen]] = []

    def note(self, changes: Sequence[_Change], made: Chosen) -> bool:
        """Scores what some changes came to; whether it is enough."""
        score = self._goal.score(made.result.program)
        met = self._goal.enough(score)
        self.trials.append(Trial(_layers(changes), score, met))
        self._made.append((len(changes), made))
        return met

    def find(self) -> None:
        """Twice as many changes as before until it is enough; then the least that are."""
        none, count = 0, 1
        while count <= len(self.changes) and not self._enough(count):
            none = count
            count = min(2 * count, len(self.changes)) if count < len(self.changes) else count + 1
        while count <= len(self.changes) and count - none > 1:
            middle = (none + count) // 2
            if self._enough(middle):
                count = middle
            else:
                none = middle

    def _enough(self, count: int) -> bool:
        changes = self.changes[:count]
        manager = self._manager.with_options(PASS, {"layers": [*_layers(changes), *self._asked()]})
        made = Chosen(manager, self._run(manager), PrecisionReport(self._goal.text, False, math.nan))
        return self.note(changes, made)

    def _asked(self) -> tuple[str, ...]:
        """What the pipeline says of layers itself."""
        return next((p.layers for p in self._manager.passes() if p.pass_name() == PASS), ())  # type: ignore[attr-defined]  # an InsertFakeQuant

    def chosen(self) -> Chosen:
        """The one of fewest changes that is enough, else that of the best score."""
        order = range(len(self.trials))
        enough = [i for i in order if self.trials[i].met]
        best = min(enough, key=lambda i: self._made[i][0]) if enough else max(order, key=self._rank)
        count, made = self._made[best]
        trial = self.trials[best]
        after = tuple(f"{c.module}={c.scheme}" for c in self.changes[count : count + _NEXT])
        report = PrecisionReport(
            self._goal.text, trial.met, trial.score, trial.layers, tuple(self.trials), after
        )
        return Chosen(made.manager, made.result, report)

    def _rank(self, i: int) -> float:
        return -math.inf if math.isnan(self.trials[i].score) else self.trials[i].score


def _layers(changes: Sequence[_Change]) -> tuple[str, ...]:
    """The option that makes some changes: of each layer the last."""
    return tuple(f"{module}={scheme}" for module, scheme in {c.module: c.scheme for c in changes}.items())


def _in_order(layers: Sequence[LayerError]) -> Iterator[_Change]:
    """All changes, those first that take most error away for what they cost."""
    whole = [max(sum(getattr(one, name) for one in layers), 1) for name in ("flops", "weight_bytes")]
    waiting = [c for c in (_changes(m, ls, whole) for m, ls in _by_module(layers).items()) if c]
    while waiting:
        first = max(waiting, key=lambda c: c[0].gain / c[0].cost)
        yield first.pop(0)
        waiting = [c for c in waiting if c]


def _by_module(layers: Sequence[LayerError]) -> dict[str, list[LayerError]]:
    """Layers without a module and a weight have no name by which their precision could be said."""
    found: dict[str, list[LayerError]] = {}
    for one in layers:
        if one.name:
            found.setdefault(one.name, []).append(one)
    return found


def _changes(module: str, layers: Sequence[LayerError], whole: Sequence[int]) -> list[_Change]:
    """Activations to float and weights to 8 bits, then weights to float, with what each costs in time or size."""
    flops, size = (sum(getattr(one, name) for one in layers) for name in ("flops", "weight_bytes"))
    error, of_weights = (
        sum(getattr(one, name) for one in layers) for name in ("output", "output_of_weights")
    )
    activations, weights = (min(one.bits[i] for one in layers) for i in (0, 1))
    steps = []
    if activations < _FLOAT or weights < 8:
        left = min(of_weights, error) * 4.0 ** min(weights - 8, 0)
        cost = flops / whole[0] + size * (8 / weights - 1) / whole[1]
        steps.append(_Change(module, "int8-weights", error - left, cost + _LEAST))
        error, size = left, size * 8 / weights
    steps.append(_Change(module, "float", error, 3 * size / whole[1] + _LEAST))
    return steps


def describe_layers(
    layers: Sequence[LayerError], seconds: Mapping[str, float] | None = None
) -> tuple[LayerReport, ...]:
    """What rounding does to each layer, for a report.

    Args:
        layers: of a program.
        seconds: of a run, by its calls, where they were measured.
    """
    seconds = seconds or {}
    whole = sum(one.output for one in layers)
    return tuple(
        LayerReport(
            one.name or one.node.name,
            str(one.node.target).split(".")[1],
            *one.bits,
            sqnr=10 * math.log10(one.signal / one.noise) if one.signal and one.noise else math.inf,
            share=one.output / whole if whole else math.nan,
            low=one.low if one.values else math.nan,
            high=one.high if one.values else math.nan,
            clipped=one.clipped / one.values if one.values else math.nan,
            flops=one.flops,
            weight_bytes=one.weight_bytes,
            seconds=seconds.get(one.node.name, math.nan),
        )
        for one in layers
    )
