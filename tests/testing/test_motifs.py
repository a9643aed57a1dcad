"""A pass's patterns as motifs: the arguments with which they are planted."""

import torch

from fxopt.rewriting import Const
from fxopt.testing import ProgramBuilder, motifs


def _addmm(x: torch.Tensor, w: Const, b: Const) -> torch.Tensor:
    return torch.addmm(b, x, w)


def test_a_motif_is_planted_only_as_kernels_take_it():
    """Shape inference takes an addmm of a sum with four axes, which no kernel does: such a program runs nowhere."""
    ranks = {tuple(len(e.shapes[n]) for n in "xwb") for e in motifs._examples(_addmm)}
    assert (2, 2, 1) in ranks
    assert (2, 2, 2) in ranks
    assert not {r for r in ranks if r[2] > 2}


def test_where_the_number_of_parts_is_that_of_the_example_the_size_does_not_vary():
    """The example's seven rows make seven parts: with two rows there would be one of minus five."""
    b = ProgramBuilder()
    by_rows, by_columns = (
        [e for e in motifs._examples(f) if len(e.shapes["x"]) == 2]
        for f in (lambda x: x.split(1, 0)[0], lambda x: x.split(1, 1)[0])
    )
    assert by_rows[0].record(b.program, {"x": [4, 3]}) is not None
    assert by_rows[0].record(b.program, {"x": [b.batch, 3]}) is None
    assert by_columns[0].record(b.program, {"x": [b.batch, 3]}) is not None
    (halves,) = (e for e in motifs._examples(lambda x: x.chunk(2, 0)[0]) if len(e.shapes["x"]) == 2)
    assert halves.record(b.program, {"x": [b.batch, 3]}) is not None
