"""`distill`: a student program learns what a teacher says, and the task too where the data has targets.

>>> from fxopt.frontend import trace
>>> teacher, student = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
>>> program = trace(student.eval(), torch.zeros(8, 2), dynamic_shapes=({0: "batch"},))
>>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
>>> taught = distill(teacher, program, [(x,)], loss="mse", epochs=200, learning_rate=0.05)
>>> bool((taught(x) - teacher(x)).abs().max() < 0.05)
True
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from fxopt.ensembles import class_axis as usual_axis
from fxopt.errors import InputError
from fxopt.lowering import Artifact
from fxopt.program import Program, expect_program
from fxopt.training.data import Batch, Batches
from fxopt.training.features import Projections, exit_of, named_pairs
from fxopt.training.loop import train
from fxopt.training.losses import pairs, soft_targets, squared_error, task_error
from fxopt.training.seeds import own_randomness, seed_all
from fxopt.training.settings import Options, Settings
from fxopt.training.student import Student
from fxopt.training.teacher import Taught, Teacher, taught_by
from fxopt.training.users import call_user, scalar

__all__ = ["distill"]

Loss = Callable[..., torch.Tensor]


def distill(
    teacher: "nn.Module | Program | Artifact | Callable[..., object] | str",
    student: Program,
    data: Iterable[object],
    *,
    loss: Literal["kl", "mse"] | Loss = "kl",
    temperature: float = 2.0,
    alpha: float = 0.5,
    task_loss: Loss | None = None,
    class_axis: int | None = None,
    features: Mapping[str, str] | Sequence[str] = (),
    feature_weight: float = 1.0,
    **options: Unpack[Options],
) -> Program:
    """Trains a student to give what a teacher gives.

    The loss is `alpha * loss + (1 - alpha) * task_loss + feature_weight * features`; without targets in the
    data it is `loss + feature_weight * features`.

    Args:
        teacher: a module, Program, Artifact, the path of an artifact, or any callable; called as the student
            is. It is run in eval mode and does not change.
        student: a program, left as it is.
        data: items `(*args, target)`, or `(*args)` alone, read once an epoch; an iterator once, and kept.
        loss: "kl" (of logits: Hinton's soft targets), "mse" (of any outputs), or a function of the student's
            and the teacher's result.
        temperature: softens the probabilities of "kl".
        alpha: the teacher's part where there are targets, 0 to 1.
        task_loss: of output and target; by default cross-entropy for whole numbers, else the squared error.
        class_axis: of the logits; by default 1 for images (four dimensions and more), else the last.
        features: module paths whose results should agree too, or the teacher's path by the student's.
        feature_weight: of their relative squared error.
        options: as `fxopt.training.Settings` describes them: `epochs`, `learning_rate`, `metric`, ...

    Returns:
        A new program with the best weights, as `finetune` gives.

    Raises:
        InputError: teacher and student disagree; a wrong option or item; empty data; a loss or metric fails.
        TrainingError: the loss is not finite; has the best `program` until then.
        ArtifactError: a checkpoint that is damaged or of another run.
    """
    expect_program(student, "distill")
    settings = Settings.of(dict(options))
    recipe = _Recipe(loss, temperature, alpha, task_loss, class_axis, feature_weight)
    recipe.check()
    layers = named_pairs(features)
    learner = Student(
        student,
        device=settings.device,
        freeze=settings.freeze,
        dropout=settings.dropout,
        batch_norm=settings.batch_norm,
        features=[exit_of(student, path) for path in layers],
    )
    with taught_by(teacher, list(layers.values())) as ready:
        lesson = _Lesson(learner, ready, recipe, tuple(layers))
        kept = list(data) if layers and iter(data) is data else data
        if layers:
            lesson.prepare(Batches(kept, student.signature, seed=settings.seed), settings.seed)
        return train("distill", learner, kept, lesson, settings)


@dataclass(frozen=True)
class _Recipe:
    """How the teacher's word and the task's are weighed."""

    loss: str | Loss
    temperature: float
    alpha: float
    task_loss: Loss | None
    class_axis: int | None
    feature_weight: float

    def check(self) -> None:
        for name, fits, expected in (
            ("loss", self.loss in ("kl", "mse") or callable(self.loss), "'kl', 'mse' or a function"),
            ("temperature", 0 < self.temperature < float("inf"), "a number above 0"),
            ("alpha", 0 <= self.alpha <= 1, "a part from 0 to 1"),
            ("task_loss", self.task_loss is None or callable(self.task_loss), "a function, or None"),
            ("feature_weight", 0 <= self.feature_weight < float("inf"), "a number from 0"),
        ):
            if not fits:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected {expected}")

    def task(self, output: object, target: object) -> torch.Tensor:
        """The task's own loss."""
        own = self.task_loss
        if own is None:
            return task_error(output, target, self.class_axis)
        return scalar("task_loss", call_user("task_loss", lambda: own(output, target)))

    def teaching(self, output: object, taught: Taught) -> torch.Tensor:
        """How far the student is from what the teacher says."""
        own = self.loss
        if callable(own):
            return scalar("loss", call_user("loss", lambda: own(output, taught.result)))
        terms = [
            self._pair(a.float(), b.float()) for a, b in pairs(pytree.tree_leaves(output), taught.tensors)
        ]
        return torch.stack(terms).sum()

    def _pair(self, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        if self.loss == "mse":
            return squared_error(ours, theirs)
        axis = usual_axis(ours.dim()) if self.class_axis is None else self.class_axis
        return soft_targets(ours, theirs, self.temperature, axis)


class _Widened(nn.Module):
    """The student, its inner layers as wide as the teacher's."""

    def __init__(self, student: nn.Module, outputs: int, projections: Projections) -> None:
        super().__init__()
        self.student, self.outputs, self.projections = student, outputs, projections

    def forward(self, *tensors: torch.Tensor) -> tuple[object, ...]:
        values = self.student(*tensors)
        return (*values[: self.outputs], *self.projections(values[self.outputs :]))


class _Lesson:
    """The terms of distillation."""

    def __init__(self, student: Student, teacher: Teacher, recipe: _Recipe, layers: tuple[str, ...]) -> None:
        self.module: nn.Module = student.module
        self.student, self.teacher, self.recipe, self.layers = student, teacher, recipe, layers
        self.outputs = len([n for n in student.program.output_nodes() if isinstance(n, Node)])
        self.projections: Projections | None = None

    def prepare(self, batches: Batches, seed: int) -> None:
        """Makes the projections that one batch shows to be needed."""
        with own_randomness(self.student.device), torch.no_grad():
            batch = next(batches.epoch(0)).to(self.student.device)
            ours = self.module(*self.student.inputs(batch.args, batch.kwargs))[self.outputs :]
            theirs = self.teacher.teach(batch, self.student.device).features
            seed_all(seed, "projections")
            self.projections = Projections(self.layers, ours, theirs)
        self.module = _Widened(self.module, self.outputs, self.projections)

    def terms(self, batch: Batch, outputs: tuple[object, ...]) -> dict[str, torch.Tensor]:
        output = self.student.restored(outputs[: self.outputs])
        taught = self.teacher.teach(batch, self.student.device)
        alpha = self.recipe.alpha if batch.has_target else 1.0
        terms: dict[str, torch.Tensor] = {}
        if alpha > 0:
            terms["teacher"] = alpha * self.recipe.teaching(output, taught)
        if alpha < 1:
            terms["task"] = (1 - alpha) * self.recipe.task(output, batch.target)
        if self.projections is not None:
            features = [f for f in outputs[self.outputs :] if isinstance(f, torch.Tensor)]
            error = self.projections.error(features, taught.features)
            terms["features"] = self.recipe.feature_weight * error
        return terms
