"""What a student is taught by: a teacher's outputs, and the task's own targets.

>>> logits = torch.tensor([[2.0, 0.0]])
>>> float(soft_targets(logits, logits, 2.0, 1)), float(squared_error(logits, logits + 1))
(0.0, 1.0)
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from fxopt.ensembles import class_axis
from fxopt.errors import InputError

__all__ = ["Loss", "pairs", "relative_error", "soft_targets", "squared_error", "task_error"]

Loss = Callable[..., torch.Tensor]


def soft_targets(student: torch.Tensor, teacher: torch.Tensor, temperature: float, axis: int) -> torch.Tensor:
    """The Kullback-Leibler divergence of the student's probabilities from the teacher's, both softened.

    Times the temperature's square, so that gradients keep their size (Hinton, Vinyals, Dean, "Distilling the
    knowledge in a neural network", 2015). The mean over all positions but the classes.

    Args:
        student: logits, float.
        teacher: logits of the same shape.
        temperature: above 0.
        axis: of the classes.
    """
    ours, theirs = (torch.log_softmax(x / temperature, axis) for x in (student, teacher))
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(axis)
    return divergence.mean() * temperature**2


def squared_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean squared error."""
    return F.mse_loss(student, teacher)


def relative_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The squared error in units of the teacher's mean square: layers of any scale count alike."""
    return F.mse_loss(student, teacher) / teacher.square().mean().clamp_min(1e-12)


def task_error(output: object, target: object, axis: int | None) -> torch.Tensor:
    """Cross-entropy for whole-number targets, the mean squared error for others.

    Raises:
        InputError: output or target is no tensor, so that the user has to say what the loss is.
    """
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
        kinds = f"a {type(output).__name__} and a {type(target).__name__}"
        raise InputError(f"the task's loss of {kinds} is not known: pass task_loss=, a function of both")
    if target.is_floating_point():
        if target.shape != output.shape:
            raise InputError(
                f"the target has shape {tuple(target.shape)}, the model's output {tuple(output.shape)}"
            )
        return F.mse_loss(output, target)
    classes = class_axis(output.dim()) if axis is None else axis % output.dim()
    expected = tuple(size for i, size in enumerate(output.shape) if i != classes)
    if target.shape != expected:
        raise InputError(
            f"the target has shape {tuple(target.shape)}; labels of an output of {tuple(output.shape)} have "
            f"{expected}"
        )
    return F.cross_entropy(output.movedim(classes, 1) if output.dim() > 1 else output, target.long())


def pairs(student: Sequence[object], teacher: Sequence[object]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The outputs to compare: those of floats, in order.

    Raises:
        InputError: the two return other numbers of them, or other shapes.
    """
    ours, theirs = (
        [t for t in side if isinstance(t, torch.Tensor) and t.is_floating_point()]
        for side in (student, teacher)
    )
    if len(ours) != len(theirs):
        raise InputError(
            f"the teacher returns {len(theirs)} tensors of floats, the student {len(ours)}: "
            "pass loss=, a function of both results"
        )
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a.shape != b.shape:
            raise InputError(
                f"output {index} of the teacher has shape {tuple(b.shape)}, the student's {tuple(a.shape)}: "
                "they must agree, or pass loss=, a function of both results"
            )
    return list(zip(ours, theirs, strict=True))
