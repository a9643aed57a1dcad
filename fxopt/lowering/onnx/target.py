"""`OnnxTarget`: programs as portable ONNX files.

>>> target = OnnxTarget()
>>> target.name, target.suffix, target.runner
('onnx', '.onnx', 'onnx')
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch.fx import Node

from fxopt.errors import LoweringError
from fxopt.lowering.artifact import Artifact
from fxopt.lowering.target import Emitted, EmittedEntries, Target
from fxopt.program.program import Program

if TYPE_CHECKING:
    from fxopt.lowering.onnx.lower import Recording
    from fxopt.lowering.onnx.model import Model

__all__ = ["OPSETS", "OnnxTarget"]

OPSETS = range(18, 24)
DEFAULT_OPSET = 20


class OnnxTarget(Target):
    """ONNX 18 to 23, checked with onnxruntime on the CPU; weights in the file, above 2 GB beside it."""

    name = "onnx"
    suffix = ".onnx"
    runner = "onnx"
    placement = "onnx:onnxruntime"
    has_four_bits = True
    """Weights of 4 bits and less are stored two a byte, in an opset that has a type for them."""

    def __init__(self, *, external_threshold: int | None = None) -> None:
        """Makes the target.

        Args:
            external_threshold: bytes of weights above which they go to a sibling file; by default what a
            file can hold.
        """
        self._threshold = external_threshold

    def has_rule(self, node: Node) -> bool:
        """Whether the call can be lowered: by a rule, by ops that it is made of, or by onnxscript."""
        from fxopt.lowering.onnx.lower import has_rule
        from fxopt.lowering.onnx.rules import load_rules

        load_rules()
        return has_rule(node)

    def resolve_opset(self, opset: int | None) -> int:
        """The opset that a file will have.

        Raises:
            LoweringError: it is not offered.
        """
        version = DEFAULT_OPSET if opset is None else opset
        if type(version) is not int or version not in OPSETS:
            kind = "" if type(version) is int else ", as an int"
            choice = f"choose {OPSETS.start} to {OPSETS.stop - 1}{kind}"
            raise LoweringError(f"opset {version!r} is not offered; {choice}")
        return version

    def lent_rule(self, node: Node) -> str:
        """onnxscript, where no rule of fxopt's lowers the call, nor rules for the ops that it is made of."""
        from fxopt.lowering.onnx.lower import lowered_by_torchlib

        return "onnxscript" if lowered_by_torchlib(node) else ""

    def missing(self, program: Program) -> list[Node]:
        """The calls without a rule that an output depends on."""
        from fxopt.lowering.onnx.lower import live_nodes

        return [n for n in live_nodes(program) if n.op == "call_function" and not self.has_rule(n)]

    def emit(
        self, program: Program, *, opset: int | None = None, stem: str = "model", optimize: bool = True
    ) -> Emitted:
        """The file's content; with `optimize` onnxsim's version where it is smaller, ours as its fallback.

        Raises:
            LoweringError: an opset that is not offered, ops without a rule, or a model that ONNX's checks
            refuse.
        """
        from fxopt.lowering.onnx.model import EXTERNAL_THRESHOLD

        threshold = EXTERNAL_THRESHOLD if self._threshold is None else self._threshold
        model, notes = self._model(program, opset, stem=stem, threshold=threshold)
        plain = Emitted(model.content(), notes, model.data(), model.data_name, opset=model.opset)
        return _simplified(plain) if optimize else plain

    def emit_entries(self, programs: Mapping[str, Program], *, opset: int | None = None) -> EmittedEntries:
        """A file an entry point, and one file with the weights of all.

        Raises:
            LoweringError: as `emit`.
        """
        from fxopt.lowering.onnx.model import share_data

        made = {n: self._model(p, opset, stem="weights", threshold=sys.maxsize) for n, p in programs.items()}
        models = [model for model, _ in made.values()]
        share_data(models, "weights")
        files = {f"{name}{self.suffix}": model.content() for name, (model, _) in made.items()}
        data = models[0].data()
        assert data is not None
        files[str(models[0].data_name)] = data
        notes = dict.fromkeys(note for _, notes in made.values() for note in notes)
        return EmittedEntries(files, {name: f"{name}{self.suffix}" for name in programs}, tuple(notes))

    def _model(
        self, program: Program, opset: int | None, *, stem: str, threshold: int
    ) -> "tuple[Model, tuple[str, ...]]":
        """The model of a program, checked, and what there is to say of it."""
        from fxopt.lowering.integers import integer_notes
        from fxopt.lowering.onnx.gates import check_model, without_weights
        from fxopt.lowering.onnx.model import build_model

        version = self.resolve_opset(opset)
        self._check_rules(program)
        recording, version = self._recorded(program, version, fixed=opset is not None)
        model = build_model(program, recording, version, stem=stem, threshold=threshold)
        check_model(without_weights(model.proto, [header for header, _ in model.weights]))
        return model, (*recording.notes, *integer_notes(program, self.placement))

    def _recorded(self, program: Program, version: int, *, fixed: bool) -> "tuple[Recording, int]":
        """The recording at the opset, or at the first that has a type for 4-bit weights where there are some."""
        from fxopt.lowering.few_bits import few_bits
        from fxopt.lowering.onnx.builder import FOUR_BITS
        from fxopt.lowering.onnx.lower import record

        if self.has_four_bits and not fixed and version < FOUR_BITS and few_bits(program):
            higher = record(program, FOUR_BITS)
            if higher.four_bits:
                return higher, FOUR_BITS
        return record(program, version), version

    def _check_rules(self, program: Program) -> None:
        from fxopt.lowering.onnx.builder import place_of
        from fxopt.ops.info import op_key

        if not program.signature.computed_outputs:
            raise LoweringError("the model returns no tensor: an ONNX file would have nothing to compute")
        missing = self.missing(program)
        if missing:
            ops = ", ".join(f"{op_key(n.target)}{place_of(n)}" for n in missing)
            raise LoweringError(f"onnx has no rule for {ops}")

    def open(self, path: str) -> Artifact:
        """Opens a file, of fxopt's or of another exporter's.

        Raises:
            ArtifactError: it is corrupt or no ONNX file.
        """
        from fxopt.lowering.onnx.artifact import open_onnx

        return open_onnx(path)


def _simplified(plain: Emitted) -> Emitted:
    if plain.data is not None:
        return Emitted(
            plain.content,
            (*plain.notes, "onnxsim was not run: the weights are beside the file"),
            plain.data,
            plain.data_name,
            opset=plain.opset,
        )
    from fxopt.lowering.onnx.simplify import simplify

    result = simplify(plain.content)
    if result.content is None:
        return replace(plain, notes=(*plain.notes, *([result.why] if result.why else [])))
    notes = (*plain.notes, "simplified by onnxsim")
    return replace(plain, content=result.content, notes=notes, fallback=plain)
