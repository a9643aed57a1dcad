"""A pass's patterns as motifs: the arguments with which they are planted."""

import random
from collections import Counter
from dataclasses import replace

import torch

from fxopt.ops import op_key
from fxopt.rewriting import Const
from fxopt.testing import ProgramBuilder, build_program, motifs
from fxopt.testing.choice import Choose
from fxopt.testing.perturbation import Operand
from fxopt.verification import evaluate, sample_inputs


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


def _drawn(motif, count, *, perturb=False):
    for seed in range(count):
        draw = Choose(random.Random(seed).randrange)
        yield build_program(draw, motifs=[motif], max_ops=1, perturb=perturb)[0]


def test_the_sizes_of_axes_that_go_together_vary():
    """Drawn apart they would seldom suit one another, and the example's 4 would stand in nearly all."""

    def motif(x, w: Const):
        return torch.nn.functional.linear(x, w)

    inputs = Counter(int(p.weights["w0"].shape[-1]) for p in _drawn(motif, 200) if p.weights)
    assert set(inputs) == set(motifs._SIZES)
    assert max(inputs.values()) < 0.45 * sum(inputs.values())


def test_what_indexes_a_table_is_within_it():
    """Weights of other values, and integers that were computed, index nothing."""

    def looked_up(x, table: Const):
        return torch.nn.functional.embedding(x, table)

    def selected(x, rows: Const):
        return x.index_select(0, rows).index_select(0, rows)

    for function in (looked_up, selected):
        kinds = Counter[str]()
        for program in _drawn(function, 60, perturb=True):
            calls = [
                n for n in program.calls() if op_key(n.target).split(".")[1] in ("embedding", "index_select")
            ]
            kinds += Counter(n.args[1 if "emb" in str(n.target) else 2].op for n in calls)
            for sample in sample_inputs(program.signature, seed=3):
                evaluate(program, sample.tensors)
        assert kinds["placeholder"] > 10 and kinds["get_attr"] > 0, kinds


def test_a_computed_index_is_none():
    """Among the values at hand that would fit only inputs are known to lie within the table."""
    b = ProgramBuilder()
    x = b.call("aten.to.dtype", b.input((2,)), torch.int64)
    pool = [b.call("aten.mul.Tensor", x, 1000), b.input((2,), dtype=torch.int64, low=0, high=9)]
    operand = Operand((2,), torch.int64, is_weight=False, rows=3)
    drawn = [motifs._argument(Choose(random.Random(s).randrange), b, "i", operand, pool) for s in range(20)]
    assert pool[0] not in drawn and pool[1] in drawn
    anything = replace(operand, rows=None)
    drawn = [motifs._argument(Choose(random.Random(s).randrange), b, "i", anything, pool) for s in range(20)]
    assert pool[0] in drawn


def test_a_weight_that_indexes_has_rows_of_the_table():
    for rows, most in ((1, 0), (2, 0), (3, 2), (9, 2)):
        b = ProgramBuilder()
        b.weight((4,), seed=3, dtype=torch.int64)  # of the same type, with other values
        operand = Operand((4,), torch.int64, is_weight=True, rows=rows)
        for seed in range(30):
            motifs._argument(Choose(random.Random(seed).randrange), b, "i", operand, ())
        values = torch.cat([w for n, w in b.program.weights.items() if n != "w0"])
        assert len(b.program.weights) > 20 and (int(values.min()), int(values.max())) == (0, most)
