"""The demo itself: every model to every target, each file verified, timed and measured.

>>> DemoRow("digits", "onnx", "digits.onnx", 120_000, 2.5, "accuracy", 0.985, "equivalent").failed
False
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import fxopt
from fxopt.demo.models import DemoModel, digits, minilm
from fxopt.demo.timing import speed_ratio
from fxopt.errors import ArtifactError
from fxopt.lowering import Artifact, get_target
from fxopt.report import Verdict

__all__ = ["TARGETS", "DemoRow", "run_demo"]

TARGETS = ("eager", "torchscript", "onnx")
_MODELS: tuple[Callable[[], DemoModel], ...] = (digits, minilm)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoRow:
    """What became of one model on one target."""

    model: str
    target: str
    file: str
    size: int
    speed: float
    """How many times as fast as the original."""
    quality: str
    value: float
    """The quality of the artifact: accuracy, or the least cosine with the original's embeddings."""
    verdict: str
    least: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the file is not equivalent, or worse than it may be."""
        return self.verdict != Verdict.EQUIVALENT or self.value < self.least


def run_demo(folder: Path, *, seconds: float = 2.0) -> Iterator[DemoRow]:
    """Take two trained models through every step; yields a row for each artifact as it is done.

    Args:
        folder: Where the artifacts and a report for each go; made if missing.
        seconds: How long each artifact is timed.

    Raises:
        FxoptError: A package that the demo needs is missing, or a step failed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"can't make the folder {folder}: {error.strerror or error}") from error
    for make in _MODELS:
        _log.info("%s: getting the trained model", make.__name__)
        yield from _rows(make(), folder, seconds)


def _rows(demo: DemoModel, folder: Path, seconds: float) -> Iterator[DemoRow]:
    _log.info("%s: trace, O1", demo.name)
    program = fxopt.trace(demo.model, demo.args, dynamic_shapes=demo.dynamic)
    program = fxopt.run_pipeline(program, "O1")
    for target in TARGETS:
        path = folder / f"{demo.name}{get_target(target).suffix}"
        _log.info("%s: lower to %s, verify, time", demo.name, target)
        artifact = fxopt.lower(program, target, path=path)
        yield _measured(demo, artifact, path, seconds)


def _measured(demo: DemoModel, artifact: Artifact, path: Path, seconds: float) -> DemoRow:
    """The artifact against the original model: verdict, quality, speed."""
    report = fxopt.verify(demo.model, artifact)
    report.save(path.with_name(f"{path.name}.report.json"))
    with torch.inference_mode():
        value = demo.measure(artifact)
        speed = speed_ratio(lambda: demo.model(*demo.args), lambda: artifact(*demo.args), seconds=seconds)
    return DemoRow(
        demo.name,
        artifact.target,
        path.name,
        artifact.size,
        speed,
        demo.quality,
        value,
        str(report.verdict),
        demo.least,
    )
