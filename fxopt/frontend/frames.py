"""Whose code a stack frame is: the user's own, a library's, or the machinery of Python, torch and fxopt.

Messages and provenance name the line that a user can change; a line inside torch tells nobody anything.

>>> import torch.nn.functional
>>> owner(torch.nn.functional.__file__).name, owner("/home/me/model.py").name
('MACHINERY', 'USER')
"""

import enum
import linecache
import re
import sys
import sysconfig
import textwrap
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

__all__ = [
    "Frame",
    "Owner",
    "innermost",
    "is_layer",
    "owner",
    "parse_frames",
    "place_of",
    "traceback_frames",
    "warn_caller",
]


class Owner(enum.Enum):
    """Who can change the code of a frame."""

    USER = enum.auto()
    LIBRARY = enum.auto()
    MACHINERY = enum.auto()


_FRAME = re.compile(r'File "([^"]+)", line (\d+), in ')


@dataclass(frozen=True)
class Frame:
    """A line of source."""

    file: str
    line: int

    @property
    def source(self) -> str:
        """Its text; empty if that is not known."""
        return textwrap.shorten(linecache.getline(self.file, self.line), 120, placeholder=" ...")

    @property
    def brief(self) -> str:
        """`x = y + 1 (net.py:7)`, without the folder."""
        place = f"{Path(self.file).name}:{self.line}"
        return f"{self.source} ({place})" if self.source else place

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f" ({self.source})" if self.source else "")


def _folder(path: str) -> str:
    return str(Path(path).parent).replace("\\", "/") + "/"


_TORCH = _folder(torch.__file__)
_LAYERS = f"{_TORCH}nn/modules/"
_CALLERS = (f"{_LAYERS}module.py", f"{_LAYERS}container.py")
_FXOPT = _folder(_folder(__file__))
_MODELS = (f"{_FXOPT}demo/", f"{_FXOPT}testing/")
"""Rooms of fxopt that hold models."""
_STANDARD = sysconfig.get_path("stdlib").replace("\\", "/") + "/"
_GENERATED = ("<eval_with_key>", "<string>", "<frozen ")


@cache
def owner(path: str) -> Owner:
    """Who owns the code of a file."""
    path = path.replace("\\", "/")
    if path.startswith((_TORCH, "torch/", *_GENERATED)) or (
        path.startswith(_FXOPT) and not path.startswith(_MODELS)
    ):
        return Owner.MACHINERY
    if "/site-packages/" in path or "/dist-packages/" in path:
        return Owner.LIBRARY
    return Owner.MACHINERY if path.startswith(_STANDARD) else Owner.USER


@cache
def is_layer(path: str) -> bool:
    """Whether a file of torch holds layers: the place of an op where nobody else is on the stack."""
    path = path.replace("\\", "/")
    return path.startswith(_LAYERS) and path not in _CALLERS


def parse_frames(stack_trace: str) -> list[Frame]:
    """The frames of a formatted stack trace, outermost first."""
    return [Frame(file, int(line)) for file, line in _FRAME.findall(stack_trace)]


def traceback_frames(error: BaseException) -> list[Frame]:
    """The frames that an exception came through, outermost first."""
    return [Frame(f.filename, f.lineno or 0) for f in traceback.extract_tb(error.__traceback__)]


def innermost(frames: Sequence[Frame]) -> Frame | None:
    """The line where an op was called: the innermost outside torch and fxopt, else in a layer of torch's."""
    outside = [f for f in frames if owner(f.file) is not Owner.MACHINERY]
    layers = [f for f in frames if is_layer(f.file)]
    found = outside or layers
    return found[-1] if found else None


def place_of(frames: Sequence[Frame]) -> str:
    """The user's own line with its source, and the library's line it led to; empty if there is neither.

    >>> place_of([Frame("/home/me/net.py", 7), Frame("/usr/lib/site-packages/timm/vit.py", 9)])
    '/home/me/net.py:7, in /usr/lib/site-packages/timm/vit.py:9'
    """
    inner = innermost([f for f in frames if owner(f.file) is not Owner.MACHINERY])
    if inner is None:
        return ""
    own = [f for f in frames if owner(f.file) is Owner.USER]
    if not own or own[-1] == inner:
        return str(inner)
    return f"{own[-1]}, in {inner}"


def warn_caller(message: str) -> None:
    """A UserWarning at the line that called fxopt, however deep inside it is noticed."""
    frame = sys._getframe(1)
    while owner(frame.f_code.co_filename) is Owner.MACHINERY and frame.f_back is not None:
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        UserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_globals.get("__name__", "__main__"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )
