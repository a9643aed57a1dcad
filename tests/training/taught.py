"""Small models and data that the tests of training share."""

import torch
from torch import nn

import fxopt


def pair(
    inputs: int = 6, classes: int = 3
) -> tuple[nn.Module, fxopt.Program, list[tuple[torch.Tensor, ...]]]:
    """A teacher, a smaller student and eight batches with labels that the teacher gives."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, classes)).eval()
    small = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, classes)).eval()
    x = torch.randn(256, inputs)
    student = fxopt.trace(small, (x[:8],), dynamic_shapes=({0: "batch"},))
    with torch.no_grad():
        labels = teacher(x).argmax(1)
    return teacher, student, list(zip(x.split(32), labels.split(32), strict=True))


def agreement(teacher: nn.Module, run: object, inputs: int = 6) -> float:
    """How often a student decides as the teacher does."""
    x = torch.randn(200, inputs, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return float((run(x).argmax(1) == teacher(x).argmax(1)).float().mean())  # type: ignore[operator]


def same_weights(a: fxopt.Program, b: fxopt.Program) -> bool:
    """Whether two programs have bit-identical weights."""
    return a.weights.keys() == b.weights.keys() and all(
        torch.equal(w, b.weights[name]) for name, w in a.weights.items()
    )
