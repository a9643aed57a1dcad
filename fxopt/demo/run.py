"""The demo itself: every model to every target, each file verified, timed and measured.

>>> DemoRow("digits", "onnx", "digits.onnx", Verdict.EQUIVALENT, "accuracy", value=0.98, least=0.99).failed
True
"""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import fxopt
from fxopt.demo.models import DemoModel, digits, minilm
from fxopt.demo.timing import speed_of
from fxopt.errors import ArtifactError, VerificationError
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
    verdict: Verdict
    quality: str
    """What `value` is: "accuracy" or "cosine"."""
    value: float = math.nan
    """The quality of the artifact: accuracy, or the least cosine with the original's embeddings."""
    least: float = 0.0
    """The quality below which the demo has failed."""
    size: int = 0
    speed: float = math.nan
    """How many times as fast as the original, on one thread."""

    @property
    def failed(self) -> bool:
        """Whether the file is not equivalent, or worse than it may be."""
        return self.verdict is not Verdict.EQUIVALENT or not self.value >= self.least


def run_demo(folder: Path, *, seconds: float = 3.0) -> Iterator[DemoRow]:
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
    _log.info("%s: trace", demo.name)
    program = fxopt.trace(demo.model, demo.args, dynamic_shapes=demo.dynamic)
    for target in TARGETS:
        path = folder / f"{demo.name}{get_target(target).suffix}"
        _log.info("%s: to %s", demo.name, target)
        try:
            result = fxopt.optimize(program, pipeline="O1", target=target, path=path)
        except VerificationError as error:
            _log.warning("%s", error)
            yield DemoRow(demo.name, target, path.name, Verdict.DIFFERENT, demo.quality)
            continue
        result.report.save(folder / f"{path.name}.json")
        _log.info("%s: measure %s", demo.name, path.name)
        yield _measured(demo, result.artifact, path.name, result.report.verdict, seconds)


def _measured(demo: DemoModel, artifact: Artifact, file: str, verdict: Verdict, seconds: float) -> DemoRow:
    """The artifact against the original model: quality and speed."""
    with torch.inference_mode():
        value = demo.measure(artifact)
        speed = speed_of(lambda: artifact(*demo.args), lambda: demo.model(*demo.args), seconds=seconds)
    return DemoRow(
        demo.name,
        artifact.target,
        file,
        verdict,
        demo.quality,
        value=value,
        least=demo.least,
        size=artifact.size,
        speed=speed,
    )
