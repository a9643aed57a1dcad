"""Recipes: ops that ONNX lacks, written as functions of torch ops that have rules.

A recipe takes what the op takes and returns what it returns. It is traced on the call's fake values and lowered in place of the
call, so that it can be tried against the op itself without any ONNX.

>>> find_recipe("aten.nanmean.default")(torch.tensor([1.0, float("nan"), 3.0])).item()
2.0
"""

import functools
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

import torch

from fxopt.errors import LoweringError

__all__ = ["RECIPES", "Recipe", "RecipeError", "find_recipe", "in_double", "recipe", "sized"]

Recipe = Callable[..., object]
RECIPES: dict[str, Recipe] = {}
"""By op key, `aten.lgamma.default`."""
_Function = TypeVar("_Function", bound=Recipe)


class RecipeError(LoweringError):
    """Why a recipe does not take a call; the lowering adds the op and its place."""


def recipe(*ops: str) -> Callable[[_Function], _Function]:
    """Registers a recipe for overloads named as `aten.op.overload`."""

    def register(function: _Function) -> _Function:
        RECIPES.update(dict.fromkeys(ops, function))
        return function

    return register


def find_recipe(key: str) -> Recipe | None:
    """The recipe of an op, if there is one."""
    load()
    return RECIPES.get(key)


@functools.cache
def load() -> None:
    """Imports each family's file, which registers its recipes."""
    for family in iter_modules(__path__, f"{__name__}."):
        import_module(family.name)


def in_double(x: torch.Tensor) -> tuple[torch.Tensor, torch.dtype]:
    """The tensor in float64, and the float dtype that the op's result has."""
    dtype = x.dtype if x.dtype.is_floating_point else torch.get_default_dtype()
    return x.to(torch.float64), dtype


def sized(x: torch.Tensor, dim: int, limit: int | None = None) -> int:
    """A size that a recipe counts to.

    Raises:
        RecipeError: it is dynamic, or above the limit.
    """
    size = x.shape[dim]
    if not isinstance(size, int):
        raise RecipeError(f"the size of axis {dim % x.dim()} must be fixed")
    if limit is not None and size > limit:
        raise RecipeError(f"the size of axis {dim % x.dim()} is {size}, at most {limit} is offered")
    return size
