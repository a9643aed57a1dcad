"""A plan becomes a folder: one file a stage, in one of the targets, and a manifest of what goes where.

Each stage is verified like a file of its own, then the stages together against the whole program; the folder gets its
name only then.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fxopt.errors import ArtifactError, InputError, LoweringError, VerificationError
from fxopt.lowering.artifact import Artifact
from fxopt.lowering.elsewhere import Elsewhere
from fxopt.lowering.lower import lower
from fxopt.lowering.stages import STAGES
from fxopt.lowering.target import Target, get_target
from fxopt.passes.partition import PartitionPlan, Row, Wires, plan_of, run_together, run_wired
from fxopt.program.devices import checked_device, memory_of
from fxopt.program.program import Program
from fxopt.program.signature import Signature
from fxopt.program.text import human_bytes
from fxopt.program.trees import signature_from_json, signature_to_json
from fxopt.program.writing import checked_folder, hidden_name, replace_folder, write_file, writing
from fxopt.report import Verdict, VerifyReport
from fxopt.verification.subjects import Subject, subject_of
from fxopt.verification.verify import verify_runs

__all__ = ["StagedArtifact", "lower_stages", "open_stages"]


class StagedArtifact(Artifact):
    """The stages of a plan, run in this process: one after the other, or side by side, in a thread for each device.

    Attributes:
        parts: what each device runs, in the order of `devices`: a stage, or its share of one.
        devices: where each is meant to run, those that share a stage one after the other.
        tensor_parallel: how many share a stage.
        wires: what each takes where they run side by side, else None.
    """

    def __init__(
        self,
        parts: list[Artifact],
        devices: list[str],
        tensor_parallel: int = 1,
        *,
        path: str | None = None,
        size: int = 0,
        signature: Signature | None = None,
        wires: Wires | None = None,
    ) -> None:
        super().__init__("stages", signature or _whole([p.signature for p in parts]), path=path, size=size)
        self.tensor_parallel = tensor_parallel
        self.parts = tuple(parts)
        self.devices = tuple(devices)
        self.wires = wires

    @property
    def stages(self) -> tuple[Artifact, ...]:
        """What the first device of each stage runs."""
        return self.parts[:: self.tensor_parallel]

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs on the tensors of `signature.tensor_inputs`; returns the computed outputs in order."""
        if self.wires is not None:
            return run_wired(self.parts, self.devices, self.wires, tensors)
        width = self.tensor_parallel
        return run_together([Row(self.parts[rank::width]) for rank in range(width)], tensors)


