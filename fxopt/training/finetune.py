"""`finetune`: trains a program on the task itself, with a penalty that makes weights small if asked.

>>> import torch
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Linear(2, 1).eval(), torch.zeros(8, 2))
>>> data = [(torch.eye(2).repeat(4, 1), torch.ones(8, 1))]
>>> tuned = finetune(program, data, loss=torch.nn.functional.mse_loss, epochs=50, learning_rate=0.1)
>>> bool((tuned(torch.eye(2).repeat(4, 1)) - 1).abs().max() < 0.1)
True
"""

from collections.abc import Callable, Iterable
from typing import Literal, Unpack

import torch
from torch import nn

from fxopt.errors import InputError
from fxopt.program import Program, expect_program
from fxopt.training.data import Batch
from fxopt.training.loop import train
from fxopt.training.regularizers import Regularizer, make_regularizer
from fxopt.training.settings import Options, Settings
from fxopt.training.student import Student
from fxopt.training.users import call_user, scalar

__all__ = ["finetune"]


def finetune(
    program: Program,
    data: Iterable[object],
    *,
    loss: Callable[..., torch.Tensor],
    regularizer: Literal["l1", "l2", "group-lasso", "bn-l1"] | None = None,
    strength: float = 1e-4,
    **options: Unpack[Options],
) -> Program:
    """Trains a program on data with targets.

    Args:
        program: left as it is. What was a parameter that wants gradients in the model trains.
        data: items `(*args, target)`, read once an epoch: a list, a DataLoader.
        loss: of the model's output and the target, such as `torch.nn.functional.cross_entropy`.
        regularizer: a penalty on the weights: "l1", "l2" (sums of absolute values, of squares), "group-lasso"
            (whole rows and channels), "bn-l1" (BatchNorm's scales: network slimming).
        strength: the penalty's factor.
        options: as `fxopt.training.Settings` describes them: `epochs`, `learning_rate`, `metric`, ...

    Returns:
        A new program with the best weights: of the epoch with the highest metric, or the least loss on
        `validation`; without both of the last.

    Raises:
        InputError: a wrong option, item or target; empty data; the loss or metric fails.
        TrainingError: the loss is not finite; has the best `program` until then.
        ArtifactError: a checkpoint that is damaged or of another run.
    """
    expect_program(program, "finetune")
    settings = Settings.of(dict(options))
    if not callable(loss):
        raise InputError(f"loss is {loss!r}; expected a function of output and target")
    if not (isinstance(strength, (int, float)) and 0 <= strength < float("inf")):
        raise InputError(f"strength is {strength!r}; expected a number from 0")
    student = Student(
        program,
        device=settings.device,
        freeze=settings.freeze,
        dropout=settings.dropout,
        batch_norm=settings.batch_norm,
    )
    penalty = None if regularizer is None else make_regularizer(regularizer, program)
    objective = _Task(student, loss, regularizer or "", penalty, strength)
    return train("finetune", student, data, objective, settings)


class _Task:
    """The task's loss and the penalty."""

    def __init__(
        self,
        student: Student,
        loss: Callable[..., torch.Tensor],
        name: str,
        penalty: Regularizer | None,
        strength: float,
    ) -> None:
        self.module: nn.Module = student.module
        self.student, self.loss = student, loss
        self.name, self.penalty, self.strength = name, penalty, strength

    def terms(self, batch: Batch, outputs: tuple[object, ...]) -> dict[str, torch.Tensor]:
        if not batch.has_target:
            raise InputError("an item of data has no target; expected (*args, target)")
        output = self.student.restored(outputs)
        terms = {"task": scalar("loss", call_user("loss", lambda: self.loss(output, batch.target)))}
        if self.penalty is not None:
            terms[self.name] = self.strength * self.penalty(self.student.parameters)
        return terms
