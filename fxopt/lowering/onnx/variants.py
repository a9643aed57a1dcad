"""The targets of one runtime: ONNX as one runtime wants it.

>>> [t.name for t in (OnnxRuntimeTarget(), TensorRtTarget(), MobileTarget())]
['onnx:onnxruntime', 'onnx:tensorrt', 'onnx:mobile']
"""

import dataclasses
from collections.abc import Mapping

from fxopt.errors import LoweringError
from fxopt.lowering.artifact import Artifact
from fxopt.lowering.onnx.target import OnnxTarget
from fxopt.lowering.target import Emitted, EmittedEntries
from fxopt.program.program import Program

__all__ = ["MobileTarget", "OnnxRuntimeTarget", "TensorRtTarget"]


class OnnxRuntimeTarget(OnnxTarget):
    """ONNX for onnxruntime on x86: what `onnx` is, too."""

    name = "onnx:onnxruntime"


class TensorRtTarget(OnnxTarget):
    """ONNX for TensorRT: held to its rules, checked with onnxruntime on the CPU, never run in TensorRT.

    The check runs the file as it is written: onnxruntime's optimisations would round its biases.
    """

    name = "onnx:tensorrt"
    runner = "onnx-as-written"
    placement = "onnx:tensorrt"
    has_four_bits = False

    def emit(
        self, program: Program, *, opset: int | None = None, stem: str = "model", optimize: bool = True
    ) -> Emitted:
        """As for `onnx`.

        Raises:
            LoweringError: as for `onnx`, or TensorRT would not take it: names the rules and their sources.
        """
        import onnx

        from fxopt.lowering.onnx.tensorrt import broken_rules

        emitted = super().emit(program, opset=opset, stem=stem, optimize=optimize)
        broken = broken_rules(onnx.load_from_string(emitted.content))
        if broken:
            raise LoweringError(f"TensorRT does not take the file: {'; '.join(broken)}")
        return emitted

    def open(self, path: str) -> Artifact:
        """Opens a file, to be run as it is written.

        Raises:
            ArtifactError: it is corrupt or no ONNX file.
        """
        from fxopt.lowering.onnx.artifact import open_onnx

        return open_onnx(path, as_written=True)


class MobileTarget(OnnxTarget):
    """onnxruntime's format for phones (`.ort`), and the list of the kernels that it needs beside it."""

    name = "onnx:mobile"
    suffix = ".ort"
    placement = "onnx:mobile"
    has_four_bits = False

    def emit(
        self, program: Program, *, opset: int | None = None, stem: str = "model", optimize: bool = True
    ) -> Emitted:
        """The file that onnxruntime makes of the ONNX file.

        Raises:
            LoweringError: as for `onnx`; onnxruntime is not installed or can't read the ONNX file; weights above 2 GB.
        """
        from fxopt.lowering.onnx.mobile import converted

        emitted = super().emit(program, opset=opset, stem=stem, optimize=optimize)
        fallback = None if emitted.fallback is None else converted(emitted.fallback, stem)
        return dataclasses.replace(converted(emitted, stem), fallback=fallback)

    def emit_entries(self, programs: Mapping[str, Program], *, opset: int | None = None) -> EmittedEntries:
        """None: a file of this format has its weights within.

        Raises:
            LoweringError: always.
        """
        raise LoweringError(f"{self.name} has no files of several entry points: lower each program by itself")

    def open(self, path: str) -> Artifact:
        """Opens a file of fxopt's.

        Raises:
            ArtifactError: it is missing, damaged, or another's.
        """
        from fxopt.lowering.onnx.mobile import open_mobile

        return open_mobile(path)
