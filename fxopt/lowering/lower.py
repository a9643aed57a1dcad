"""`lower`: a program becomes a file, and the file is verified before it gets its name.

Nothing is written before every op has a rule. What is written stands under a hidden name, is loaded by a
fresh process and compared with the program, and is renamed only then: a failure, a full disk or Ctrl-C leaves
the old file or none.
"""

import os
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from fxopt.errors import ArtifactError, LoweringError, VerificationError
from fxopt.lowering.artifact import Artifact
from fxopt.lowering.check import verify_file
from fxopt.lowering.entries import EntryPoints, lower_entries
from fxopt.lowering.integer_io import io_notes, with_integer_io
from fxopt.lowering.integers import with_integer_weights
from fxopt.lowering.target import Emitted, Target, get_target
from fxopt.ops.info import op_key
from fxopt.program.program import Program, expect_program, origins_of
from fxopt.program.writing import checked_path, hidden_name, replace_file, write_file, writing
from fxopt.report import Verdict, VerifyReport

if TYPE_CHECKING:
    from fxopt.lowering.stages.lower import StagedArtifact
    from fxopt.passes.partition import PartitionPlan

__all__ = ["check_destination", "lower"]


@overload
def lower(
    program: Program,
    target: str | Target,
    *,
    path: str | os.PathLike[str] | None = None,
    verify: bool = True,
    opset: int | None = None,
    keep_unverified: bool = False,
    reference: Program | None = None,
    accept: Callable[[Artifact], None] | None = None,
) -> Artifact: ...


@overload
def lower(
    program: Mapping[str, Program],
    target: str | Target,
    *,
    path: str | os.PathLike[str] | None = None,
    verify: bool = True,
    opset: int | None = None,
    keep_unverified: bool = False,
) -> EntryPoints: ...


@overload
def lower(
    program: "PartitionPlan",
    target: str,
    *,
    path: str | os.PathLike[str] | None = None,
    verify: bool = True,
    opset: int | None = None,
    stage_target: str | Target = "eager",
) -> "StagedArtifact": ...


def lower(
    program: "Program | Mapping[str, Program] | PartitionPlan",
    target: str | Target,
    *,
    path: str | os.PathLike[str] | None = None,
    verify: bool = True,
    opset: int | None = None,
    keep_unverified: bool = False,
    reference: Program | None = None,
    accept: Callable[[Artifact], None] | None = None,
    stage_target: str | Target = "eager",
) -> "Artifact | EntryPoints | StagedArtifact":
    """Lowers a program, several as the entry points of one folder with one set of weights, or a plan's stages.

    Args:
        program: what to lower; it stays as it is.
        target: its name or the target itself; "stages" for a plan.
        path: the file, with the target's suffix, or for several programs a folder; None keeps the artifact in
            memory.
        verify: load the file in a fresh process and compare it with the program.
        opset: of ONNX.
        keep_unverified: leave a file that fails under `<name>.unverified`.
        reference: what the file is compared with, if not the program itself: the one that it was made from.
        accept: called with the verified artifact before the file gets its name; what it raises goes on, and
            leaves the old file or none.
        stage_target: what each stage of a plan is lowered to.

    Returns:
        The artifact, opened from the file; `report` and `notes` say how it was verified. For several programs a
        mapping of artifacts by name, for a plan the stages as one.

    Raises:
        LoweringError: unknown target, or ops without a rule, each named.
        VerificationError: the file is not equivalent to the program; nothing is left, unless asked for.
        ArtifactError: wrong suffix, or the file can't be written.
        InputError: it is no program.
    """
    if isinstance(program, Mapping):
        for each in program.values():
            expect_program(each, "lower")
            _check_lowerable(each, get_target(target))
        return lower_entries(
            program, target, path=path, verify=verify, opset=opset, keep_unverified=keep_unverified
        )
    if target == "stages":
        from fxopt.lowering.stages.lower import lower_stages

        return lower_stages(program, stage_target, path=path, verify=verify, opset=opset)
    program = expect_program(program, "lower")
    chosen = get_target(target)
    chosen.resolve_opset(opset)
    final = check_destination(chosen, path)
    _check_lowerable(program, chosen)
    against = None if not verify else program if reference is None else reference
    stem = final.stem if final is not None else _stem(program)
    program = with_integer_io(with_integer_weights(program))
    emitted = chosen.emit(program, opset=opset, stem=stem, optimize=verify)
    if final is not None:
        return _write_and_open(_Job(program, chosen, final, against, keep_unverified, accept), emitted)
    return _in_memory(_Job(program, chosen, Path(), against, False, accept), emitted)


def _in_memory(job: "_Job", emitted: Emitted) -> Artifact:
    """An artifact over a temporary file, which a runtime may read for as long as it runs."""
    folder = tempfile.TemporaryDirectory(prefix="fxopt-")
    try:
        path = Path(folder.name) / (_stem(job.program) + job.target.suffix)
        artifact = _write_and_open(replace(job, final=path), emitted)
    except BaseException:
        folder.cleanup()
        raise
    artifact.path = None
    weakref.finalize(artifact, folder.cleanup)
    return artifact


def _stem(program: Program) -> str:
    return program.name if program.name.isidentifier() else "model"


