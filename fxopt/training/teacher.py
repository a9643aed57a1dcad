"""Teachers: a module, a program, an artifact or its file, any callable; run in eval mode without gradients.

>>> with taught_by(torch.nn.Dropout(0.5), ()) as teacher:
...     teacher.run(Batch((torch.ones(2),), {})).result
tensor([1., 1.])
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.errors import InputError, nearest
from fxopt.frontend import trace
from fxopt.lowering import Artifact, open_artifact
from fxopt.program import Program
from fxopt.training.data import Batch
from fxopt.training.features import exit_of
from fxopt.training.student import runnable
from fxopt.training.users import call_user

__all__ = ["Taught", "Teacher", "taught_by"]


@dataclass(frozen=True)
class Taught:
    """What a teacher says to a batch: its result in its own containers, and what its layers gave."""

    result: object
    features: tuple[torch.Tensor, ...] = ()

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors of the result in order."""
        return [t for t in pytree.tree_leaves(self.result) if isinstance(t, torch.Tensor)]


@dataclass(frozen=True)
class Teacher:
    """Runs on a batch; `device` is where it wants it, None for anywhere."""

    run: Callable[[Batch], Taught]
    device: torch.device | None = None

    def teach(self, batch: Batch, device: torch.device) -> Taught:
        """What it says, on the student's device."""
        with torch.no_grad():
            said = self.run(batch if self.device is None else batch.to(self.device))
        moved = pytree.tree_map_only(
            torch.Tensor, lambda t: t.detach().to(device), (said.result, said.features)
        )
        return Taught(*moved)


@contextlib.contextmanager
def taught_by(teacher: object, features: Sequence[str]) -> Iterator[Teacher]:
    """The teacher, ready to run while the block lasts; a module is in eval mode for so long.

    Args:
        teacher: of any kind.
        features: module paths whose results are wanted.

    Raises:
        InputError: it can't be run, or has no such modules.
    """
    if isinstance(teacher, (str, os.PathLike)):
        teacher = open_artifact(teacher)
    if isinstance(teacher, torch.export.ExportedProgram):
        teacher = trace(teacher)
    if isinstance(teacher, Program):
        yield _of_program(teacher, features)
    elif isinstance(teacher, nn.Module):
        with _in_eval_mode(teacher), _listening(teacher, features) as heard:
            yield _of_module(teacher, heard)
    elif callable(teacher):
        if features:
            kind = teacher.target if isinstance(teacher, Artifact) else type(teacher).__name__
            raise InputError(
                f"features: a teacher of {kind} shows no inner layers; give the module or its program"
            )
        yield _of_callable(teacher)
    else:
        raise InputError(
            f"the teacher is a {type(teacher).__name__}; expected a module, Program, Artifact or path"
        )


def _of_program(program: Program, features: Sequence[str]) -> Teacher:
    device = next((w.device for w in program.weights.values()), torch.device("cpu"))
    extra = [exit_of(program, path) for path in features]
    module = runnable(program, program.weights, device=device, extra=extra)
    count = len(program.signature.computed_outputs)

    def run(batch: Batch) -> Taught:
        values = list(module.forward(*program.signature.flatten_inputs(batch.args, batch.kwargs)))
        return Taught(program.signature.unflatten_outputs(values[:count]), tuple(values[count:]))

    return Teacher(run, device)


def _of_module(module: nn.Module, heard: dict[str, torch.Tensor]) -> Teacher:
    def run(batch: Batch) -> Taught:
        result = call_user("the teacher", lambda: module(*batch.args, **batch.kwargs))
        return Taught(result, tuple(heard.values()))

    weights = (*module.parameters(), *module.buffers())
    return Teacher(run, next((w.device for w in weights), None))


def _of_callable(function: Callable[..., object]) -> Teacher:
    cpu = torch.device("cpu") if isinstance(function, Artifact) else None
    return Teacher(
        lambda batch: Taught(call_user("the teacher", lambda: function(*batch.args, **batch.kwargs))), cpu
    )


@contextlib.contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    flags = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in flags.items():
            part.training = training


@contextlib.contextmanager
def _listening(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """What modules gave in the last run, by path, in the order of `paths`."""
    known = dict(module.named_modules())
    heard: dict[str, torch.Tensor] = {}
    with contextlib.ExitStack() as stack:
        for path in paths:
            if path not in known:
                close = nearest(path, known)
                hint = f"did you mean {close!r}?" if close else f"it has {', '.join(list(known)[1:9])}"
                raise InputError(f"features: the teacher has no module {path!r}; {hint}")
            handle = known[path].register_forward_hook(_keep(heard, path))
            stack.callback(handle.remove)
        yield heard


def _keep(heard: dict[str, torch.Tensor], path: str) -> Callable[[nn.Module, object, object], None]:
    heard[path] = torch.empty(0)

    def hook(module: nn.Module, args: object, result: object) -> None:
        tensors = [
            t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.is_floating_point()
        ]
        if not tensors:
            raise InputError(f"features: the teacher's {path!r} gives no tensor of floats")
        heard[path] = tensors[0]

    return hook
