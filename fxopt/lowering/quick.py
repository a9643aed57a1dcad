"""Calls of artifacts without the price of checking what was checked before.

Checking a call against the signature costs tens of microseconds, as much as a small model. A call of plain positional
tensors whose dtypes, shapes and devices were taken before needs none of it.
"""

import torch
from torch.utils import _pytree as pytree

from fxopt.lowering.artifact import Artifact
from fxopt.program.signature import Signature, TensorSpec

__all__ = ["QuickArtifact"]

_MOST = 256
"""Kinds of calls that are remembered."""


def _positional(signature: Signature) -> bool:
    """Whether the model takes nothing but positional tensors."""
    count = len(signature.inputs)
    flat = pytree.tree_structure((tuple(range(count)), {}))
    return all(isinstance(s, TensorSpec) for s in signature.inputs) and signature.input_tree == flat


def _single(signature: Signature) -> bool:
    """Whether the model returns one tensor in no container."""
    return (
        len(signature.outputs) == 1
        and isinstance(signature.outputs[0], TensorSpec)
        and signature.output_tree.is_leaf()
    )


class QuickArtifact(Artifact):
    """An artifact that remembers which shapes its signature took."""

    def __init__(self, target: str, signature: Signature, *, path: str | None = None, size: int = 0) -> None:
        super().__init__(target, signature, path=path, size=size)
        self._positional, self._single = _positional(signature), _single(signature)
        self._taken: set[object] = set()

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Runs on the model's own arguments.

        Raises:
            InputError: the arguments do not fit the signature.
        """
        if kwargs or not self._positional:
            return super().__call__(*args, **kwargs)
        try:
            key = tuple([(a.dtype, a.shape, a.device) for a in args])  # type: ignore[attr-defined]
        except AttributeError:  # no tensor: the signature says so better
            return super().__call__(*args)
        if key not in self._taken:
            result = super().__call__(*args)
            if len(self._taken) < _MOST:
                self._taken.add(key)
            return result
        flat = self.run_flat([a for a in args if isinstance(a, torch.Tensor)])
        return flat[0] if self._single else self.signature.unflatten_outputs(flat)
