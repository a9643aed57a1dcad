"""Model factories in the user's Python files. A failure in them is told in one line, with the place.

>>> split_factory("models/net.py:build")
(PosixPath('models/net.py'), 'build')
>>> split_factory("net.onnx") is None
True
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from fxopt.errors import FxoptError, nearest

if TYPE_CHECKING:
    from fxopt.api import Model

__all__ = ["ModelSource", "UserCodeError", "read_factory", "read_function", "split_factory"]

_EXPECTED = "expected (model, args) or (model, args, kwargs)"


class UserCodeError(FxoptError):
    """A file of the user's that can't be imported, or a factory in it that does not do what it should."""


@dataclass(frozen=True)
class ModelSource:
    """A model as the command line was given it: an object with example inputs, or a path."""

    name: str
    model: "Model | str"
    args: tuple[object, ...] | None = None
    kwargs: dict[str, object] = field(default_factory=dict)


def split_factory(text: str) -> tuple[Path, str] | None:
    """`FILE.py:FACTORY` in its two parts; None for anything else."""
    file, colon, factory = text.rpartition(":")
    return (Path(file), factory) if colon and file.endswith(".py") else None


def read_function(file: Path, name: str) -> Callable[..., object]:
    """A function of the user's; what it raises becomes a `UserCodeError`.

    It runs with torch's generator at a fixed seed, so that random weights are the same at each call, also where
    a metric makes the model anew.

    Raises:
        UserCodeError: The file can't be imported, or has no such function.
    """
    module = _import_file(file)
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        close = nearest(name, names)
        hint = f"did you mean {close!r}?" if close else f"it defines {', '.join(sorted(names)) or 'none'}"
        raise UserCodeError(f"{file} has no function {name!r}; {hint}")
    return lambda *args: _call(lambda: _seeded(lambda: function(*args)), file, f"{file}:{name} failed")


def read_factory(file: Path, factory: str) -> ModelSource:
    """Call a factory: a function without arguments that returns `(model, args)` or `(model, args, kwargs)`.

    Raises:
        UserCodeError: The file or the function is missing, fails, or returns something else.
    """
    where = f"{file}:{factory}"
    result = read_function(file, factory)()
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        raise UserCodeError(f"{where} returned {_describe(result)}; {_EXPECTED}")
    model, args, kwargs = result if len(result) == 3 else (*result, {})
    if isinstance(args, dict):
        raise UserCodeError(f"{where} returned a dict as args; {_EXPECTED}, with the dict in third place")
    if not isinstance(kwargs, dict):
        raise UserCodeError(f"{where} returned {_describe(kwargs)} as kwargs; {_EXPECTED}, kwargs a dict")
    # Whether it is a model at all, the library says when it gets it.
    return ModelSource(
        factory, cast("Model", model), tuple(args) if isinstance(args, tuple | list) else (args,), kwargs
    )


def _seeded(function: Callable[[], object]) -> object:
    """Calls a function under a fixed seed; the caller's generator is left where it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return function()


def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise UserCodeError(f"{file} does not exist; give the path of a Python file")
    spec = importlib.util.spec_from_file_location(file.stem, file.resolve())
    if spec is None or spec.loader is None:
        raise UserCodeError(f"{file} is no Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # As `python FILE.py` would: the file's neighbours can be imported, and its classes find their module.
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules.setdefault(spec.name, module)
    loader = spec.loader
    _call(lambda: loader.exec_module(module), file, f"{file} can't be imported")
    return module


def _call(function: Callable[[], object], file: Path, what: str) -> object:
    """Run the user's code: an fxopt error passes, any other becomes one line with the place in the file."""
    try:
        return function()
    except FxoptError:
        raise
    except (Exception, SystemExit) as error:  # `parser.parse_args()` in the user's file leaves by the latter
        place, kind = _place(error, file), type(error).__name__
        raise UserCodeError(f"{what}: {place}{kind}: {_first_line(error)}") from error


def _place(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}: "
    own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file.resolve()]
    return f"{file.name}:{own[-1].lineno}: " if own else ""


def _first_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return error.msg
    return next(iter(str(error).splitlines()), "")


def _describe(value: object) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
