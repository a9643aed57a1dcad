"""The registry of passes: by decorator, by entry point, by file; one owner a name."""

import difflib
import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from fxopt.errors import PipelineError
from fxopt.pipeline.base import Pass

P = TypeVar("P", bound=type[Pass])

__all__ = ["PassRegistry", "load_plugin", "register_pass", "registry"]


class PassRegistry:
    """Passes by name. The built-in ones and those of installed packages are loaded when a name is first asked for."""

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
            raise PipelineError(
                f"the pass name {name!r} of {cls.__module__}.{cls.__qualname__} "
                f"is taken by {known.__module__}.{known.__qualname__}"
            )
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
        close = difflib.get_close_matches(name, [*self._passes, *more], 1)
        return f"; did you mean {close[0]!r}?" if close else "; `fxopt passes` lists them"

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
        importlib.import_module("fxopt.passes")
        for entry in entry_points(group="fxopt.passes"):
            loaded = entry.load()
            if isinstance(loaded, type) and issubclass(loaded, Pass):
                self.add(loaded)


def _owner(cls: type[Pass]) -> tuple[str, str]:
    """Which class this is, however its file was loaded: imported, or run as a plugin."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return (str(Path(file).resolve()) if file else cls.__module__, cls.__qualname__)


registry = PassRegistry()
"""The registry that pipelines are parsed with."""


def register_pass(cls: P) -> P:
    """Class decorator: makes a pass known to pipelines under its class name in kebab-case.

    Raises:
        PipelineError: another class owns the name, or it is no Pass.
    """
    if not (isinstance(cls, type) and issubclass(cls, Pass)):
        raise PipelineError(f"{cls!r} is not a subclass of fxopt.Pass")
    registry.add(cls)
    return cls


def load_plugin(path: str) -> None:
    """Runs a Python file that registers passes, targets, ops or rules.

    Raises:
        PipelineError: there is no such file, or it fails; names the error.
    """
    file = Path(path)
    if not file.is_file():
        raise PipelineError(f"plugin {path!r} does not exist")
    spec = importlib.util.spec_from_file_location(f"fxopt_plugin_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise PipelineError(f"plugin {path!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except PipelineError:
        raise
    except Exception as error:
        raise PipelineError(f"plugin {path!r} fails: {type(error).__name__}: {error}") from error
