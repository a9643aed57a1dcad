"""Lowering: a `Program` becomes a file that runs somewhere. One folder a target, one short rule an op family.

Its names are loaded when they are first used: the process that runs an ONNX file imports this package and
never torch.

>>> from fxopt import lowering
>>> lowering.target_names()[:2]
['eager', 'onnx']
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if __name__ != "fxopt.lowering":
    # The folder is linked at the root of the repository for people who look for it; a second copy of its
    # registries under another name would be filled by half of the imports.
    raise ImportError(f"import fxopt.lowering, not {__name__}: the folder at the root is only a link to it")

if TYPE_CHECKING:
    from fxopt.lowering.artifact import Artifact
    from fxopt.lowering.entries import EntryPoints
    from fxopt.lowering.files import open_artifact
    from fxopt.lowering.lower import lower
    from fxopt.lowering.remote import RemoteSubject
    from fxopt.lowering.target import (
        Emitted,
        LoweringRule,
        Target,
        find_rule,
        get_target,
        lowering_rule,
        register_target,
        target_names,
    )

__all__ = [
    "Artifact",
    "Emitted",
    "EntryPoints",
    "LoweringRule",
    "RemoteSubject",
    "Target",
    "find_rule",
    "get_target",
    "lower",
    "lowering_rule",
    "open_artifact",
    "register_target",
    "target_names",
]

_HOMES = {
    "artifact": ("Artifact",),
    "entries": ("EntryPoints",),
    "files": ("open_artifact",),
    "lower": ("lower",),
    "remote": ("RemoteSubject",),
    "target": (
        "Emitted",
        "LoweringRule",
        "Target",
        "find_rule",
        "get_target",
        "lowering_rule",
        "register_target",
        "target_names",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fxopt.lowering' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"fxopt.lowering.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """This package, where `lower` stays the function.

    Python binds the submodule `lower` to the package under the same name when somebody imports it directly.
    """

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value.lower if name == "lower" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
