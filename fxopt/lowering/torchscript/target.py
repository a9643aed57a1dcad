"""`TorchScriptTarget`: `.pt` files that load with torch alone, flat tensors in and a tuple of them out."""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping

import torch

from fxopt import __version__
from fxopt.errors import ArtifactError
from fxopt.lowering.quick import QuickArtifact
from fxopt.lowering.target import Emitted, EmittedEntries, Target
from fxopt.lowering.torchscript.module import SEAL_MARK
from fxopt.program.archive import ZIP_ERRORS, check_archive
from fxopt.program.graph_json import reaches_out
from fxopt.program.program import Program
from fxopt.program.seal import is_intact, is_sealed
from fxopt.program.sharing import shared_table
from fxopt.program.signature import Signature
from fxopt.program.trees import signature_from_json, signature_to_json

__all__ = [
    "EXTRA_FILE",
    "SEAL_MARK",
    "TorchScriptArtifact",
    "TorchScriptTarget",
    "load_script",
    "written_by_fxopt",
]

EXTRA_FILE = "fxopt.json"
"""Beside the module in the file: the signature, as JSON."""


def load_script(path: str, extra: dict[str, object] | None = None) -> torch.jit.ScriptModule:
    """`torch.jit.load` onto the CPU without its deprecation warning.

    Raises:
        ArtifactError: torch refuses the file.
    """
    import warnings

    from fxopt.lowering.kernels.packing import quietly

    with warnings.catch_warnings(), quietly():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        try:
            module: torch.jit.ScriptModule = torch.jit.load(path, "cpu", _extra_files=extra)
        except (RuntimeError, ValueError, OSError, UnicodeDecodeError) as error:
            if _saved_otherwise(path):
                raise ArtifactError(
                    f"can't read {path}: torch.save wrote it, not torch.jit.save; load it in a function that "
                    "returns the model, and name that: FILE.py:FUNCTION"
                ) from error
            first = str(error).strip().splitlines()
            raise ArtifactError(
                f"can't read {path} as TorchScript: {first[0] if first else type(error).__name__}"
            ) from error
    return module


def _saved_otherwise(path: str) -> bool:
    """Whether it is a file of torch's without a module in it: weights, or a pickled model."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {n.split("/", 1)[-1] for n in archive.namelist()}
    except ZIP_ERRORS:
        return False
    return "data.pkl" in names and "constants.pkl" not in names


def written_by_fxopt(path: str) -> bool:
    """Whether a `.pt` file carries fxopt's description."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(n.split("/", 1)[-1] == f"extra/{EXTRA_FILE}" for n in archive.namelist())
    except ZIP_ERRORS:
        return False


