"""What the shell completes: names, without importing the library, which would take seconds.

A pass's file, class and name are the same words, so the folder's listing is the list of names.

>>> "fuse-conv-bn" in pass_names("fuse-")
True
>>> target_names("t")
['torchscript']
"""

from pathlib import Path

__all__ = ["pass_names", "pipeline_names", "target_names", "ways_to_use"]

_PACKAGE = Path(__file__).parents[1]
_PIPELINES = (
    "O0",
    "clean",
    "O1",
    "O2",
    "int8",
    "int8-dynamic",
    "int8-weights",
    "int4-weights",
    "fp16",
    "bf16",
)
_TARGETS = ("eager", "torchscript", "onnx", "onnx:onnxruntime", "onnx:tensorrt", "onnx:mobile")


def pass_names(incomplete: str) -> list[str]:
    """The built-in passes and named pipelines that begin so."""
    files = sorted(f.stem for f in (_PACKAGE / "passes").glob("*/*.py") if not f.stem.startswith("_"))
    names = (*_PIPELINES, *(stem.replace("_", "-") for stem in files))
    return [name for name in names if name.startswith(incomplete)]


def pipeline_names(incomplete: str) -> list[str]:
    """Pipeline texts that go on as the text so far may: its last pass completed."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in pass_names(last)]


def target_names(incomplete: str) -> list[str]:
    """The built-in targets that begin so."""
    return [name for name in _TARGETS if name.startswith(incomplete)]


def ways_to_use(incomplete: str) -> list[str]:
    """What `--tensor-parallel` and `--replicas` of `fxopt partition` take."""
    return [word for word in ("auto", "1", "2", "4", "8") if word.startswith(incomplete)]