class _Shut(Artifact):
    """A part that another process runs."""

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs nothing.

        Raises:
            InputError: always.
        """
        raise InputError("this part of the stages was not opened here: another process runs it")


def _whole(signatures: list[Signature]) -> Signature:
    """What the first takes and the last returns."""
    last = signatures[-1]
    return dataclasses.replace(signatures[0], outputs=last.outputs, output_tree=last.output_tree)


def lower_stages(
    plan: object,
    target: str | Target,
    *,
    path: str | os.PathLike[str] | None = None,
    verify: bool = True,
    opset: int | None = None,
) -> StagedArtifact:
    """Lowers the stages of a plan, or of the program that carries it, to one folder; see `lower`.

    Raises:
        LoweringError: an op without a rule, or a device that is not on this machine.
        VerificationError: a stage, or all together, is not equivalent to what it was made from.
        ArtifactError: the folder can't be written.
        InputError: it is no plan, or one that was read from JSON and not joined with its program.
    """
    plan = plan_of(plan) if isinstance(plan, Program) else plan
    if not isinstance(plan, PartitionPlan):
        raise InputError(
            f"stages are made of a plan, got a {type(plan).__name__}: fxopt.partition(...) makes one"
        )
    programs = [program for stage in plan.shards() for program in stage]
    assert plan.program is not None
    chosen = get_target(target)
    _check_devices(plan, chosen)
    if path is None:
        folder = tempfile.TemporaryDirectory(prefix="fxopt-")
        try:
            staged = _write(plan, programs, chosen, Path(folder.name) / "model", verify, opset)
        except BaseException:
            folder.cleanup()
            raise
        staged.path = None
        weakref.finalize(staged, folder.cleanup)
        return staged
    return _write(plan, programs, chosen, checked_folder(Path(path), STAGES), verify, opset)


def _check_devices(plan: PartitionPlan, target: Target) -> None:
    if plan.tensor_parallel > 1 and target.name != "eager":
        raise LoweringError(
            f'files of {target.name} have no collectives: several devices share a stage as stage_target="eager" alone'
        )
    for name in (name for stage in plan.stages for name in stage.devices):
        device = torch.device(name)
        if device.type == "meta":
            raise LoweringError(f"a stage is to run on {name!r}, which is for plans: it has no values")
        if device.type != "cpu" and target.name != "eager":
            raise LoweringError(
                f"a stage is to run on {name!r}: files of {target.name} run on the CPU, "
                'stage_target="eager" on any device'
            )
        try:
            checked_device(device)
        except InputError as error:
            raise LoweringError(f"a stage is to run on {name!r}: {error}") from error


def _write(
    plan: PartitionPlan,
    programs: list[Program],
    target: Target,
    final: Path,
    verify: bool,
    opset: int | None,
) -> StagedArtifact:
    temporary = hidden_name(final)
    notes: list[str] = []
    try:
        with writing(final):
            temporary.mkdir()
        entries, signatures = [], []
        alone = plan.tensor_parallel == 1  # a share of a stage does nothing by itself
        devices = [(k, rank, d) for k, s in enumerate(plan.stages) for rank, d in enumerate(s.devices)]
        for (number, rank, device), program in zip(devices, programs, strict=True):
            file = f"stage{number}{'' if alone else f'-{rank}'}{target.suffix}"
            part = lower(program, target, path=temporary / file, verify=verify and alone, opset=opset)
            notes += part.notes
            signatures.append(part.signature)
            entries.append({"file": file, "device": device, "sha256": _hash(temporary / file)})
        manifest: dict[str, object] = {"format": 1, "target": target.name, "stages": entries}
        manifest |= {} if alone else {"tensor_parallel": plan.tensor_parallel}
        wires, whole = plan.wires(), _whole(signatures)
        if wires is not None:
            assert plan.program is not None
            manifest["wires"], whole = wires.to_json(), plan.program.signature
        manifest["signature"] = signature_to_json(whole)
        manifest["plan"] = plan.to_json()
        with writing(final):
            write_file(temporary / STAGES, [json.dumps(manifest, indent=1).encode()])
        report = _verified(plan, temporary) if verify else None
        replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    staged = open_stages(final)
    staged.report = report
    staged.notes = tuple(dict.fromkeys(notes))
    return staged


def _verified(plan: PartitionPlan, folder: Path) -> VerifyReport:
    assert plan.program is not None
    staged = open_stages(folder)
    report = verify_runs(
        subject_of(plan.program), Subject(staged.signature, staged.run_flat, name="the stages")
    )
    if report.verdict is Verdict.DIFFERENT:
        raise VerificationError(
            f"the stages are not equivalent to {plan.program.name}: {report.reason}; nothing was left", report
        )
    return report


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def open_stages(folder: str | os.PathLike[str], *, process: int | None = None) -> StagedArtifact:
    """Opens a folder of stages.

    Args:
        folder: as `lower_stages` wrote it.
        process: opens what this process of a run has, alone; the other files need not be here.

    Raises:
        ArtifactError: a file is missing, damaged or another's, or the manifest is not fxopt's.
        InputError: a device is not on this machine, or too small.
    """
    path = Path(folder)
    try:
        manifest = json.loads((path / STAGES).read_text(encoding="utf-8"))
        form, entries = manifest["format"], manifest["stages"]
        target = get_target(str(manifest["target"]))
        stages = [(str(e["file"]), str(e["device"]), str(e["sha256"])) for e in entries]
        shared = int(manifest.get("tensor_parallel", 1))
        needed = [int(s["memory"]) for s in manifest["plan"]["stages"]]
        told = manifest.get("signature")
        drawn = manifest.get("wires")
        wires = None if drawn is None else Wires.from_json(drawn)
        needs_it = process is not None or wires is not None
        signature = signature_from_json(told) if told is not None and needs_it else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, LoweringError, ArtifactError) as error:
        raise ArtifactError(f"can't read {path}: {STAGES} in it is damaged or not fxopt's") from error
    if form != 1:
        raise ArtifactError(f"can't read {path}: it has format {form!r}, this fxopt reads format 1")
    if shared < 1 or len(stages) % shared:
        raise ArtifactError(
            f"can't read {path}: {STAGES} in it has {len(stages)} files for groups of {shared}"
        )
    if not stages or any(Path(file).name != file for file, _, _ in stages):
        raise ArtifactError(f"can't read {path}: {STAGES} in it names no file, or one outside")
    own = range(len(stages)) if process is None else [process % len(stages)]
    _check_room({n: stages[n][1] for n in own}, [b for b in needed for _ in range(shared)])
    opened = [
        _Shut(target.name, signature)
        if signature is not None and number not in own
        else _opened(path, target, *stage)
        for number, stage in enumerate(stages)
    ]
    size = sum(f.stat().st_size for f in path.iterdir() if f.is_file())
    devices = [d for _, d, _ in stages]
    return StagedArtifact(
        opened, devices, shared, path=str(path), size=size, signature=signature, wires=wires
    )


def _check_room(devices: Mapping[int, str], needed: Sequence[int]) -> None:
    """Whether what is to run here fits, parts on one device together; on the CPU they share its memory."""
    bytes_on: Counter[torch.device] = Counter()
    for part, name in devices.items():
        device = checked_device(name)
        bytes_on[torch.device("cpu") if device.type == "cpu" else device] += needed[part]
    for device, total in bytes_on.items():
        there = memory_of(device)
        if there is not None and total > there:
            raise InputError(
                f"the stages here need {human_bytes(total)}, {device} has {human_bytes(there)}: give the devices' memory "
                "to partition, Device(name, memory=BYTES)"
            )


def _opened(folder: Path, target: Target, file: str, device: str, digest: str) -> Artifact:
    """A part on its device."""
    place = folder / file
    if not place.is_file() or _hash(place) != digest:
        raise ArtifactError(f"can't read {folder}: {file} is missing, or not the file that was written")
    there, part = torch.device(device), target.open(str(place))
    return part if there.type == "cpu" else Elsewhere(part, there)
