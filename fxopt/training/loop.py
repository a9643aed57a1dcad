"""The loop that `finetune` and `distill` share: steps, scores, the best weights, checkpoints, a clean stop.

A run is determined by its program, data, settings and seed (on one machine, one thread): each step draws its
random numbers from its own seed, so a run that is resumed ends at the same weights.
"""

import contextlib
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from fxopt.errors import ArtifactError, InputError, TrainingError
from fxopt.program import Program
from fxopt.training.checkpoint import load_state, save_state
from fxopt.training.data import Batch, Batches, Share
from fxopt.training.identity import described, first_difference
from fxopt.training.masks import Masks
from fxopt.training.observers import Bar, Lines, Observer, TensorBoard, Watched, on_terminal
from fxopt.training.processes import Processes
from fxopt.training.schedule import make_optimizer, make_schedule
from fxopt.training.seeds import own_randomness, seed_all
from fxopt.training.settings import Settings
from fxopt.training.student import Student
from fxopt.training.users import call_user, number

__all__ = ["Objective", "train"]

log = logging.getLogger(__name__)

CHECKPOINT, BEST = "checkpoint.train", "best.fxopt"


class Objective(Protocol):
    """What is made small."""

    module: nn.Module
    """Runs the student on flat tensors; its parameters train, those that only training needs included."""

    def terms(self, batch: Batch, outputs: tuple[object, ...]) -> dict[str, torch.Tensor]:
        """The terms of the loss by name; `outputs` are those of `module`."""


class _Stopped(Exception):
    """Ctrl-C, between two steps."""


def train(
    what: str, student: Student, data: Iterable[object], objective: Objective, settings: Settings
) -> Program:
    """Trains and returns the best.

    Args:
        what: "finetune" or "distill".
        student: its weights change.
        data: of the user.
        objective: what is made small.
        settings: how.

    Raises:
        InputError: the data, or a function of the user's, is wrong.
        TrainingError: the loss or a weight became NaN or infinite.
        ArtifactError: the checkpoint can't be read or written, or is of another run.
    """
    with own_randomness(student.device):
        return _Run(what, student, data, objective, settings).run()


