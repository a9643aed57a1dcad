"""Recipes against the ops that they stand for, run by torch, and lowered."""

import torch

from fxopt.lowering.onnx.recipes import find_recipe
from tests.lowering.onnx.harness import Case, check


def agrees(op: torch._ops.OpOverload, *args: object, rtol: float | None = None, **kwargs: object) -> None:
    """The recipe's results are the op's; one that it leaves out is None."""
    function = find_recipe(str(op))
    assert function is not None
    got, expected = function(*args, **kwargs), op(*args, **kwargs)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for a, b in pairs:
        if a is not None:
            atol = None if rtol is None else rtol
            torch.testing.assert_close(a, b, equal_nan=True, rtol=rtol, atol=atol)


def lowers(function: object, *inputs: torch.Tensor, fixed: bool = True) -> None:
    """The file gives what the program gives."""
    assert callable(function)
    check(Case("recipe", function, inputs, fixed=fixed))
