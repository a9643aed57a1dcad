"""Opening a file by its suffix and content: a program, an artifact, or a model from elsewhere.

>>> open_artifact("model.txt")
Traceback (most recent call last):
    ...
fxopt.errors.ArtifactError: can't open model.txt: expected a file that ends in .fxopt, .onnx, .ort, .pt or .pt2
"""

import os
from pathlib import Path

from fxopt.errors import ArtifactError
from fxopt.lowering.artifact import Artifact
from fxopt.lowering.entries import MANIFEST, open_entries
from fxopt.lowering.stages import STAGES
from fxopt.lowering.target import Target, get_target, target_names
from fxopt.program.archive import check_archive
from fxopt.program.file import SUFFIX, file_kind, load_program
from fxopt.program.program import Program
from fxopt.program.writing import checked_path

__all__ = ["open_artifact"]


def _by_suffix() -> dict[str, Target]:
    """One target a suffix: the plain one before its variants."""
    found: dict[str, Target] = {}
    for name in sorted(target_names(), key=lambda n: (n.count(":"), n)):
        target = get_target(name)
        found.setdefault(target.suffix, target)
    return found


def open_artifact(path: str | os.PathLike[str], *, trust: bool = False) -> Artifact | Program:
    """Opens a file.

    Args:
        path: an artifact, a program (`.fxopt`, `.pt2`), or a folder of entry points or stages.
        trust: also open what can run code of its author's choosing (a `.pt2`, another's `.pt`), and an
            `.onnx` of fxopt's that was changed since.

    Raises:
        ArtifactError: unknown suffix, damaged, or in need of trust.
        TraceError: a `.pt2` whose program fxopt can't take.
    """
    name = checked_path(path)
    suffix = Path(name).suffix
    if (Path(name) / MANIFEST).is_file():
        return open_entries(name)
    if (Path(name) / STAGES).is_file():
        from fxopt.lowering.stages.lower import open_stages

        return open_stages(name)
    targets = _by_suffix()
    if suffix != ".pt2" and suffix not in targets:
        known = sorted({*targets, ".pt2"})
        raise ArtifactError(
            f"can't open {name}: expected a file that ends in {', '.join(known[:-1])} or {known[-1]}"
        )
    if not Path(name).is_file():
        raise ArtifactError(
            f"can't open {name}: {'it is a folder' if Path(name).is_dir() else 'no such file'}"
        )
    if suffix == ".pt2":
        from fxopt.frontend import trace

        return trace(name, trust=trust)
    kind = file_kind(name) if suffix == SUFFIX else ""
    if kind == "program":
        return load_program(name)
    if kind == "entries":
        raise ArtifactError(f"can't open {name}: it holds several entry points; open its folder")
    if suffix == ".pt":
        return _script(name, trust=trust)
    if suffix == ".onnx":
        from fxopt.lowering.onnx.artifact import open_onnx

        return open_onnx(name, trust=trust)
    return targets[suffix].open(name)


def _script(name: str, *, trust: bool) -> Artifact:
    from fxopt.lowering.torchscript.foreign import ForeignScript
    from fxopt.lowering.torchscript.target import written_by_fxopt

    if written_by_fxopt(name):
        return get_target("torchscript").open(name)
    check_archive(name)
    if not trust:
        raise ArtifactError(
            f"can't open {name}: opening a .pt file that fxopt did not write can run code of its author's "
            "choosing; pass trust=True if you trust it"
        )
    return ForeignScript(name)
