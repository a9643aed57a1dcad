"""`Artifact`: a lowered program that runs, with the model's own containers in and out."""

from abc import ABC, abstractmethod

import torch

from fxopt.errors import InputError
from fxopt.lowering.times import NodeTime
from fxopt.program.failure import RUN_ERRORS, run_problem
from fxopt.program.quantized import Quantized
from fxopt.program.signature import Signature

__all__ = ["Artifact"]


class Artifact(ABC):
    """Call it with the model's own arguments.

    Attributes:
        target: the target's name.
        path: its file, or None if it is held in memory.
        signature: inputs, outputs, dynamic sizes.
        report: the verification of its file (a `VerifyReport`), or None.
        notes: what the lowering has to say ("onnxsim was not used, because ...").
        size: bytes of its file or files.
        opset: of an ONNX file that was just made.
    """

    def __init__(self, target: str, signature: Signature, *, path: str | None = None, size: int = 0) -> None:
        self.target = target
        self.signature = signature
        self.path = path
        self.size = size
        self.report: object = None
        self.notes: tuple[str, ...] = ()
        self.opset: int | None = None

    @property
    def io_scales(self) -> dict[str, Quantized]:
        """By name, scale and zero point of the inputs and outputs that are integers and stand for floats."""
        return {**self.signature.integer_inputs, **self.signature.integer_outputs}

    @abstractmethod
    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs on the tensors of `signature.tensor_inputs`; returns the computed outputs in order."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Runs on the model's own arguments.

        Raises:
            InputError: the arguments do not fit the signature, or an op does not take their sizes or values.
        """
        return self.signature.unflatten_outputs(self.attempt(self.signature.flatten_inputs(args, kwargs)))

    def attempt(self, tensors: list[torch.Tensor]) -> list[object]:
        """`run_flat` of a call that the signature takes.

        Raises:
            InputError: an op does not take its sizes or values.
        """
        try:
            return self.run_flat(tensors)
        except RUN_ERRORS as error:
            raise self._problem(tensors, error) from error

    def node_times(self, tensors: list[torch.Tensor], calls: frozenset[str]) -> list[NodeTime]:
        """The times of its kernels on this machine, in the order of a run; none where its runtime does not tell them.

        Args:
            tensors: those of `run_flat`.
            calls: the names of the program's calls, which kernels are named after.
        """
        return []

    def _problem(self, tensors: list[torch.Tensor], error: Exception) -> InputError:
        return run_problem(self.path or f"the {self.target} artifact", self.signature, tensors, error)

    def to(self, device: str | torch.device) -> "Artifact":
        """The same artifact on another device of this machine.

        Raises:
            InputError: its target runs where it is and nowhere else, or the device is not here.
        """
        if torch.device(device).type == "cpu":
            return self
        raise InputError(
            f"{self.target} artifacts run on the CPU, not on {device}: lower to eager for other devices"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.target} {self.path or 'in memory'}>"
