"""`TorchScriptTarget`: `.pt` files that load with torch alone, flat tensors in and a tuple of them out."""

import json
import os
import zipfile
from pathlib import Path

import torch

from fxopt import __version__
from fxopt.errors import ArtifactError, LoweringError
from fxopt.lowering.quick import QuickArtifact
from fxopt.lowering.target import Emitted, Target
from fxopt.program.container import ZIP_ERRORS
from fxopt.program.program import Program
from fxopt.program.signature import Signature
from fxopt.program.trees import signature_from_json, signature_to_json

__all__ = ["EXTRA_FILE", "TorchScriptArtifact", "TorchScriptTarget", "load_script", "written_by_fxopt"]

EXTRA_FILE = "fxopt.json"
"""Beside the module in the file: the signature, as JSON."""


def load_script(path: str, extra: dict[str, object] | None = None) -> torch.jit.ScriptModule:
    """`torch.jit.load` onto the CPU without its deprecation warning.

    Raises:
        ArtifactError: torch refuses the file.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        try:
            module: torch.jit.ScriptModule = torch.jit.load(path, "cpu", _extra_files=extra)
        except (RuntimeError, ValueError, OSError, UnicodeDecodeError) as error:
            first = str(error).strip().splitlines()
            raise ArtifactError(
                f"can't read {path} as TorchScript: {first[0] if first else type(error).__name__}"
            ) from error
    return module


def written_by_fxopt(path: str) -> bool:
    """Whether a `.pt` file carries fxopt's description."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(n.split("/", 1)[-1] == f"extra/{EXTRA_FILE}" for n in archive.namelist())
    except ZIP_ERRORS:
        return False


class TorchScriptArtifact(QuickArtifact):
    """A TorchScript file, opened. `module` is the loaded module."""

    def __init__(self, module: torch.jit.ScriptModule, signature: Signature, path: str, size: int) -> None:
        super().__init__("torchscript", signature, path=path, size=size)
        self.module = module

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs on the tensors of `signature.tensor_inputs`; returns the computed outputs in order."""
        with torch.no_grad():
            return list(self.module(*tensors))


class TorchScriptTarget(Target):
    """TorchScript by source text: any op of a registered namespace, sizes exact."""

    name = "torchscript"
    suffix = ".pt"
    runner = "torchscript"

    def has_rule(self, node: torch.fx.Node) -> bool:
        """Whether the call can be written as TorchScript."""
        from fxopt.lowering.torchscript.emit import has_text

        return has_text(node)

    def emit(
        self, program: Program, *, opset: int | None = None, stem: str = "model", optimize: bool = True
    ) -> Emitted:
        """The file's bytes; the same for the same program.

        Raises:
            LoweringError: TorchScript refuses the program, or an opset was given.
        """
        from fxopt.lowering.torchscript.emit import emit_source
        from fxopt.lowering.torchscript.module import script_bytes

        if opset is not None:
            raise LoweringError("opset is an option of onnx; torchscript has none")
        description = {
            "format": 1,
            "fxopt": __version__,
            "name": program.name,
            "signature": signature_to_json(program.signature),
        }
        extra = {EXTRA_FILE: json.dumps(description, sort_keys=True, allow_nan=False)}
        return Emitted(script_bytes(emit_source(program), program.weights, extra))

    def open(self, path: str) -> TorchScriptArtifact:
        """Opens a file that fxopt wrote.

        Raises:
            ArtifactError: it is damaged, or no TorchScript file of fxopt.
        """
        if not Path(path).is_file():
            raise ArtifactError(f"can't read {path}: no such file")
        _check_sums(path)
        extra: dict[str, object] = {EXTRA_FILE: ""}
        module = load_script(path, extra)
        text = extra[EXTRA_FILE]
        try:
            description = json.loads(text)  # type: ignore[arg-type]  # str or bytes, as torch returns it
            if description["format"] != 1:
                raise ArtifactError(
                    f"can't read {path}: it has format {description['format']!r}, this fxopt reads format 1"
                )
            signature = signature_from_json(description["signature"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"can't read {path}: fxopt did not write it ({EXTRA_FILE} is missing)"
            ) from error
        return TorchScriptArtifact(module, signature, path, os.path.getsize(path))


def _check_sums(path: str) -> None:
    """The archive's own checksums, which torch does not look at for every member.

    Raises:
        ArtifactError: one differs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except ZIP_ERRORS as error:
        raise ArtifactError(f"can't read {path}: it is damaged or no TorchScript file") from error
    if bad is not None:
        raise ArtifactError(f"can't read {path}: {bad!r} in it is damaged (its checksum differs)")
