"""The registry of passes: by decorator, by entry point, by file; one owner a name.

>>> "fuse-conv-bn" in registry
True
"""

import importlib
import importlib.util
import sys
import traceback
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from fxopt.errors import FxoptError, PipelineError, nearest
from fxopt.pipeline.base import Pass
from fxopt.pipeline.named import NAMED
from fxopt.pipeline.text import FIXPOINT

P = TypeVar("P", bound=type[Pass])

__all__ = ["PassRegistry", "load_plugin", "register_pass", "registry"]


class PassRegistry:
    """Passes by name; built-in ones and those of installed packages are loaded when one is asked for."""

    def __init__(self) -> None:
        self._passes: dict[str, type[Pass]] = {}
        self._loaded = False

    def add(self, cls: type[Pass]) -> None:
        """Registers a pass class; the same class defined again replaces it.

        Raises:
            PipelineError: another owner has the name.
        """
        name = cls.pass_name()
        known = self._passes.get(name)
        if known is not None and _owner(known) != _owner(cls):
            raise PipelineError(f"the pass name {name!r} of {_said_of(cls)} is taken by {_said_of(known)}")
        if name in NAMED or name == FIXPOINT:
            raise PipelineError(f"the pass name {name!r} of {_said_of(cls)} is taken by a named pipeline")
        self._passes[name] = cls

    def get(self, name: str) -> type[Pass]:
        """The pass of a name.

        Raises:
            PipelineError: there is none; names the nearest.
        """
        self._load()
        found = self._passes.get(name)
        if found is None:
            raise PipelineError(f"unknown pass {name!r}{self.hint(name)}")
        return found

    def hint(self, name: str, more: tuple[str, ...] = ()) -> str:
        """`; did you mean ...?` for a name that is not registered."""
        self._load()
        known = (*self._passes, *more, FIXPOINT)
        close = nearest(name, known)
        return f"; did you mean {close!r}?" if close else "; `fxopt passes` lists them"

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._passes

    def all(self) -> dict[str, type[Pass]]:
        """All passes by name, sorted."""
        self._load()
        return dict(sorted(self._passes.items()))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            importlib.import_module("fxopt.passes")
            for entry in entry_points(group="fxopt.passes"):
                self._enter(entry)
        except BaseException:
            self._loaded = False
            raise

    def _enter(self, entry: EntryPoint) -> None:
        """Loads an entry point: a pass, or a module that registers passes."""
        package = f" of package {entry.dist.name!r}" if entry.dist is not None else ""
        where = f"the entry point {entry.name!r} ({entry.value}){package}"
        try:
            loaded = entry.load()
        except FxoptError as error:
            raise PipelineError(f"{where}: {error}") from error
        except Exception as error:
            raise PipelineError(
                f"{where} fails: {type(error).__name__}: {error}; repair or uninstall the package"
            ) from error
        if isinstance(loaded, type) and issubclass(loaded, Pass):
            self.add(loaded)
        elif not isinstance(loaded, ModuleType):
            raise PipelineError(f"{where} is {loaded!r}; expected a subclass of fxopt.Pass or a module")


registry = PassRegistry()
"""The registry that pipelines are parsed with."""


def _owner(cls: type[Pass]) -> tuple[str, str]:
    """Which class this is, however its file was loaded: imported, or run as a plugin."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return (str(Path(file).resolve()) if file else cls.__module__, cls.__qualname__)


def _said_of(cls: type[Pass]) -> str:
    """A class for messages: a plugin's by its file, whose module name says nothing."""
    where = _owner(cls)[0] if cls.__module__.startswith(_PLUGIN) else cls.__module__
    return f"{where}: {cls.__qualname__}" if where != cls.__module__ else f"{where}.{cls.__qualname__}"


def register_pass(cls: P) -> P:
    """Class decorator: makes a pass known to pipelines under its class name in kebab-case.

    Raises:
        PipelineError: another class owns the name, or it is no Pass.
    """
    if not (isinstance(cls, type) and issubclass(cls, Pass)):
        raise PipelineError(f"{cls!r} is not a subclass of fxopt.Pass")
    registry.add(cls)
    return cls


_PLUGIN = "fxopt_plugin_"


def load_plugin(path: str) -> ModuleType:
    """Runs a Python file that registers passes, targets, ops or rules; again, what it registers is replaced.

    Returns:
        The file as a module.

    Raises:
        PipelineError: there is no such file, or it fails; names the error and the line.
    """
    file = Path(path)
    if not file.is_file():
        raise PipelineError(f"plugin {path!r} {'is no file' if file.exists() else 'does not exist'}")
    spec = importlib.util.spec_from_file_location(f"{_PLUGIN}{file.stem}", file)
    if spec is None or spec.loader is None:
        raise PipelineError(f"plugin {path!r} is no Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(spec.name)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        if before is None:
            del sys.modules[spec.name]
        else:
            sys.modules[spec.name] = before
        raise PipelineError(f"plugin {path!r} fails{_line(error, file)}: {_message(error)}") from error
    return module


def _line(error: BaseException, file: Path) -> str:
    """Where in the file it failed."""
    if isinstance(error, SyntaxError):
        return f" at {Path(error.filename or file).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).resolve() == file.resolve()]
    return f" at {file.name}:{lines[-1]}" if lines else ""


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, FxoptError) else f"{type(error).__name__}: {error}"