class _Run:
    def __init__(
        self, what: str, student: Student, data: Iterable[object], objective: Objective, settings: Settings
    ) -> None:
        self.what, self.student, self.objective, self.settings = what, student, objective, settings
        self.processes = Processes.of(student.device)
        signature = student.program.signature
        share = Share(self.processes.index, self.processes.count)
        self.batches = Batches(data, signature, share=share, seed=settings.seed)
        self.validation = None
        if settings.validation is not None:
            self.validation = Batches(settings.validation, signature, seed=settings.seed, what="validation")
        self.parameters = dict(objective.module.named_parameters())
        self.module = self.processes.wrapped(objective.module, student.device)
        self.masks = Masks(student.parameters if settings.keep_zeros else {})
        self.optimizer = make_optimizer(self.parameters, settings)
        self.schedule = make_schedule(self.optimizer, settings, settings.epochs * self.batches.steps)
        self.watched = Watched(what, settings.epochs, self.batches.steps)
        self.watched.score_name = _score_name(settings)
        self.best = student.snapshot()
        self.folder = None if settings.checkpoint is None else _made(Path(settings.checkpoint))
        self.identity = described(what, student.program, settings)
        self.observers = self._observers()

    def _observers(self) -> list[Observer]:
        if not self.processes.leads:
            return []
        shown = on_terminal() if self.settings.progress is None else self.settings.progress
        watching: list[Observer] = [Lines(), *([Bar()] if shown else [])]
        if self.settings.log is not None:
            given = self.settings.log
            watching.append(given if isinstance(given, TensorBoard) else TensorBoard(Path(given)))
        return watching

    def run(self) -> Program:
        resumed = self._resume()
        for observer in self.observers:
            observer.begin(self.watched, self.student.program)
        try:
            if not resumed:
                self._score()
            with _between_steps(self.processes) as asked_to_stop:
                self._epochs(asked_to_stop)
        except (_Stopped, KeyboardInterrupt):
            log.warning("%s: stopped after %s; the best so far is kept", self.what, self._place())
            if self.watched.score is None and self.student.not_finite() is None:
                self.best = self.student.snapshot()
        finally:
            for observer in self.observers:
                observer.end()
        return self._result()

    def _epochs(self, asked_to_stop: Callable[[], bool]) -> None:
        watched = self.watched
        while watched.epoch < watched.epochs:
            for batch in self.batches.epoch(watched.epoch, skip=watched.step):
                self._step(batch.to(self.student.device))
                if asked_to_stop():
                    self._save()
                    raise _Stopped
                every = self.settings.checkpoint_steps
                if every is not None and watched.step % every == 0:
                    self._save()
            watched.epoch, watched.step = watched.epoch + 1, 0
            self._score()
            self._save()

    def _step(self, batch: Batch) -> None:
        watched = self.watched
        seed_all(self.settings.seed, "step", watched.epoch, watched.step, self.processes.index)
        watched.rate = float(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step(lambda: self._gradients(batch))  # type: ignore[return-value, arg-type]  # a float, says torch's stub
        self.masks.mask_weights()
        self.schedule.step()
        watched.step += 1
        for observer in self.observers:
            observer.stepped(watched)

    def _gradients(self, batch: Batch) -> torch.Tensor:
        """Loss and gradients of a batch; an optimizer may ask for them more than once."""
        self.optimizer.zero_grad()
        terms = self._terms(batch)
        total = torch.stack([t.float() for t in terms.values()]).sum()
        self.watched.losses = {
            **{name: float(t.detach()) for name, t in terms.items()},
            "loss": float(total.detach()),
        }
        if not math.isfinite(self.watched.losses["loss"]):
            broken = ", ".join(
                n for n, v in self.watched.losses.items() if n != "loss" and not math.isfinite(v)
            )
            raise self._failure(f"the loss is {self.watched.losses['loss']} ({broken or 'the sum'})")
        total.backward()
        self.masks.mask_gradients()
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm)
        return total.detach()

    def _terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        flat = self.student.inputs(batch.args, batch.kwargs)
        with _autocast(self.settings, self.student.device):
            outputs = self.module(*flat)
        return self.objective.terms(batch, outputs)

    def _score(self) -> None:
        """Scores the weights as they are; keeps them if they are the best, or if nothing scores them."""
        broken = self.student.not_finite()
        if broken is not None:
            raise self._failure(f"the weight {broken!r} is no longer finite")
        watched = self.watched
        score = self._scorer()
        if score is not None:
            watched.score = self.processes.decided(score, self.student.device)
            if math.isnan(watched.score):
                raise InputError(f"{watched.score_name} is nan at {self._place()}; expected a number")
        if watched.score is None or watched.best is None or watched.score > watched.best:
            watched.best, self.best = watched.score, self.student.snapshot()
            if self.folder is not None and self.processes.leads:
                self._result().save(str(self.folder / BEST))
        for observer in self.observers:
            observer.scored(watched, self.student.parameters)

    def _scorer(self) -> Callable[[], float] | None:
        metric, validation = self.settings.metric, self.validation
        if metric is not None:
            return lambda: number("metric", call_user("metric", lambda: metric(self.student.predict)))
        return None if validation is None else lambda: -self._validation_loss(validation)

    def _validation_loss(self, validation: Batches) -> float:
        """The mean loss over the validation data, in the way the program will run."""
        total = 0.0
        with torch.no_grad():
            for batch in validation.epoch(0):
                here = batch.to(self.student.device)
                flat = self.student.inputs(here.args, here.kwargs)
                outputs = self.objective.module(*flat)
                total += sum(float(t) for t in self.objective.terms(here, outputs).values())
        return total / validation.steps

    def _failure(self, what: str) -> TrainingError:
        kept = "the best weights until then are in the error's `program`"
        if self.folder is not None:
            kept = f"the last good checkpoint is {self.folder / CHECKPOINT}, the best weights are {self.folder / BEST}"
        return TrainingError(
            f"{self.what}: {what} at {self._place()}; try a lower learning_rate or clip_norm=1.0; {kept}",
            self._result(),
        )

    def _place(self) -> str:
        return f"epoch {self.watched.epoch + 1}, batch {self.watched.step}"

    def _result(self) -> Program:
        return self.student.trained(self.best, f"{self.what}({self.identity['settings']})")

    def _save(self) -> None:
        if self.folder is None or not self.processes.leads:
            return
        broken = self.student.not_finite()
        if broken is not None:
            raise self._failure(f"the weight {broken!r} is no longer finite")
        own = {
            n: p for n, p in self.parameters.items() if not any(p is w for w in self.student.weights.values())
        }
        state = {
            "identity": self.identity,
            "watched": {f: getattr(self.watched, f) for f in ("epoch", "step", "score", "best")},
            "weights": dict(self.student.state),
            "own": own,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        save_state(self.folder / CHECKPOINT, state)

    def _resume(self) -> bool:
        """Goes on where a checkpoint stands, if there is one."""
        self.processes.meet()
        path = None if self.folder is None else self.folder / CHECKPOINT
        if path is None or not path.exists():
            return False
        state = load_state(path)
        other = first_difference(state.get("identity"), self.identity)
        if other:
            raise ArtifactError(f"{path} is of another run: {other}; name another folder, or remove it")
        self.student.load(_part(state, "weights"))  # type: ignore[arg-type]  # tensors, as they were written
        self.best = _part(state, "best")  # type: ignore[assignment]
        with torch.no_grad():
            for name, tensor in _part(state, "own").items():
                self.parameters[name].copy_(tensor)  # type: ignore[arg-type]
        self.optimizer.load_state_dict(_part(state, "optimizer"))
        self.schedule.load_state_dict(_part(state, "schedule"))
        for name, value in _part(state, "watched").items():
            setattr(self.watched, name, value)
        log.info("%s: goes on at %s of %s", self.what, self._place(), path)
        return True


def _part(state: Mapping[str, object], name: str) -> dict[str, object]:
    value = state.get(name)
    if not isinstance(value, dict):
        raise ArtifactError(f"the checkpoint lacks its {name}")
    return value


def _score_name(settings: Settings) -> str:
    if settings.metric is not None:
        name: str = getattr(settings.metric, "__name__", "metric")
        return name if name.isidentifier() else "metric"
    return "validation loss"


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"can't make the folder {folder}: {error.strerror or error}") from error
    return folder


@contextlib.contextmanager
def _between_steps(processes: Processes) -> Iterator[Callable[[], bool]]:
    """Ctrl-C is answered between two steps, the second one at once; in other threads it is not ours."""
    asked = threading.Event()
    if processes.count > 1 or threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    if before is not signal.default_int_handler:
        yield asked.is_set
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _autocast(settings: Settings, device: torch.device) -> contextlib.AbstractContextManager[object]:
    wanted = settings.precision == "bfloat16" or (
        settings.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    if not wanted:
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
