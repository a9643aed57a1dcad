"""A pass's patterns as motifs: the arguments with which they are planted."""

import torch

from fxopt.rewriting import Const
from fxopt.testing import motifs


def _addmm(x: torch.Tensor, w: Const, b: Const) -> torch.Tensor:
    return torch.addmm(b, x, w)


def test_a_motif_is_planted_only_as_kernels_take_it():
    """Shape inference takes an addmm of a sum with four axes, which no kernel does: such a program runs nowhere."""
    ranks = {tuple(len(e.shapes[n]) for n in "xwb") for e in motifs._examples(_addmm)}
    assert (2, 2, 1) in ranks
    assert (2, 2, 2) in ranks
    assert not {r for r in ranks if r[2] > 2}
