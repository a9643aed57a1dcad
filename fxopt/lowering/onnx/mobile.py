"""onnxruntime's own format, which its small builds for phones read, and the ops that such a build needs.

`net.ort` holds the graph after onnxruntime's optimisations, `net.required_operators.config` beside it what kernels
it calls: the file that `build.py --include_ops_by_config` takes to leave the others out.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fxopt.errors import ArtifactError, LoweringError
from fxopt.lowering.artifact import Artifact
from fxopt.lowering.target import Emitted
from fxopt.program.seal import is_intact, sealed

if TYPE_CHECKING:
    import onnx

__all__ = ["converted", "open_mobile"]

_SEAL_MARK = b"fxopt.sha256:"
"""The format is a buffer with offsets: what stands behind it is not looked at."""


def open_mobile(path: str) -> Artifact:
    """Opens a file of fxopt's.

    Raises:
        ArtifactError: it is missing, damaged, or another's.
    """
    from fxopt.lowering.onnx.artifact import OnnxArtifact
    from fxopt.lowering.onnx.metadata import SIGNATURE_KEY
    from fxopt.lowering.onnx.run import open_session
    from fxopt.program.trees import signature_from_json

    try:
        if not is_intact(path, _SEAL_MARK):
            raise ArtifactError(f"can't read {path}: it is damaged, or not written by fxopt")
        session = open_session(path)
        text = session.metadata[SIGNATURE_KEY]
    except OSError as error:
        raise ArtifactError(f"can't read {path}: {error.strerror}") from error
    return OnnxArtifact(session, signature_from_json(json.loads(text)), path=path, size=os.path.getsize(path))


def converted(emitted: Emitted, stem: str) -> Emitted:
    """An ONNX file in onnxruntime's format, and the ops that it calls as its sibling.

    Raises:
        LoweringError: onnxruntime is not installed, can't read the file, or weights stand beside that.
    """
    if emitted.data is not None:
        raise LoweringError("onnx:mobile holds its weights in one file, and these are above 2 GB")
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise LoweringError("onnx:mobile is written by onnxruntime, which is not installed") from error
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        optimised, final = Path(folder) / "optimised.onnx", Path(folder) / "model.ort"
        levels = onnxruntime.GraphOptimizationLevel
        try:
            _saved(emitted.content, optimised, levels.ORT_ENABLE_EXTENDED)
            _saved(optimised.read_bytes(), final, levels.ORT_DISABLE_ALL)
        except Exception as error:  # the runtime has exceptions of its own
            raise LoweringError(f"onnxruntime does not take the file: {str(error).strip()}") from error
        listed = _required(onnx.load(optimised))
        content = sealed([final.read_bytes()], _SEAL_MARK)
        return Emitted(content, emitted.notes, listed.encode(), f"{stem}.required_operators.config")


def _saved(content: bytes, path: Path, level: object) -> None:
    """What onnxruntime makes of a model, as a file of the format that its name says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 4, str(path)
    options.graph_optimization_level = level
    # Signed integers are what ARM has kernels for; on x86 onnxruntime would leave them in float.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.add_session_config_entry("session.save_model_format", "ORT" if path.suffix == ".ort" else "ONNX")
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _required(model: "onnx.ModelProto") -> str:
    """The ops of a model as onnxruntime's builds read them: `domain;opset;op,op`, a line a domain."""
    versions = {o.domain: o.version for o in model.opset_import}
    ops: dict[str, set[str]] = {}
    for node in model.graph.node:
        ops.setdefault(node.domain, set()).add(node.op_type)
    lines = [
        f"{d or 'ai.onnx'};{versions[d]};{','.join(sorted(names))}\n" for d, names in sorted(ops.items())
    ]
    return "".join(lines)
