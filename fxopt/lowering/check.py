"""The verification of a written file: a fresh process runs it against the program."""

import dataclasses
from importlib.util import find_spec

from fxopt.lowering.remote import RemoteSubject
from fxopt.lowering.runners import KINDS
from fxopt.lowering.target import Target
from fxopt.ops.info import op_key
from fxopt.ops.schema import is_random
from fxopt.program.program import Program
from fxopt.report import VerifyReport
from fxopt.verification.subjects import Subject, subject_of
from fxopt.verification.verify import verify_runs

__all__ = ["verify_file"]

_BUILT_IN = frozenset(
    {"aten", "prims", "prim", "fxopt", "mkldnn", "mkl", "onednn", "quantized", "quantized_decomposed"}
)
"""Namespaces whose ops a fresh process has, after `import torch` or `import fxopt`."""
_ONNX = ("onnx", "onnx-as-written")


def verify_file(
    reference: Program, program: Program, target: Target, path: str, entry: str = ""
) -> VerifyReport:
    """Compares a file with a program.

    Args:
        reference: what the file must be equivalent to.
        program: what the file was made from.
        target: whose file it is.
        path: the file, under whatever name it stands now.
        entry: which of its entry points, if it has several.

    Raises:
        ArtifactError: it has to be opened in this process and can't be.
    """
    original = subject_of(reference)
    why_here = _must_run_here(program, target)
    if why_here:
        artifact = target.open_entry(path, entry) if entry else target.open(path)
        report = verify_runs(original, Subject(artifact.signature, artifact.run_flat, name=target.name))
        return _noted(report, why_here)
    with RemoteSubject(target.runner, path, program.signature, entry) as remote:
        report = verify_runs(original, Subject(program.signature, remote.run, name=target.name))
    if any(map(is_random, program.calls())):
        report = _noted(report, "random numbers were compared from equal states of torch's generator")
    if target.runner in _ONNX and find_spec("onnxruntime") is None:
        return _noted(report, "onnxruntime is not installed: the file was run by onnx.reference")
    return report


def _must_run_here(program: Program, target: Target) -> str:
    """Why a fresh process could not run the file; empty if it can."""
    if target.runner not in KINDS:
        return f"verified in this process: {target.name} names no runner for another"
    if target.runner in _ONNX:
        return ""
    own = {op_key(n.target).partition(".")[0] for n in program.calls() if hasattr(n.target, "_schema")}
    foreign = sorted(own - _BUILT_IN)
    if foreign:
        names = ", ".join(foreign)
        return f"verified in this process: a fresh one must import what defines the ops of {names} first"
    return ""


def _noted(report: VerifyReport, note: str) -> VerifyReport:
    return dataclasses.replace(report, notes=(*report.notes, note))
