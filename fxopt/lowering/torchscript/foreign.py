"""A TorchScript file that fxopt did not write: called as it is, its inputs unknown."""

import os

import torch
from torch.utils import _pytree as pytree

from fxopt.lowering.artifact import Artifact
from fxopt.lowering.torchscript.target import load_script
from fxopt.program.archive import check_archive
from fxopt.program.signature import Signature

__all__ = ["ForeignScript"]


class ForeignScript(Artifact):
    """A module loaded with torch.jit; arguments and results are its own, unchecked.

    Raises:
        ArtifactError: it is damaged, or torch refuses it.
    """

    def __init__(self, path: str) -> None:
        check_archive(path)
        self.module = load_script(path)
        empty = pytree.tree_structure(((), {}))
        nothing = Signature((), (), empty, pytree.tree_structure(()))
        super().__init__("torchscript", nothing, path=path, size=os.path.getsize(path))

    def run_flat(self, tensors: list[torch.Tensor]) -> list[object]:
        """Runs on positional tensors; returns the result's leaves."""
        return pytree.tree_leaves(self(*tensors))

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Runs the module on its own arguments."""
        with torch.no_grad():
            return self.module(*args, **kwargs)
