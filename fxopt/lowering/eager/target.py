"""`EagerTarget`: `.fxopt` files of kind "eager", run by torch's own kernels through a flat function."""

import dataclasses
from collections.abc import Mapping

import torch
from torch.fx import Node

from fxopt.errors import ArtifactError
from fxopt.lowering.eager.flat import ENGINE, FlatFunction, flat_function, step_times
from fxopt.lowering.few_bits import with_dense_weights, with_packed_weights
from fxopt.lowering.kernels.plan import kernel_notes, plan_kernels
from fxopt.lowering.quick import QuickArtifact
from fxopt.lowering.target import Emitted, EmittedEntries, Target
from fxopt.lowering.times import NodeTime
from fxopt.ops.quantized import dequantize
from fxopt.program.devices import moved
from fxopt.program.file import ProgramFile, entries_buffers, file_buffers, program_of, read_file
from fxopt.program.program import Program

__all__ = ["EagerArtifact", "EagerTarget"]


class EagerArtifact(QuickArtifact):
    """An eager file, opened."""

    def __init__(self, program: Program, path: str | None, size: int) -> None:
        super().__init__("eager", program.signature, path=path, size=size)
        self._program = program
        self._function: FlatFunction = flat_function(program)

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs on the tensors of `signature.tensor_inputs`; returns the computed outputs in order."""
        with torch.no_grad():
            return self._function(*tensors)

    def node_times(self, tensors: list[torch.Tensor], calls: frozenset[str]) -> list[NodeTime]:
        """The times of its kernels, by a clock after each."""
        return step_times(self._program, tensors)

    def to(self, device: str | torch.device) -> "EagerArtifact":
        """The same artifact on another device: torch's kernels run anywhere.

        Raises:
            InputError: the device is not on this machine.
        """
        there = moved(self._program, device, values=_holds_integers(self._program))
        return EagerArtifact(there, self.path, self.size)


class EagerTarget(Target):
    """torch's kernels, called in order: every op that torch can run has a rule."""

    name = "eager"
    suffix = ".fxopt"
    runner = "eager"
    placement = "eager"

    def has_rule(self, node: Node) -> bool:
        """Every op of a program runs in torch."""
        return True

    def emit(
        self, program: Program, *, opset: int | None = None, stem: str = "model", optimize: bool = True
    ) -> Emitted:
        """The file's bytes; the same for the same program.

        Raises:
            LoweringError: an opset was given.
            ArtifactError: the program holds what has no file form.
        """
        self.resolve_opset(opset)
        # Weights of integers are packed when the file is opened, by what the machine has: `prepack` lists none.
        packed, table = with_packed_weights({"": program})
        content = b"".join(file_buffers(packed[""], "eager", lines=False, settings=_settings(table)))
        return Emitted(content, kernel_notes(plan_kernels(program, engine=ENGINE)))

    def emit_entries(self, programs: Mapping[str, Program], *, opset: int | None = None) -> EmittedEntries:
        """One file with a graph an entry point.

        Raises:
            LoweringError: as `emit`.
            ArtifactError: as `emit`.
        """
        file = f"model{self.suffix}"
        packed, table = with_packed_weights(programs)
        content = b"".join(entries_buffers(packed, _settings(table)))
        return EmittedEntries({file: content}, dict.fromkeys(programs, file))

    def open(self, path: str) -> EagerArtifact:
        """Opens a file.

        Raises:
            ArtifactError: it is damaged, or not of kind "eager".
        """
        return _opened(read_file(path, "eager"))

    def open_entry(self, path: str, entry: str) -> EagerArtifact:
        """Opens one entry point of a file.

        Raises:
            ArtifactError: it is damaged, not of kind "entries", or the entry point is not in it.
        """
        return _opened(read_file(path, "entries", entry=entry))


def _settings(table: dict[str, list[int]]) -> dict[str, object]:
    return {"prepack": [], **({"packed": table} if table else {})}


def _opened(content: ProgramFile) -> EagerArtifact:
    path = content.path
    try:
        weights = with_dense_weights(content.weights, content.settings.get("packed", {}))
    except ArtifactError as error:
        raise ArtifactError(f"can't read {path}: {error}") from error
    content = dataclasses.replace(content, weights=weights)
    if content.settings.get("prepack") != []:
        raise ArtifactError(f"can't read {path}: it packs weights in a way that this fxopt does not know")
    program = program_of(content, values=False)
    if _holds_integers(program):
        program = program_of(content)
    return EagerArtifact(program, path, content.size)


def _holds_integers(program: Program) -> bool:
    """Whether weights are stored as integers: which kernel takes a call of theirs, its sizes decide."""
    return any(node.target is dequantize for node in program.calls())
