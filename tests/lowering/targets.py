"""Targets that do wrong things, for the tests of what `lower` does about them."""

import os
from pathlib import Path

import torch

from fxopt.lowering import Emitted, Target
from fxopt.lowering.torchscript.target import TorchScriptTarget
from fxopt.program import Program
from tests.traced import traced


def files(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(os.listdir(folder))


class Wrong(TorchScriptTarget):
    """Emits another function than the program's."""

    def emit(
        self, program: Program, *, opset: int | None = None, stem: str = "model", optimize: bool = True
    ) -> Emitted:
        twin = program.copy()
        node = next(n for n in twin.calls() if "relu" in str(n.target))
        node.target = torch.ops.aten.tanh.default
        return super().emit(twin, opset=opset, stem=stem)


def content_of(target: Target) -> bytes:
    """What a target emits for the MLP."""
    return target.emit(traced("mlp", True)).content


class WithData(TorchScriptTarget):
    """Puts its weights, so to speak, into a sibling file."""

    def __init__(self, inner: Target) -> None:
        self.inner = inner

    def emit(
        self, program: Program, *, opset: int | None = None, stem: str = "model", optimize: bool = True
    ) -> Emitted:
        return Emitted(content_of(self.inner), data=b"weights", data_name=f"{stem}.abc.data")
