"""The user's own functions (a loss, a metric): what they raise becomes one line with the place.

>>> call_user("the metric", lambda: 1 / 0)
Traceback (most recent call last):
...
fxopt.errors.InputError: the metric failed at <doctest fxopt.training.users[0]>:1: ZeroDivisionError: division by zero
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from fxopt.errors import FxoptError, InputError

__all__ = ["call_user", "number", "scalar"]

T = TypeVar("T")
_TORCH = str(Path(torch.__file__).parent)
_OWN = str(Path(__file__).parent.parent)


def call_user(what: str, function: Callable[[], T]) -> T:
    """Runs the user's code.

    Args:
        what: it is, for the message.
        function: runs it.

    Raises:
        InputError: it raised, and what, and where outside of torch and fxopt.
    """
    try:
        return function()
    except FxoptError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not f.filename.startswith((_TORCH, _OWN))]
        place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
        first = next(iter(str(error).strip().splitlines()), "")
        raise InputError(f"{what} failed{place}: {type(error).__name__}: {first}") from error


def number(what: str, value: object) -> float:
    """A score as a float.

    Raises:
        InputError: it is no number.
    """
    if isinstance(value, (int, float, np.number)) or (isinstance(value, torch.Tensor) and value.numel() == 1):
        return float(value)
    raise InputError(f"{what} returned {_short(value)}; expected a number")


def scalar(what: str, value: object) -> torch.Tensor:
    """A loss as a tensor of one number.

    Raises:
        InputError: it is something else.
    """
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.reshape(())
    raise InputError(f"{what} returned {_short(value)}; expected a tensor of one number")


def _short(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}" if value is not None else "None"
