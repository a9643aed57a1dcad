"""Several entry points over one set of weights: a folder, such as a decoder's prefill and decode.

ONNX has a file an entry point beside one file of weights; TorchScript and eager have one file that holds all.
Each entry point is verified like a file of its own, and the folder gets its name only then.
"""

import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import ArtifactError, InputError, LoweringError, VerificationError
from fxopt.lowering.artifact import Artifact
from fxopt.lowering.check import verify_file
from fxopt.lowering.integer_io import io_notes, with_integer_io
from fxopt.lowering.integers import with_integer_weights
from fxopt.lowering.target import Target, get_target
from fxopt.program.program import Program
from fxopt.program.sharing import share_weights
from fxopt.program.signature import Signature
from fxopt.program.writing import checked_folder, hidden_name, replace_folder, write_file, writing
from fxopt.report import Verdict, VerifyReport

__all__ = ["MANIFEST", "EntryPoints", "lower_entries", "open_entries"]

MANIFEST = "entries.json"


_NOTHING = Signature((), (), pytree.tree_structure(((), {})), pytree.tree_structure(()))


class EntryPoints(Artifact, Mapping[str, Artifact]):
    """Artifacts by name over one set of weights; each is also an attribute: `points.decode(...)`.

    Attributes:
        target: the target's name.
        path: the folder, or None if it is held in memory.
        size: bytes of all its files.
    """

    def __init__(
        self, target: str, artifacts: Mapping[str, Artifact], *, path: str | None, size: int
    ) -> None:
        super().__init__(target, _NOTHING, path=path, size=size)
        self._artifacts = dict(artifacts)

    def __getitem__(self, name: str) -> Artifact:
        return self._artifacts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._artifacts)

    def __len__(self) -> int:
        return len(self._artifacts)

    def __getattr__(self, name: str) -> Artifact:
        found: Artifact | None = self.__dict__.get("_artifacts", {}).get(name)
        if found is None:
            raise AttributeError(f"there is no entry point {name!r}; there are {', '.join(self)}")
        return found

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Not this: one of the entry points is to be called.

        Raises:
            InputError: always; names the entry points.
        """
        raise InputError(f"there are several entry points, call one of them: {', '.join(self)}")

    def __call__(self, *args: object, **kwargs: object) -> object:
        """As `run_flat`."""
        return self.run_flat([])

    def __repr__(self) -> str:
        return f"<EntryPoints {self.target} {', '.join(self)} {self.path or 'in memory'}>"


def lower_entries(
    programs: Mapping[str, Program],
    target: str | Target,
    *,
    path: str | os.PathLike[str] | None,
    verify: bool,
    opset: int | None,
    keep_unverified: bool,
) -> EntryPoints:
    """Lowers programs to one folder; see `lower`."""
    chosen = get_target(target)
    chosen.resolve_opset(opset)
    _check_names(programs)
    if path is None:
        folder = tempfile.TemporaryDirectory(prefix="fxopt-")
        try:
            points = _write(programs, chosen, Path(folder.name) / "model", verify, opset, keep=False)
        except BaseException:
            folder.cleanup()
            raise
        points.path = None
        for artifact in points.values():
            artifact.path = None
        weakref.finalize(points, folder.cleanup)
        return points
    return _write(programs, chosen, checked_folder(Path(path), MANIFEST), verify, opset, keep=keep_unverified)


def _check_names(programs: Mapping[str, Program]) -> None:
    wrong = next(
        (n for n in programs if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", str(n)) or n == "forward"), None
    )
    if wrong is not None or not programs:
        what = "none was given" if wrong is None else f"{wrong!r} is no such name"
        raise LoweringError(f"entry points are given by name, letters, digits and _ (not 'forward'): {what}")


def _write(
    programs: Mapping[str, Program],
    target: Target,
    final: Path,
    verify: bool,
    opset: int | None,
    *,
    keep: bool,
) -> EntryPoints:
    """Writes to a hidden folder, verifies there, renames."""
    stored = {name: with_integer_io(with_integer_weights(program)) for name, program in programs.items()}
    emitted = target.emit_entries(share_weights(stored), opset=opset)
    temporary = hidden_name(final)
    reports: dict[str, VerifyReport] = {}
    try:
        with writing(final):
            temporary.mkdir()
            for name, content in emitted.files.items():
                write_file(temporary / name, [content])
            manifest = {"format": 1, "target": target.name, "entries": emitted.entries}
            write_file(temporary / MANIFEST, [json.dumps(manifest, indent=1).encode()])
        if verify:
            for name, program in programs.items():
                reports[name] = verify_file(
                    program, stored[name], target, str(temporary / emitted.entries[name]), name
                )
        failed = next((n for n, r in reports.items() if r.verdict is Verdict.DIFFERENT), None)
        if failed is not None:
            left = _keep(temporary, final) if keep else "nothing was left"
            raise VerificationError(
                f"the entry point {failed!r} is not equivalent to its program: {reports[failed].reason}; {left}",
                reports[failed],
            )
        replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    points = open_entries(final)
    for name, report in reports.items():
        points[name].report = report
        ends = io_notes(points[name].signature)
        points[name].notes = tuple(dict.fromkeys((*emitted.notes, *report.notes, *ends)))
    return points


def _keep(temporary: Path, final: Path) -> str:
    unverified = final.with_name(f"{final.name}.unverified")
    shutil.rmtree(unverified, ignore_errors=True)
    temporary.replace(unverified)
    return f"kept as {unverified.name}"


def open_entries(folder: str | os.PathLike[str]) -> EntryPoints:
    """Opens a folder of entry points.

    Raises:
        ArtifactError: a file is missing, damaged, or the manifest is not fxopt's.
    """
    path = Path(folder)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        form, entries = manifest["format"], dict(manifest["entries"])
        target = get_target(str(manifest["target"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, LoweringError) as error:
        raise ArtifactError(f"can't read {path}: {MANIFEST} in it is damaged or not fxopt's") from error
    if form != 1:
        raise ArtifactError(f"can't read {path}: it has format {form!r}, this fxopt reads format 1")
    if any(not isinstance(f, str) or Path(f).name != f for f in entries.values()):
        raise ArtifactError(f"can't read {path}: {MANIFEST} in it names a file outside")
    artifacts = {
        str(entry): target.open_entry(str(path / file), str(entry)) for entry, file in entries.items()
    }
    size = sum(f.stat().st_size for f in path.iterdir() if f.is_file())
    return EntryPoints(target.name, artifacts, path=str(path), size=size)
