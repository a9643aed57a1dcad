"""The public functions: each a few lines over the layers below.

>>> import torch, fxopt
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
>>> program = fxopt.trace(model, (torch.zeros(2, 4),), dynamic_shapes={"input": {0: "batch"}})
>>> program(torch.zeros(5, 4)).shape
torch.Size([5, 4])
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable

import torch
from torch import nn

from fxopt.diagnosis.divergence import first_parting, program_values
from fxopt.diagnosis.inner import onnx_values
from fxopt.ensembles import ensemble
from fxopt.errors import FxoptError, InputError
from fxopt.frontend import trace
from fxopt.frontend.capture import inference_mode
from fxopt.lowering import Artifact, lower, open_artifact
from fxopt.optimizer import Model, OptimizeResult, optimize, run_pipeline
from fxopt.program import Program, Signature
from fxopt.report import Counterexample, Parting, VerifyReport
from fxopt.training import distill, finetune
from fxopt.verification import (
    Subject,
    call_of,
    call_problem,
    inputs_difference,
    module_subject,
    open_signature,
    subject_of,
    verify_runs,
)

__all__ = [
    "Model",
    "OptimizeResult",
    "distill",
    "ensemble",
    "finetune",
    "load",
    "lower",
    "optimize",
    "run_pipeline",
    "trace",
    "verify",
]

log = logging.getLogger(__name__)


def load(path: str | os.PathLike[str], *, trust: bool = False) -> Program | Artifact:
    """Opens a file that fxopt wrote: a program or an artifact, by what the file says.

    Args:
        path: `.fxopt`, `.onnx`, `.pt`, or a folder of several entry points; a `.pt2` is traced.
        trust: open a `.pt2`, or a `.pt` that fxopt did not write: both can run code of their author's
            choosing; and an `.onnx` of fxopt's that was changed since.

    Raises:
        ArtifactError: the file is missing, corrupt, tampered with, or needs `trust=True`.
        TraceError: a `.pt2` whose program fxopt can't take.
    """
    return open_artifact(path, trust=trust)


def verify(
    reference: "Model | Program | Artifact | str | os.PathLike[str]",
    candidate: "Model | Program | Artifact | str | os.PathLike[str]",
    *,
    inputs: Iterable[object] | None = None,
    trust: bool = False,
) -> VerifyReport:
    """Are two models, programs, artifacts or files the same function?

    Args:
        reference: what is right.
        candidate: what is judged.
        inputs: argument tuples to compare on; needed if neither side says what it takes (two modules).
        trust: as in `load`.

    Returns:
        The verdict (equivalent, different, undecided) with its reason; never raises for a difference.

    Raises:
        FxoptError: a side can't be opened or traced, or the two take different inputs.
    """
    if isinstance(inputs, torch.Tensor):
        raise InputError("inputs is one tensor; expected the calls to compare on: inputs=[(x, ...), ...]")
    given = None if inputs is None else list(inputs)
    sides = [load(s, trust=trust) if isinstance(s, (str, os.PathLike)) else s for s in (reference, candidate)]
    known = next(
        (s.signature.in_floats() for s in sides if isinstance(s, (Program, Artifact)) and says_inputs(s)),
        None,
    )
    reference_side, candidate_side = (_subject(s, known, given) for s in sides)
    if reference_side.name == candidate_side.name:
        reference_side = dataclasses.replace(reference_side, name=_label(reference, "the reference"))
        candidate_side = dataclasses.replace(candidate_side, name=_label(candidate, "the candidate"))
    problem = inputs_difference(reference_side, candidate_side)
    if problem:
        raise InputError(f"the two sides can't be compared: {problem}")
    report = verify_runs(reference_side, candidate_side, inputs=given)
    if report.counterexample is None or report.counterexample.output == "":
        return report
    try:
        parting = _parting(sides[0], sides[1], report.counterexample)
    except Exception as error:  # a look inside that fails is told, and leaves the verdict as it is
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        note = f"the first node where they part can't be told: {first}"
        return dataclasses.replace(report, notes=(*report.notes, note))
    return dataclasses.replace(report, parting=parting)


def _parting(reference: object, candidate: object, example: Counterexample) -> Parting | None:
    """Where two sides that differ do so first, if both can be looked into."""
    original = _program(reference, example)
    if original is None:
        return None
    tensors = [t for t in example.inputs.values() if isinstance(t, torch.Tensor)]
    log.info("look for the first node where they part")
    other = _program(candidate, example)
    if other is not None:
        return first_parting(original, program_values(other, tensors), tensors)
    if isinstance(candidate, Artifact) and candidate.path is not None and candidate.path.endswith(".onnx"):
        return first_parting(original, onnx_values(candidate.path, tensors), tensors)
    return None


def _program(side: object, example: Counterexample) -> Program | None:
    """A side as a program, None if it can't be had."""
    if isinstance(side, Program):
        return side
    if isinstance(side, (nn.Module, torch.export.ExportedProgram)):
        bare = isinstance(side, torch.export.ExportedProgram)
        try:
            return trace(side) if bare else trace(side, example.args, dict(example.kwargs))
        except FxoptError:
            return None
    return None


def _label(side: object, role: str) -> str:
    """What tells a side from another of its kind."""
    return os.fspath(side) if isinstance(side, (str, os.PathLike)) else role


def says_inputs(side: Program | Artifact) -> bool:
    """Whether a program or file says what it takes; a TorchScript file of another's does not."""
    return bool(side.signature.inputs or side.signature.outputs)


def _subject(side: object, known: Signature | None, given: list[object] | None) -> Subject:
    if isinstance(side, Program):
        return subject_of(side)
    if isinstance(side, torch.export.ExportedProgram):
        return subject_of(trace(side))
    if isinstance(side, Artifact):
        own = side.signature if says_inputs(side) else known or _given_signature(side, side.target, given)
        return Subject(own, side.run_flat, None, side.target)
    if isinstance(side, nn.Module):
        name = type(side).__name__
        if known is not None:
            problem = call_problem(side, known)
            if problem:
                raise InputError(f"the two sides can't be compared: {problem}")
        else:
            with inference_mode(side):
                known = _given_signature(side, name, given)
        return module_subject(side, known)
    raise FxoptError(f"can't verify a {type(side).__name__}: expected a module, Program, Artifact or path")


def _given_signature(run: Callable[..., object], name: str, inputs: list[object] | None) -> Signature:
    """What a side that does not say so takes and returns, from the first of the inputs compared on."""
    if not inputs:
        raise FxoptError("neither side says what it takes: pass inputs=[(x, ...), ...]")
    args, kwargs = call_of(inputs[0])
    try:
        result = run(*args, **kwargs)
    except FxoptError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"{name} does not run on inputs[0]: {type(error).__name__}: {first}") from error
    return open_signature(args, kwargs, result)
