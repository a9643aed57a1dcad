"""Who watches a run: a progress bar, plain lines, TensorBoard.

>>> format_seconds(75), format_seconds(4000)
('1:15', '1:06:40')
"""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from fxopt.analysis.cost import Cost
from fxopt.errors import InputError
from fxopt.program import Program

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "Lines", "Observer", "TensorBoard", "Watched", "format_seconds", "stderr_console"]

log = logging.getLogger(__name__)


@dataclass
class Watched:
    """How far a run is."""

    what: str
    epochs: int
    steps: int
    """Batches of an epoch."""
    epoch: int = 0
    step: int = 0
    """Batches of this epoch that are done."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """The terms of the last batch's loss, and their sum as "loss"."""
    rate: float = 0.0
    score: float | None = None
    """The metric, or the loss on the validation data with its sign turned."""
    best: float | None = None
    score_name: str = "metric"

    @property
    def done(self) -> int:
        """Batches since the start."""
        return self.epoch * self.steps + self.step

    def shown_score(self) -> str:
        """`accuracy 0.981`, empty before the first."""
        if self.score is None:
            return ""
        value = -self.score if self.score_name == "validation loss" else self.score
        return f"{self.score_name} {value:.4g}"


class Observer(Protocol):
    """What is told of a run; it must not change it."""

    def begin(self, watched: Watched, program: Program) -> None:
        """The run starts, or goes on; `program` is what is trained."""

    def stepped(self, watched: Watched) -> None:
        """A batch is done."""

    def scored(self, watched: Watched, weights: Mapping[str, torch.Tensor]) -> None:
        """An epoch is done, and scored if anything scores it."""

    def end(self) -> None:
        """The run is over, or failed."""


class Lines:
    """A line an epoch, by logging."""

    def begin(self, watched: Watched, program: Program) -> None:
        """Nothing to say yet."""
        self._start, self._done = time.monotonic(), watched.done

    def stepped(self, watched: Watched) -> None:
        """A batch is no news."""

    def scored(self, watched: Watched, weights: Mapping[str, torch.Tensor]) -> None:
        """Epoch, loss, score, and when it will be done."""
        parts = [f"{watched.what}: epoch {watched.epoch} of {watched.epochs}"]
        if watched.losses:
            parts.append(f"loss {watched.losses['loss']:.4g}")
        if watched.score is not None:
            parts.append(watched.shown_score())
        fresh = watched.done - self._done
        if fresh and watched.epoch < watched.epochs:
            left = (time.monotonic() - self._start) / fresh * (watched.epochs * watched.steps - watched.done)
            parts.append(f"{format_seconds(left)} left")
        log.info("%s", ", ".join(parts))

    def end(self) -> None:
        """Nothing is open."""


class Bar:
    """A bar on standard error: epoch, loss, score, time left."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def begin(self, watched: Watched, program: Program) -> None:
        """Shows the bar."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=stderr_console(), transient=True)
        self._progress.start()
        self._task: TaskID = self._progress.add_task(
            watched.what, total=watched.epochs * watched.steps, completed=watched.done, said=""
        )

    def stepped(self, watched: Watched) -> None:
        """Moves on."""
        said = f"epoch {min(watched.epoch + 1, watched.epochs)}/{watched.epochs}"
        if watched.losses:
            said += f"  loss {watched.losses['loss']:.4g}"
        if watched.score is not None:
            said += f"  {watched.shown_score()}"
        if self._progress is not None:
            self._progress.update(self._task, completed=watched.done, said=said)

    def scored(self, watched: Watched, weights: Mapping[str, torch.Tensor]) -> None:
        """Shows the score."""
        self.stepped(watched)

    def end(self) -> None:
        """Takes the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class TensorBoard:
    """Writes what TensorBoard shows: losses, rate, score, histograms of weights, parameters and FLOPs.

    Given to several runs, as `log=`, it goes on counting: pruning and training in turns is one curve, with
    parameters and FLOPs as they were after each pruning.

    Args:
        folder: for the event file.

    Raises:
        InputError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("log= needs tensorboard: pip install 'fxopt[tensorboard]'") from error
        self._writer = SummaryWriter(str(folder))
        self._before = 0
        self._last = 0

    def begin(self, watched: Watched, program: Program) -> None:
        """Parameters and FLOPs of what is trained."""
        self._before = self._last - watched.done if self._last else 0
        parameters = sum(w.numel() for w in program.weights.values() if isinstance(w, torch.nn.Parameter))
        at = self._before + watched.done
        self._writer.add_scalar("program/parameters", parameters, at)
        self._writer.add_scalar("program/flops", Cost.compute(program).at().flops, at)

    def stepped(self, watched: Watched) -> None:
        """The terms of the loss."""
        self._last = self._before + watched.done
        for name, value in watched.losses.items():
            self._writer.add_scalar("train/loss" if name == "loss" else f"loss/{name}", value, self._last)
        self._writer.add_scalar("train/learning rate", watched.rate, self._last)

    def scored(self, watched: Watched, weights: Mapping[str, torch.Tensor]) -> None:
        """The score, and what the weights look like."""
        at = self._before + watched.done
        if watched.score is not None:
            sign = -1 if watched.score_name == "validation loss" else 1
            self._writer.add_scalar(f"score/{watched.score_name}", sign * watched.score, at)
        for name, tensor in weights.items():
            self._writer.add_histogram(f"weights/{name}", tensor.detach().float().cpu(), at)

    def end(self) -> None:
        """All is on the disk."""
        self._writer.flush()


@cache
def stderr_console() -> "Console":
    """The one console on standard error: displays on one console can stand together."""
    from rich.console import Console

    return Console(stderr=True)


def on_terminal() -> bool:
    """Whether somebody may be looking."""
    return sys.stderr is not None and sys.stderr.isatty()


def format_seconds(seconds: float) -> str:
    """`1:15`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
