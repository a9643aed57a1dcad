"""The options that `finetune` and `distill` share: how long, by which optimizer, what is kept.

>>> Settings.of({"epochs": 3, "learning_rate": 1e-4}).epochs
3
>>> Settings.of({"epoch": 3})
Traceback (most recent call last):
...
fxopt.errors.InputError: unknown option 'epoch'; did you mean 'epochs'?
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

import torch

from fxopt.errors import InputError, nearest

if TYPE_CHECKING:
    from fxopt.training.observers import TensorBoard

__all__ = ["BatchNorm", "Metric", "OptimizerMaker", "Options", "Precision", "ScheduleMaker", "Settings"]

Metric = Callable[[Callable[..., object]], float]
OptimizerMaker = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
ScheduleMaker = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
BatchNorm = Literal["frozen", "update"]
Precision = Literal["auto", "float32", "bfloat16"]


class Options(TypedDict, total=False):
    """Keyword arguments of `finetune` and `distill`; `Settings` says what each does."""

    epochs: int
    learning_rate: float
    weight_decay: float
    optimizer: type[torch.optim.Optimizer] | OptimizerMaker | None
    schedule: Literal["cosine", "constant"] | ScheduleMaker
    warmup: float
    clip_norm: float | None
    dropout: bool
    batch_norm: BatchNorm
    keep_zeros: bool
    freeze: Sequence[str]
    metric: Metric | None
    validation: Iterable[object] | None
    checkpoint: str | os.PathLike[str] | None
    checkpoint_steps: int | None
    log: "str | os.PathLike[str] | TensorBoard | None"
    progress: bool | None
    device: str | torch.device | None
    precision: Precision
    seed: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a program is trained.

    Attributes:
        epochs: passes over the data.
        learning_rate: the highest; the schedule warms up to it.
        weight_decay: of AdamW, on weights of two dimensions and more.
        optimizer: a class of torch's (it gets `lr=learning_rate`), or a function of the list of parameters
            that makes one; AdamW by default.
        schedule: "cosine" (warm-up, then down to 0), "constant" (warm-up only), or a function of the
            optimizer that makes a scheduler, which is stepped after each batch.
        warmup: the part of all steps in which the rate rises from 0.
        clip_norm: the most that the gradient's norm may be; larger ones are scaled down.
        dropout: whether dropout drops, at the places and rates of the model.
        batch_norm: "frozen" keeps the statistics (scale and shift learn), "update" normalises by each batch
            and moves the statistics, as a model in training mode does.
        keep_zeros: zeros of a weight that is not zero throughout stay zeros: a pruning mask.
        freeze: weights that don't train, by name, `*` and `?` allowed, such as "embeddings.*".
        metric: scores a callable that is called like the model, higher is better; the best epoch is kept.
        validation: batches like the data; without a metric the epoch of the least loss on them is kept.
        checkpoint: a folder for `checkpoint.train`, from which the run goes on if it was stopped, and
            `best.fxopt`.
        checkpoint_steps: write a checkpoint after so many batches too, not only after each epoch.
        log: a folder for TensorBoard, or a `TensorBoard` that several runs share.
        progress: show a bar; by default on a terminal.
        device: to train on; by default where the weights are.
        precision: "auto" is autocast to bfloat16 on a GPU that has it, float32 elsewhere.
        seed: of shuffling, augmentation, dropout and new weights.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    optimizer: type[torch.optim.Optimizer] | OptimizerMaker | None = None
    schedule: Literal["cosine", "constant"] | ScheduleMaker = "cosine"
    warmup: float = 0.05
    clip_norm: float | None = None
    dropout: bool = True
    batch_norm: BatchNorm = "frozen"
    keep_zeros: bool = True
    freeze: Sequence[str] = ()
    metric: Metric | None = None
    validation: Iterable[object] | None = None
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_steps: int | None = None
    log: "str | os.PathLike[str] | TensorBoard | None" = None
    progress: bool | None = None
    device: str | torch.device | None = None
    precision: Precision = "auto"
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, object]) -> "Settings":
        """The settings of keyword arguments, checked.

        Raises:
            InputError: an unknown option, or a value that it does not take.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                close = nearest(name, known)
                hint = f"did you mean {close!r}?" if close else f"there are {', '.join(known)}"
                raise InputError(f"unknown option {name!r}; {hint}")
        made = cls(**options)  # type: ignore[arg-type]  # checked below
        made._check()
        return made

    def _check(self) -> None:
        for name, fits, expected in (
            ("epochs", _whole(self.epochs, 1), "a whole number from 1"),
            ("learning_rate", _finite(self.learning_rate, 0.0), "a number from 0"),
            ("weight_decay", _finite(self.weight_decay, 0.0), "a number from 0"),
            ("warmup", _finite(self.warmup, 0.0) and self.warmup <= 1, "a part from 0 to 1"),
            ("clip_norm", self.clip_norm is None or _finite(self.clip_norm, 0.0), "a number from 0, or None"),
            (
                "schedule",
                self.schedule in ("cosine", "constant") or callable(self.schedule),
                "'cosine', 'constant' or a function",
            ),
            ("optimizer", self.optimizer is None or callable(self.optimizer), "a class or a function"),
            ("batch_norm", self.batch_norm in ("frozen", "update"), "'frozen' or 'update'"),
            (
                "precision",
                self.precision in ("auto", "float32", "bfloat16"),
                "'auto', 'float32' or 'bfloat16'",
            ),
            ("metric", self.metric is None or callable(self.metric), "a function that scores a callable"),
            (
                "checkpoint_steps",
                self.checkpoint_steps is None or _whole(self.checkpoint_steps, 1),
                "a whole number from 1, or None",
            ),
            (
                "log",
                _is_log(self.log),
                "a folder for TensorBoard, or a TensorBoard; lines an epoch come by logging",
            ),
            ("freeze", not isinstance(self.freeze, str), "a list of names"),
            ("seed", _whole(self.seed, 0), "a whole number from 0"),
        ):
            if not fits:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected {expected}")


def _whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _is_log(value: object) -> bool:
    return value is None or isinstance(value, (str, os.PathLike)) or callable(getattr(value, "begin", None))


def _finite(value: object, least: float) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= least
