"""Criteria by name: the built-in ones, functions that are registered, functions in a file.

>>> @register_criterion
... def deviation(layer: "LayerView") -> torch.Tensor:
...     return layer.rows[0].std(1)
>>> criterion_of("deviation") is deviation
True
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fxopt.errors import InputError, nearest
from fxopt.pipeline.registry import load_plugin

__all__ = ["CRITERIA", "Criterion", "LayerView", "criterion_of", "in_a_file", "register_criterion"]

CRITERIA = ("l1", "l2", "bn-scale", "fpgm", "lamp", "taylor", "obs", "random")


@dataclass(frozen=True)
class LayerView:
    """What a user's criterion sees of a layer.

    Attributes:
        name: the weight that names the layer.
        rows: for each weight that makes the channels, f64[groups, elements].
        scales: for each BatchNorm on them, its gammas, f64[groups, width].
    """

    name: str
    rows: tuple[torch.Tensor, ...]
    scales: tuple[torch.Tensor, ...]


Criterion = Callable[[LayerView], torch.Tensor]

_registered: dict[str, Criterion] = {}


def register_criterion(function: Criterion) -> Criterion:
    """Decorator: `prune{criterion=NAME}` ranks by this function, its name in kebab-case.

    Args:
        function: of a `LayerView`; gives the importance of each group, f64[groups]. What is less important goes
            first.

    Raises:
        InputError: the name is that of a built-in criterion, or of another function.
    """
    name = function.__name__.replace("_", "-")
    known = _registered.get(name)
    if name in CRITERIA:
        raise InputError(f"the criterion name {name!r} of {_said_of(function)} is taken by a built-in one")
    if known is not None and _said_of(known) != _said_of(function):
        raise InputError(f"the criterion name {name!r} of {_said_of(function)} is taken by {_said_of(known)}")
    _registered[name] = function
    return function


def _said_of(function: Criterion) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def in_a_file(text: str) -> bool:
    """Whether a text is FILE.py:FUNCTION."""
    file, colon, name = text.rpartition(":")
    return bool(colon and name) and file.endswith(".py")


def criterion_of(text: str) -> str | Criterion:
    """What a name stands for: one of `CRITERIA` for itself, else a function.

    Args:
        text: a name, or FILE.py:FUNCTION, which runs the file.

    Raises:
        InputError: no such criterion, no such function.
        PipelineError: no such file, or it fails.
    """
    if text in CRITERIA:
        return text
    if text in _registered:
        return _registered[text]
    if not in_a_file(text):
        known = (*CRITERIA, *sorted(_registered))
        raise InputError(
            f"no criterion {text!r}; they are {', '.join(known)}, a function in Python, FILE.py:FUNCTION"
        )
    file, _, name = text.rpartition(":")
    module = load_plugin(file)
    function = getattr(module, name, None)
    if not callable(function):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
        close = nearest(name, own)
        hint = f"did you mean {close!r}?" if close else f"it defines {', '.join(sorted(own)) or 'none'}"
        raise InputError(f"{file} has no function {name!r}; {hint}")
    found: Criterion = function
    return found
