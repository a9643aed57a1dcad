"""The rules of the target, a file for each family of ops, registered when it is first used."""

from importlib import import_module
from pkgutil import iter_modules

__all__ = ["load_rules"]


def load_rules() -> None:
    """Imports each family's file, which registers its rules."""
    for family in iter_modules(__path__, f"{__name__}."):
        import_module(family.name)