class TorchScriptArtifact(QuickArtifact):
    """A TorchScript file, opened. `module` is the loaded module, `method` which of its methods is run."""

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        signature: Signature,
        path: str,
        size: int,
        method: str = "forward",
    ) -> None:
        super().__init__("torchscript", signature, path=path, size=size)
        self.module = module
        self._run = module if method == "forward" else getattr(module, method)

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs on the tensors of `signature.tensor_inputs`; returns the computed outputs in order."""
        with torch.no_grad():
            return list(self._run(*tensors))


class TorchScriptTarget(Target):
    """TorchScript by source text: any op of a registered namespace, sizes exact."""

    name = "torchscript"
    suffix = ".pt"
    runner = "torchscript"
    placement = "torchscript"

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
        from fxopt.lowering.kernels.plan import kernel_notes
        from fxopt.lowering.torchscript.emit import emit_source
        from fxopt.lowering.torchscript.module import script_bytes

        self.resolve_opset(opset)
        description = {
            "format": 1,
            "fxopt": __version__,
            "name": program.name,
            "signature": signature_to_json(program.signature),
        }
        extra = {EXTRA_FILE: json.dumps(description, sort_keys=True, allow_nan=False)}
        source = emit_source(program)
        return Emitted(script_bytes(source, program.weights, extra), kernel_notes(source.plan))

    def emit_entries(self, programs: Mapping[str, Program], *, opset: int | None = None) -> EmittedEntries:
        """One file with a method an entry point.

        Raises:
            LoweringError: as `emit`.
        """
        from fxopt.lowering.torchscript.emit import Source, emit_source
        from fxopt.lowering.torchscript.module import script_bytes

        self.resolve_opset(opset)
        whole = Source("")
        # An entry point's name must not be a weight's too.
        whole.attributes.update({f" {name}": name for name in programs})
        for name, program in programs.items():
            source = emit_source(program, method=name, others=whole.attributes)
            whole = Source(whole.text + source.text, source.attributes)
        whole.attributes = {k: a for k, a in whole.attributes.items() if not str(k).startswith(" ")}
        entries = {name: signature_to_json(program.signature) for name, program in programs.items()}
        description = {"format": 1, "fxopt": __version__, "name": "model", "entries": entries}
        extra = {EXTRA_FILE: json.dumps(description, sort_keys=True, allow_nan=False)}
        file = f"model{self.suffix}"
        content = script_bytes(whole, shared_table(programs), extra)
        return EmittedEntries({file: content}, dict.fromkeys(programs, file))

    def open(self, path: str) -> TorchScriptArtifact:
        """Opens a file that fxopt wrote.

        Raises:
            ArtifactError: it is damaged, or no TorchScript file of fxopt.
        """
        return self._open(path, "")

    def open_entry(self, path: str, entry: str) -> TorchScriptArtifact:
        """Opens one entry point of a file that fxopt wrote.

        Raises:
            ArtifactError: it is damaged, no TorchScript file of fxopt, or the entry point is not in it.
        """
        return self._open(path, entry)

    def _open(self, path: str, entry: str) -> TorchScriptArtifact:
        check_archive(path, sums=False)
        if not written_by_fxopt(path):
            raise ArtifactError(f"can't read {path}: fxopt did not write it ({EXTRA_FILE} is missing)")
        if not is_intact(path, SEAL_MARK):
            how = "its hash differs" if is_sealed(path, SEAL_MARK) else "its hash is gone"
            raise ArtifactError(
                f"can't read {path}: it is damaged or was changed since fxopt wrote it ({how})"
            )
        _check_code(path)
        extra: dict[str, object] = {EXTRA_FILE: ""}
        module = load_script(path, extra)
        text = extra[EXTRA_FILE]
        try:
            description = json.loads(text)  # type: ignore[arg-type]  # str or bytes, as torch returns it
            if description["format"] != 1:
                raise ArtifactError(
                    f"can't read {path}: it has format {description['format']!r}, this fxopt reads format 1"
                )
            signature = signature_from_json(
                description["entries"][entry] if entry else description["signature"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"can't read {path}: fxopt did not write it ({EXTRA_FILE} is malformed)"
            ) from error
        method = getattr(module, entry or "forward")
        _check_calls(method.graph if entry else module.inlined_graph, path)
        return TorchScriptArtifact(module, signature, path, os.path.getsize(path), entry or "forward")


def _check_code(path: str) -> None:
    """Checks that opening the file runs none of its code.

    Raises:
        ArtifactError: it holds a class that wants to.
    """
    with zipfile.ZipFile(path) as archive:
        texts = [n for n in archive.namelist() if "/code/" in n and n.endswith(".py")]
        if any(b"__setstate__" in archive.read(name) for name in texts):
            raise ArtifactError(f"can't read {path}: it holds code that runs when it is opened")


def _check_calls(graph: "torch._C.Graph", path: str) -> None:
    """Checks that running the file computes and does nothing else.

    Raises:
        ArtifactError: it calls what reads or writes files, or talks to other processes.
    """
    for kind in sorted(set(_kinds(graph))):
        if reaches_out(kind.replace("::", ".")):
            raise ArtifactError(f"can't read {path}: it calls {kind!r}, which does more than compute")


def _kinds(block: "torch._C.Graph | torch._C.Block") -> Iterator[str]:
    """The ops of a graph, those in its branches and loops too."""
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