def check_destination(target: Target, path: str | os.PathLike[str] | None) -> Path | None:
    """Where a file of a target can be written; None for one in memory.

    Raises:
        ArtifactError: the name has another suffix, its folder does not exist, or it is a folder itself.
    """
    if path is None:
        return None
    final = Path(checked_path(path))
    if final.suffix != target.suffix or not final.stem:
        raise ArtifactError(
            f"can't write {final}: a file of {target.name} has a name that ends in {target.suffix}"
        )
    with writing(final):
        if not final.parent.is_dir():
            raise FileNotFoundError
        if final.is_dir():
            raise IsADirectoryError
    return final


def _check_lowerable(program: Program, target: Target) -> None:
    empty = next((n for n, t in program.weights.items() if t.is_meta), None)
    if empty is not None:
        raise LoweringError(f"the weight {empty!r} is on the meta device: it has no values to write")
    missing = target.missing(program)
    if not missing:
        return
    places: dict[str, dict[str, None]] = {}
    for node in missing:
        origins = origins_of(node)
        where = "; ".join(map(str, origins)) if origins else node.name
        places.setdefault(op_key(node.target), {})[where] = None
    listed = ", ".join(f"{op} ({', '.join(where)})" for op, where in places.items())
    raise LoweringError(
        f"{target.name} has no rule for {listed}; "
        "add one with fxopt.lowering_rule, or rewrite the op with a pass"
    )


@dataclass(frozen=True)
class _Job:
    program: Program
    target: Target
    final: Path
    reference: Program | None
    """What the file must be equivalent to; None: it is not verified."""
    keep: bool
    accept: Callable[[Artifact], None] | None = None


@dataclass(frozen=True)
class _Written:
    report: VerifyReport | None
    notes: tuple[str, ...]
    size: int
    opset: int | None = None


def _write_and_open(job: _Job, emitted: Emitted) -> Artifact:
    written = _write_verified(job, emitted)
    return _opened(job, job.final, written)


def _opened(job: _Job, path: Path, written: _Written) -> Artifact:
    artifact = job.target.open(str(path))
    artifact.report, artifact.size, artifact.opset = written.report, written.size, written.opset
    artifact.notes = tuple(dict.fromkeys((*written.notes, *artifact.notes, *io_notes(artifact.signature))))
    return artifact


def _write_verified(job: _Job, emitted: Emitted) -> _Written:
    """Writes, verifies, renames; the plainer content where the first does not verify."""
    try:
        return _attempt(job, emitted, last=emitted.fallback is None)
    except _NotEquivalent as failure:
        assert emitted.fallback is not None
        written = _attempt(job, emitted.fallback, last=True)
        note = f"the simplified file was not used: {failure.report.reason}"
        return replace(written, notes=(*written.notes, note))


class _NotEquivalent(Exception):
    def __init__(self, report: VerifyReport) -> None:
        super().__init__(report.reason)
        self.report = report


def _attempt(job: _Job, emitted: Emitted, *, last: bool) -> _Written:
    temporary = hidden_name(job.final)
    data = None if emitted.data is None else job.final.with_name(str(emitted.data_name))
    fresh_data = data is not None and not data.exists()
    written = False
    try:
        with writing(job.final):
            if data is not None and emitted.data is not None:
                _write_data(data, emitted.data)
            write_file(temporary, [emitted.content])
            written = True
        report = _verify(job, temporary)
        done = _Written(
            report,
            emitted.notes if report is None else (*emitted.notes, *_remarks(report)),
            len(emitted.content) + len(emitted.data or b""),
            emitted.opset,
        )
        _accept(job, temporary, done, last=last)
    finally:
        kept = written and not temporary.exists()  # renamed; also seen where an interrupt followed at once
        temporary.unlink(missing_ok=True)
        if data is not None and fresh_data and not kept:
            data.unlink(missing_ok=True)
    if report is not None and report.verdict is Verdict.DIFFERENT:
        raise VerificationError(_failure(job, report), report)
    return done


def _verify(job: _Job, temporary: Path) -> VerifyReport | None:
    if job.reference is None:
        return None
    return verify_file(job.reference, job.program, job.target, str(temporary))


def _write_data(data: Path, content: bytes) -> None:
    """The sibling file; its name holds its hash, so that a file of that name has this content."""
    temporary = hidden_name(data)
    write_file(temporary, [content])
    try:
        replace_file(temporary, data)
    finally:
        temporary.unlink(missing_ok=True)


def _accept(job: _Job, temporary: Path, done: _Written, *, last: bool) -> None:
    """Renames what may stay."""
    report = done.report
    if report is not None and report.verdict is not Verdict.EQUIVALENT and not last:
        raise _NotEquivalent(report)
    final = job.final
    if report is not None and report.verdict is Verdict.DIFFERENT:
        if not job.keep:
            return
        final = final.with_name(final.name + ".unverified")
    elif job.accept is not None:
        job.accept(_opened(job, temporary, done))
    with writing(final):
        replace_file(temporary, final)


def _failure(job: _Job, report: VerifyReport) -> str:
    left = f"kept as {job.final.name}.unverified" if job.keep else "no file was left"
    return f"the {job.target.name} file is not equivalent to {job.program.name}: {report.reason}; {left}"


def _remarks(report: VerifyReport) -> tuple[str, ...]:
    undecided = (f"not verified: {report.reason}",) if report.verdict is Verdict.UNDECIDED else ()
    return (*report.notes, *undecided)
