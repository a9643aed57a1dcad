"""Perturbed motifs: varied, runnable at every size, off in the simplest draw."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.fx import Node

from fxopt.ops import UnknownOpError, op_key
from fxopt.rewriting import Const
from fxopt.testing import ProgramBuilder, build_program, perturbation
from fxopt.testing.choice import Choose
from fxopt.testing.emission import NoSize
from fxopt.testing.motifs import Motif, _examples, plant
from fxopt.testing.perturbation import Operand, _other_operands, _taken, _together, drawn_perturbation
from fxopt.testing.perturbation import Perturbation as Change
from fxopt.verification import evaluate, sample_inputs


def _convolved(x: torch.Tensor, w: Const) -> torch.Tensor:
    return torch.conv2d(x, w, None, [2, 1], [1, 0]).relu().softmax(1)


def _biased(x: torch.Tensor, w: Const, b: Const) -> torch.Tensor:
    return torch.nn.functional.linear(x, w, b) * 2 + x.sum(1, keepdim=True)


def _normalised(x):
    return torch.batch_norm(x, None, None, x.mean(0), x.var(0), False, 0.1, 1e-5, True)


def _made(motif, seeds=150, *, perturb=True, **options):
    return [
        build_program(
            Choose(random.Random(s).randrange), motifs=[motif], max_ops=1, perturb=perturb, **options
        )[0]
        for s in range(seeds)
    ]


def _calls(programs, key):
    return [n for p in programs for n in p.calls() if op_key(n.target) == key]


def test_literals_of_every_kind_are_redrawn():
    made = _made(_convolved, 200)
    convolutions = _calls(made, "aten.conv2d.default")
    seen = [Counter(str(n.args[i]) for n in convolutions) for i in (3, 4)]
    assert all(len(values) >= 4 for values in seen), seen
    assert {n.args[1] for n in _calls(made, "aten.softmax.int")} >= {0, 1, 2, 3}
    sums = _calls(_made(_biased, 300), "aten.sum.dim_IntList")
    assert {n.args[2] for n in sums} == {True, False} and {len(n.args[1] or ()) for n in sums} >= {0, 1, 2}


def test_most_motifs_stay_as_they_are():
    convolutions = _calls(_made(_convolved, 300), "aten.conv2d.default")
    plain = sum(n.args[3:6] == ([2, 1], [1, 0], [1, 1]) for n in convolutions)
    assert 0.6 < plain / len(convolutions) < 0.98


def test_operands_are_of_other_dtypes_and_no_weights():
    made = _made(_biased, 300)
    linears = _calls(made, "aten.linear.default")
    assert len({n.args[0].meta["val"].dtype for n in linears}) >= 3
    assert {n.args[0].op for n in linears} == {"placeholder", "get_attr"}


def test_the_weight_of_a_linear_is_a_vector_too():
    def motif(x, w: Const):
        return torch.nn.functional.linear(x, w).relu()

    linears = _calls(_made(motif, 120), "aten.linear.default")
    assert {n.args[1].meta["val"].dim() for n in linears} == {1, 2}


def test_numbers_stand_for_tensors():
    sums = _calls(_made(lambda x, y: torch.add(x, y).relu()), "aten.add.Tensor")
    assert any(isinstance(n.args[1], (int, float)) for n in sums)


def test_numbers_are_whole_flags_fractions_and_sizes_and_infinite_only_where_that_is_asked_for():
    def numbers(**options):
        return [n.args[1] for n in _calls(_made(lambda x: x * 2, 400, **options), "aten.mul.Tensor")]

    finite = numbers()
    assert {type(n) for n in finite} >= {bool, int, float}
    assert any(isinstance(n, Node) and op_key(n.target) == "aten.sym_size.int" for n in finite)
    assert {str(n) for n in finite} & {"inf", "-inf", "nan"} == set()
    assert {str(n) for n in numbers(non_finite=True)} & {"inf", "-inf", "nan"}


def test_what_is_drawn_runs_at_every_size():
    for motif in (_convolved, _biased):
        for program in _made(motif, 60):
            for sample in sample_inputs(program.signature, seed=1):
                evaluate(program, sample.tensors)


def _change(function, shape, literals, **options):
    """The motif of one argument with other literals, None if it is refused."""
    b = ProgramBuilder()
    size = [b.batch if d is None else d for d in shape]
    example = next(e for e in _examples(function) if len(e.shapes["x"]) == len(shape))
    recording = example.record(b.program, {"x": size})
    operand = Operand(tuple(size), torch.float32, is_weight=False, **options)
    return _taken(recording, Change({"x": operand}, literals))


def test_what_only_the_example_takes_is_refused():
    """The batch of the example is 7: its fifth row is there, and five of its rows are no five at other sizes."""
    assert _change(lambda x: x.select(1, 0).relu(), (None, 4), {(0, 2): 3}) is not None
    assert _change(lambda x: x.select(0, 0).relu(), (None, 4), {(0, 2): 5}) is None
    assert _change(lambda x: x.narrow(0, 0, 1).relu(), (None, 4), {(0, 3): 5}) is None
    # Of one row a squeezed batch is gone, of two the first five rows are two: these run, in other shapes.
    assert _change(lambda x: x.squeeze(1).relu(), (None, 4), {(0, 1): 1}) is not None
    assert _change(lambda x: x.squeeze(1).relu(), (None, 4), {(0, 1): 0}) is None
    assert _change(lambda x: x[:, :2].relu(), (None, 4), {(0, 1): 0, (0, 3): 5}) is None


def test_what_kernels_refuse_or_has_effects_is_refused():
    assert _change(lambda x: torch.celu(x, 1.0).relu(), (None, 4), {(0, 1): 2.0}) is not None
    assert _change(lambda x: torch.celu(x, 1.0).relu(), (None, 4), {(0, 1): 0.0}) is None
    assert _change(_normalised, (None, 4), {(2, 7): 0.5}) is not None
    assert _change(_normalised, (None, 4), {(2, 5): True}) is None


REFUSALS = (
    RuntimeError,
    NotImplementedError,
    IndexError,
    ValueError,
    TypeError,
    AssertionError,
    ZeroDivisionError,
    NoSize,
    UnknownOpError,
)


@pytest.mark.parametrize("kind", [*REFUSALS, KeyError, AttributeError])
def test_what_torch_raises_is_a_refusal_and_other_errors_are_ours(kind, monkeypatch):
    def raising(*args):
        raise kind("no")

    monkeypatch.setattr(perturbation, "emitted", raising)
    if kind in REFUSALS:
        assert _change(lambda x: x.relu(), (None, 4), {}) is None
    else:
        with pytest.raises(kind):
            _change(lambda x: x.relu(), (None, 4), {})


def test_an_argument_that_is_left_unused_is_not_made():
    b = ProgramBuilder()
    (example,) = (e for e in _examples(lambda x, y: x + y) if {len(s) for s in e.shapes.values()} == {2})
    recording = example.record(b.program, {"x": [4, 4], "y": [4, 4]})
    assert recording is not None
    kept = _taken(recording, Change(example.operands({"x": [4, 4], "y": [4, 4]}), {(0, 1): 2}))
    assert kept is not None and set(kept.operands) == {"x"}


def test_a_motif_is_perturbed_only_where_that_is_asked_for():
    made = _made(_convolved, 100, perturb=False)
    assert {tuple(map(str, n.args[3:6])) for n in _calls(made, "aten.conv2d.default")} == {
        ("[2, 1]", "[1, 0]", "[1, 1]")
    }


def test_the_simplest_draw_is_the_motif_itself():
    b = ProgramBuilder()
    plant(Choose(lambda _: 0), b, Motif(_convolved), (), perturb=True)
    (convolution,) = _calls([b.program], "aten.conv2d.default")
    assert convolution.args[3:5] == ([2, 1], [1, 0])


def test_a_perturbation_is_that_of_its_draws():
    def drawn(seed):
        b = ProgramBuilder()
        example = _examples(_convolved)[0]
        recording = example.record(b.program, example.shapes)
        assert recording is not None
        return drawn_perturbation(
            Choose(random.Random(seed).randrange), b, recording, example.operands(example.shapes)
        )

    assert [drawn(s) for s in range(20)] == [drawn(s) for s in range(20)]
    assert any(drawn(s) is None for s in range(20)) and any(drawn(s) is not None for s in range(20))


def test_a_table_of_fewer_rows_is_indexed_below_them():
    def selected(x, i: Const):
        return x.index_select(0, i)

    b = ProgramBuilder()
    (example,) = (e for e in _examples(selected) if len(e.shapes["x"]) == 2)
    recording = example.record(b.program, example.shapes)
    operands = example.operands(example.shapes)
    for size, rows in ((1, 1), (5, 5), (b.batch, 1)):
        table = Operand((size, 4), torch.float32, is_weight=False)
        found = _taken(recording, Change({"x": table, "i": replace(operands["i"], rows=4)}))
        assert {n: o.rows for n, o in found.operands.items()} == {"x": None, "i": rows}


def _parallel(x, u: Const, v: Const, w: Const, b: Const):
    gate = torch.nn.functional.linear(x, v).relu()
    return torch.nn.functional.linear(x, u, b) * gate, w * x.sum()


def _weights_of_layers(program):
    return [n.args[1].meta["val"] for n in _calls([program], "aten.linear.default")]


def test_parallel_layers_change_together_and_apart():
    """All weights become vectors at once, or one of them."""
    ranks = Counter(tuple(w.dim() for w in _weights_of_layers(p)) for p in _made(_parallel, 250))
    assert ranks[1, 1] > 2 and ranks[1, 2] + ranks[2, 1] > 2, ranks


def test_the_bias_of_a_layer_goes_where_its_new_weight_does_not_take_one():
    layers = _calls(_made(_parallel, 250), "aten.linear.default")
    assert any(n.args[1].meta["val"].dim() == 1 and n.args[2] is None for n in layers)


def _recorded(function):
    b = ProgramBuilder()
    example = _examples(function)[0]
    recording = example.record(b.program, example.shapes)
    return recording, example.operands(example.shapes)


def test_what_stands_at_the_same_place_of_the_same_op_is_together():
    recording, operands = _recorded(_parallel)
    drawn = [_together(Choose(random.Random(s).randrange), recording, operands) for s in range(60)]
    assert {tuple(sorted(d)) for d in drawn} == {("b",), ("u", "v"), ("x",), ("u",), ("v",), ("w",)}
    assert _together(Choose(lambda n: 0), recording, operands) == [next(iter(operands))]


def test_a_joint_change_is_the_same_for_all():
    _, operands = _recorded(_parallel)
    operands = {**operands, "v": replace(operands["v"], shape=(3, 4))}
    for seed in range(60):
        changed = _other_operands(Choose(random.Random(seed).randrange), operands, ["u", "v"])
        u, v = changed["u"], changed["v"]
        assert set(changed) == {"u", "v"} or len({o.dtype for o in changed.values()}) == 1
        assert (u.dtype, u.is_weight, u.number, len(u.shape)) == (
            v.dtype,
            v.is_weight,
            v.number,
            len(v.shape),
        )
    other_rank = {**operands, "v": replace(operands["v"], shape=(2, 4, 4))}
    for seed in range(30):
        changed = _other_operands(Choose(random.Random(seed).randrange), other_rank, ["u", "v"])
        assert "v" not in changed or changed["v"].shape == (2, 4, 4)


def test_literals_of_alike_calls_change_together_and_apart():
    def motif(x):
        return torch.softmax(x, 1) + torch.softmax(x * 2, 1)

    pairs = [tuple(n.args[1] for n in _calls([p], "aten.softmax.int")) for p in _made(motif, 250)]
    counts = Counter((a == b, a == 1) for a, b in pairs if (a, b) != (1, 1))
    assert counts[True, False] > 5 and counts[False, True] > 2, counts
