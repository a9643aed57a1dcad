"""A call that the signature takes and an op does not, in one line: which sizes, which op, which line of the model.

>>> import torch
>>> from fxopt.frontend import trace
>>> class Rows(torch.nn.Module):
...     def forward(self, x):
...         return x.reshape(3, -1)
>>> program = trace(Rows(), (torch.zeros(6),), dynamic_shapes={"x": {0: "n"}})
>>> program(torch.zeros(5))
Traceback (most recent call last):
fxopt.errors.InputError: the program Rows can't be run with n = 5: shape '[3, -1]' is invalid for input of size 5
"""

from collections.abc import Sequence

import torch

from fxopt.errors import InputError
from fxopt.program.signature import Signature, solve_sizes

__all__ = ["RUN_ERRORS", "run_problem"]

RUN_ERRORS = (RuntimeError, IndexError)
"""What torch raises of sizes and values that an op does not take."""


def run_problem(
    subject: str, signature: Signature, tensors: Sequence[torch.Tensor], error: Exception
) -> InputError:
    """The error to raise instead.

    Args:
        subject: what was called: `the program Rows`, `model.onnx`.
        signature: its signature, which took the call.
        tensors: those of `signature.tensor_inputs`.
        error: what an op raised.
    """
    sizes = solve_sizes(signature.tensor_inputs, [t.shape for t in tensors])
    given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    return InputError(
        f"{subject} can't be run {f'with {given}' if given else 'on these values'}: {_reason(error)}"
    )


def _reason(error: Exception) -> str:
    """The line of an error's text that says what is wrong; TorchScript's comes last, behind its own traceback."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[-1] if lines[0].startswith("The following operation failed in the TorchScript") else lines[0]
    return line.removeprefix("RuntimeError: ")
