"""`shard-linears`: ranks together give what the program gives, each holds its share, and what can't be shared stays."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import nn

from fxopt import run_pipeline
from fxopt.dialect import violations
from fxopt.errors import InputError, PipelineError
from fxopt.ops.collectives import side_by_side
from fxopt.passes.partition import run_together, shards
from fxopt.passes.partition._sharding import Candidates, Sharding
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.program.file import load_program
from fxopt.report import Verdict
from fxopt.rewriting import Const
from fxopt.testing import programs
from fxopt.verification import sample_inputs, subject_of, verify_runs
from fxopt.verification.subjects import Subject
from tests.passes.helpers import program, rand
from tests.traced import traced


def held(shard: Program) -> int:
    """Bytes of weights."""
    return sum(w.nbytes for w in shard.weights.values())


def sums(shard: Program) -> int:
    """How many all-reduces a shard calls."""
    return sum(n.target is torch.ops.fxopt.all_reduce.default for n in shard.calls())


def checked(whole: Program, ranks: int) -> list[Program]:
    """The shards, which together do what the program does."""
    parts = shards(whole, ranks)
    for part in parts:
        assert list(violations(part, values=True)) == []
        assert [n.name for n in part.calls()] == [n.name for n in parts[0].calls()]
    together = Subject(whole.signature, lambda tensors: run_together(parts, tensors), name="the shards")
    report = verify_runs(subject_of(whole), together)
    assert report.verdict is Verdict.EQUIVALENT, report.reason
    return parts


def refusals(whole: Program, ranks: int) -> dict[str, str]:
    """Why layers stay whole, by the weight that names them."""
    return dict(Sharding.of(Candidates.compute(whole), ranks).refused)


def hidden(x: torch.Tensor, w: Const, b: Const, v: Const, c: Const) -> torch.Tensor:
    """Column, then row."""
    return F.linear(F.linear(x, w, b).relu(), v, c)


def gated(x: torch.Tensor, w: Const, g: Const, v: Const) -> torch.Tensor:
    """Two that make channels, one that reads them."""
    return F.linear(F.silu(F.linear(x, w)) * F.linear(x, g), v)


class Attention(nn.Module):
    """Heads, of which several share a key and value head."""

    def __init__(self, heads: int = 8, shared: int = 4, size: int = 4) -> None:
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, size
        self.q = nn.Linear(6, heads * size)
        self.k = nn.Linear(6, shared * size)
        self.v = nn.Linear(6, shared * size)
        self.o = nn.Linear(heads * size, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor, count: int) -> torch.Tensor:
            return y.unflatten(-1, (count, self.size)).transpose(1, 2)

        k, v = (
            heads(p(x), self.shared).repeat_interleave(self.heads // self.shared, 1) for p in (self.k, self.v)
        )
        y = F.scaled_dot_product_attention(heads(self.q(x), self.heads), k, v)
        return self.o(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("ranks", [2, 4])
class TestTheSameFunction:
    @pytest.mark.parametrize("name", ["mlp", "bert", "gpt2", "llama", "unet", "tied_encoder", "digits"])
    def test_models(self, name: str, ranks: int) -> None:
        whole = traced(name, True)
        parts = checked(whole, ranks)
        assert all(held(p) < held(whole) for p in parts)

    @given(programs(motifs=[hidden, gated]))
    def test_drawn_programs(self, ranks: int, whole: Program) -> None:
        if not Sharding.of(Candidates.compute(whole), ranks).shared:
            return
        parts = shards(whole, ranks)
        together = Subject(whole.signature, lambda tensors: run_together(parts, tensors))
        report = verify_runs(subject_of(whole), together)
        assert report.verdict is not Verdict.DIFFERENT, report.reason

    def test_heads_with_what_they_share(self, ranks: int) -> None:
        whole = program(Attention().eval(), rand(2, 3, 6))
        parts = checked(whole, ranks)
        shapes = {n: tuple(w.shape) for n, w in parts[-1].weights.items()}
        assert [shapes[f"{n}.weight"] for n in "qkvo"] == [
            (32 // ranks, 6), (16 // ranks, 6), (16 // ranks, 6), (6, 32 // ranks),
        ]  # fmt: skip
        assert sums(parts[0]) == 1

    @pytest.mark.parametrize("scheme", ["int8", "int8{io=int8}"])
    def test_rounded_activations_and_biases(self, ranks: int, scheme: str) -> None:
        data = [rand(2, 3, 6) for _ in range(40)]
        rounded = run_pipeline(program(Attention().eval(), data[0]), scheme, calibration=data)
        parts = checked(rounded, ranks)
        assert sums(parts[0]) == 1
        assert 2 * held(parts[0]) < 1.5 * held(rounded)

    def test_what_is_joined_goes_together(self, ranks: int) -> None:
        def net(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return F.linear(torch.cat([F.linear(x, a).relu(), F.linear(x, b).tanh()], 1), c)

        whole = program(net, rand(2, 3), a=rand(4, 3), b=rand(8, 3), c=rand(2, 12))
        parts = checked(whole, ranks)
        assert [tuple(w.shape) for w in parts[0].weights.values()] == [
            (4 // ranks, 3), (8 // ranks, 3), (2, 12 // ranks),
        ]  # fmt: skip


class TestShares:
    def test_a_sum_for_each_block(self) -> None:
        assert [sums(p) for p in shards(traced("llama", True), 2)] == [4, 4]

    def test_column_then_row_of_a_chain(self) -> None:
        net = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(8, 8), nn.ReLU()))).eval()
        parts = checked(program(net, rand(2, 8)), 2)
        assert [tuple(w.shape) for w in parts[1].weights.values() if w.dim() == 2] == [(4, 8), (8, 4)] * 2
        assert sums(parts[0]) == 2

    def test_what_is_dearer_to_sum_up_gives_way(self) -> None:
        net = nn.Sequential(nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
        parts = checked(program(net, rand(2, 64)), 2)
        assert {tuple(w.shape) for w in parts[0].weights.values() if w.dim() == 2} == {
            (4, 64),
            (16, 4),
            (4, 16),
        }

    def test_the_first_adds_the_bias(self) -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
        first, second = shards(program(net, rand(2, 4)), 2)
        assert torch.equal(first.weights["2.bias"], net[2].bias)
        assert torch.equal(second.weights["2.bias"], torch.zeros(2))

    def test_each_holds_its_own_rows(self) -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
        parts = shards(program(net, rand(2, 4)), 2)
        assert torch.equal(torch.cat([p.weights["0.weight"] for p in parts]), net[0].weight)
        assert torch.equal(torch.cat([p.weights["0.bias"] for p in parts]), net[0].bias)
        assert torch.equal(torch.cat([p.weights["2.weight"] for p in parts], 1), net[2].weight)

    def test_a_channel_that_is_always_the_same_is_added_once(self) -> None:
        def net(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return F.linear(F.linear(x, w, b).relu(), v)

        w = torch.cat([rand(3, 4), torch.zeros(1, 4)])
        checked(program(net, rand(2, 4), w=w, b=torch.ones(4), v=rand(2, 4)), 2)

    def test_one_process_holds_all(self) -> None:
        whole = traced("mlp", True)
        assert shards(whole, 1) == [whole]
        result = PassManager.parse("shard-linears").run(whole)
        assert not result.passes[0].changed

    def test_in_pipeline_text(self) -> None:
        whole = traced("mlp", True)
        part = PassManager.parse("shard-linears{ranks=2,rank=1}").run(whole).program
        assert held(part) == held(shards(whole, 2)[1])


class TestWhatStaysWhole:
    def test_an_uneven_number(self) -> None:
        net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
        whole = program(net, rand(2, 4))
        assert refusals(whole, 4) == {"0.weight": "4 do not divide 6 groups of channels"}
        with pytest.raises(InputError, match=r"has no layer that 4 processes can share: .*4 do not divide 6"):
            shards(whole, 4)

    def test_recurrent_units(self) -> None:
        with pytest.raises(InputError, match="no layer that 2 processes can share"):
            shards(program(Recurrent().eval(), rand(2, 3, 4)), 2)

    def test_what_no_weight_sums_over(self) -> None:
        def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return F.linear(x, w).relu().sum(1)

        whole = program(net, rand(2, 4), w=rand(8, 4), v=rand(2, 8))
        assert refusals(whole, 2) == {"w": "sum_1 sums over its channels, and is no product with a weight"}

    def test_what_is_read_beside_others(self) -> None:
        def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return F.linear(torch.cat([F.linear(x, w).relu(), x], 1), v)

        whole = program(net, rand(2, 4), w=rand(8, 4), v=rand(2, 12))
        assert refusals(whole, 2) == {"w": "what reads its channels also reads some that stay whole"}

    def test_a_stream_that_layers_add_to(self) -> None:
        def net(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            h = F.linear(x, a)
            return F.linear(h + F.linear(h.relu(), b), c)

        whole = program(net, rand(2, 3), a=rand(4, 3), b=rand(4, 4), c=rand(3, 4))
        assert refusals(whole, 2) == {"a": "what makes its channels reads them"}

    def test_what_is_in_no_layer_is_told_too(self) -> None:
        net = nn.Sequential(
            nn.Linear(4, 8), nn.Softmax(1), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)
        ).eval()
        result = PassManager.parse("shard-linears{ranks=2}").run(program(net, rand(2, 4)))
        assert [(r.node, r.reason) for r in result.passes[0].refusals] == [
            ("_0_weight", "softmax at 1 keeps its rows together")
        ]

    def test_an_error_tells_the_first_reasons(self) -> None:
        def net(x: torch.Tensor, **weights: torch.Tensor) -> torch.Tensor:
            for weight in weights.values():
                x = F.linear(x, weight).softmax(1)
            return x

        for count, ending in ((3, "together$"), (5, r"together; and 2 more$")):
            whole = program(net, rand(2, 4), **{f"w{i}": rand(4, 4) for i in range(count)})
            with pytest.raises(InputError, match=f"can share: w0: .*; w1: .*; w2: .*{ending}"):
                shards(whole, 2)

    def test_a_bias_that_is_computed(self) -> None:
        def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return F.linear(F.linear(x, w).relu(), v, b.exp())

        whole = program(net, rand(2, 4), w=rand(8, 4), v=rand(2, 8), b=rand(2))
        assert refusals(whole, 2) == {"w": "the bias of linear_1 is computed"}

    def test_scales_that_are_chosen_from_all_channels(self) -> None:
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
        rounded = run_pipeline(program(net, rand(2, 4)), "int8-dynamic")
        with pytest.raises(InputError, match="choose_qparams_1 at 2 keeps its rows together"):
            shards(rounded, 2)

    @pytest.mark.parametrize(
        "bias",
        [
            lambda y, b, c: y,
            lambda y, b, c: y.neg(),
            lambda y, b, c: b - c,
            lambda y, b, c: b.exp().mul(2.0),
            lambda y, b, c: torch.cat([b[:1], c[:1]]),
        ],
        ids=["an input", "of an input", "two weights", "no zeros", "joined"],
    )
    def test_a_bias_that_is_more_than_a_weight(self, bias: Callable[..., torch.Tensor]) -> None:
        def net(x: torch.Tensor, y: torch.Tensor, **weights: torch.Tensor) -> torch.Tensor:
            hidden = F.linear(x, weights["w"]).relu()
            return F.linear(hidden, weights["v"], bias(y, weights["b"], weights["c"]))

        whole = program(net, rand(2, 4), rand(2), w=rand(8, 4), v=rand(2, 8), b=rand(2), c=rand(2))
        assert refusals(whole, 2) == {"w": "the bias of linear_1 is computed"}

    def test_a_bias_that_calls_make_of_a_weight_zeros_of_zeros(self) -> None:
        def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return F.linear(F.linear(x, w).relu(), v, b.mul(2.0).neg())

        for part in checked(program(net, rand(2, 4), w=rand(8, 4), v=rand(2, 8), b=rand(2)), 2):
            assert sums(part) == 1

    @pytest.mark.parametrize(("ranks", "rank"), [(0, 0), (2, 2), (2, -1)])
    def test_a_rank_that_is_none(self, ranks: int, rank: int) -> None:
        with pytest.raises(PipelineError, match=f"rank {rank} of {ranks}: expected"):
            PassManager.parse(f"shard-linears{{ranks={ranks},rank={rank}}}")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


class TestTogether:
    def test_a_shard_alone_says_what_it_is(self) -> None:
        part = shards(traced("mlp", True), 2)[0]
        (sample, *_) = sample_inputs(part.signature, seed=0)
        with pytest.raises(InputError, match="one of 2 shards of a program, and 1 run here"):
            part.attempt(list(sample.tensors))

    def test_another_number_of_them(self) -> None:
        part = shards(traced("mlp", True), 2)[0]
        (sample, *_) = sample_inputs(part.signature, seed=0)
        with pytest.raises(RuntimeError, match="one of 2 shards of a program, and 3 run here"):
            side_by_side([lambda: part.run_flat(list(sample.tensors))] * 3)

    def test_one_that_fails_ends_the_others(self) -> None:
        def fails() -> torch.Tensor:
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            side_by_side([lambda: torch.ops.fxopt.all_reduce(torch.ones(1), 2), fails])
        assert threading.active_count() < 50

    def test_from_a_file(self, tmp_path: Path) -> None:
        whole = traced("mlp", True)
        for rank, part in enumerate(shards(whole, 2)):
            part.save(tmp_path / f"{rank}.fxopt")
        read = [load_program(tmp_path / f"{rank}.fxopt") for rank in range(2)]
        (sample, *_) = sample_inputs(whole.signature, seed=0)
        (found,), (expected,) = run_together(read, list(sample.tensors)), whole.run_flat(list(sample.tensors))
        assert isinstance(found, torch.Tensor)
        assert isinstance(expected, torch.Tensor)
        assert torch.allclose(found, expected, atol=1e-5)
