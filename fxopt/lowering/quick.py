"""Calls of artifacts without the price of checking what was checked before.

Checking a call against the signature costs tens of microseconds, as much as a small model. A call of tensors and
literals, by position or by name, whose dtypes, shapes, devices and values were taken before needs none of it.
"""

import torch
from torch.utils import _pytree as pytree

from fxopt.lowering.artifact import Artifact
from fxopt.lowering.assembly import assembler
from fxopt.program.signature import ConstantSpec, Signature, TensorSpec

__all__ = ["QuickArtifact"]

_MOST = 256
"""Kinds of calls that are remembered."""
_LITERALS = (bool, int, float, str, type(None))


def _positional(signature: Signature) -> bool:
    """Whether the model takes nothing but positional tensors."""
    count = len(signature.inputs)
    flat = pytree.tree_structure((tuple(range(count)), {}))
    return all(isinstance(s, TensorSpec) for s in signature.inputs) and signature.input_tree == flat


def _mark(value: object) -> object:
    """What of an argument decides whether it is taken; None if that is not known at a glance."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.device
    return (type(value), value) if isinstance(value, _LITERALS) else None


class QuickArtifact(Artifact):
    """An artifact that remembers which calls its signature took."""

    def __init__(self, target: str, signature: Signature, *, path: str | None = None, size: int = 0) -> None:
        super().__init__(target, signature, path=path, size=size)
        self._positional = _positional(signature)
        constants = {i: s.value for i, s in enumerate(signature.outputs) if isinstance(s, ConstantSpec)}
        self._assemble = assembler(signature.output_tree, constants)
        # Per kind of call: which of its arguments, by number, are the tensors of `run_flat`.
        self._taken: dict[object, list[int]] = {}

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Runs on the model's own arguments.

        Raises:
            InputError: the arguments do not fit the signature, or an op does not take their sizes or values.
        """
        if self._positional and not kwargs:
            try:
                key: object = tuple([(a.dtype, a.shape, a.device) for a in args])  # type: ignore[attr-defined]
            except AttributeError:  # no tensor: the signature says so better
                return super().__call__(*args)
            if key in self._taken:
                return self._assemble(self.attempt(list(args)))  # type: ignore[arg-type]  # tensors, as the key says
        else:
            marks = [_mark(a) for a in (*args, *kwargs.values())]
            if None in marks:
                return super().__call__(*args, **kwargs)
            key = (*marks, *kwargs)
            order = self._taken.get(key)
            if order is not None:
                given = (*args, *kwargs.values())
                return self._assemble(self.attempt([given[i] for i in order]))  # type: ignore[misc]
        tensors = self.signature.flatten_inputs(args, kwargs)
        result = self._assemble(self.attempt(tensors))
        self._remember(key, tensors, (*args, *kwargs.values()))
        return result

    def _remember(self, key: object, tensors: list[torch.Tensor], given: tuple[object, ...]) -> None:
        numbers = [i for i, value in enumerate(given) if isinstance(value, torch.Tensor)]
        places = {id(given[i]): i for i in numbers}
        # The same tensor given twice does not say which place is which.
        if len(places) == len(numbers) and len(self._taken) < _MOST:
            self._taken[key] = [places[id(tensor)] for tensor in tensors]
