"""What makes two runs the same: a checkpoint is only gone on with by the run that wrote it.

>>> first_difference({"seed": "0"}, {"seed": "1"})
'its seed is 0, this one has 1'
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping

import torch

from fxopt.program import Program
from fxopt.training.settings import Settings

__all__ = ["described", "first_difference"]

_ELSEWHERE = {"checkpoint", "checkpoint_steps", "log", "progress", "validation"}
"""Settings that don't change what the weights become."""


def described(what: str, program: Program, settings: Settings) -> dict[str, str]:
    """The settings and the program as text; functions by name, weights by hash."""
    fields = {
        f.name: _text(getattr(settings, f.name))
        for f in dataclasses.fields(settings)
        if f.name not in _ELSEWHERE
    }
    defaults = {f.name: _text(f.default) for f in dataclasses.fields(settings)}
    changed = (f"{name}={value}" for name, value in fields.items() if value != defaults[name])
    return {"kind": what, **fields, "settings": ", ".join(changed), "program": _digest(program)}


def first_difference(theirs: object, ours: Mapping[str, str]) -> str:
    """The first entry in which a checkpoint's run differs; empty if none does."""
    known = theirs if isinstance(theirs, Mapping) else {}
    for name, value in ours.items():
        if known.get(name) != value:
            return f"its {name} is {known.get(name)}, this one has {value}"
    return ""


def _text(value: object) -> str:
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__name__))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return str(os.fspath(value)) if isinstance(value, os.PathLike) else str(value)


def _digest(program: Program) -> str:
    digest = hashlib.sha256()
    for part in _parts(program):
        digest.update(part)
    return digest.hexdigest()[:16]


def _parts(program: Program) -> Iterable[bytes]:
    for node in program.graph.nodes:
        yield f"{node.op} {node.target} {node.args} {node.kwargs}".encode()
    for name, tensor in program.weights.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        yield flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
