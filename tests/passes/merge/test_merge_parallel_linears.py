"""merge-parallel-linears: queries, keys and values of one input are one product, where that saves calls."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.passes.merge._parallel import common_name
from fxopt.passes.merge.merge_parallel_linears import MergeParallelLinears
from fxopt.passes.partition.shard_linears import run_together, shards
from fxopt.pipeline import PassManager
from fxopt.program import Program, origins_of
from fxopt.testing import check_pass
from tests.passes.helpers import applied, calls, program, rand, structure, unchanged
from tests.pipeline.test_o1_order import canonical, reordered

MERGE = MergeParallelLinears()
X = rand(2, 3, 4)
MERGED = ["linear", "split_with_sizes"]


class Projections(nn.Module):
    """Layers that read one tensor, of these widths."""

    def __init__(self, *widths: int, bias: tuple[bool, ...] = (True,) * 9) -> None:
        super().__init__()
        torch.manual_seed(0)
        made = (nn.Linear(4, width, bias=b) for width, b in zip(widths, bias, strict=False))
        self.layers = nn.ModuleDict({f"p{i}": layer for i, layer in enumerate(made)})

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [layer(x) for layer in self.layers.values()]


def weights_of(after: Program) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in after.weights.items()}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 4)])
def test_before_and_after(shape: tuple[int, ...], dynamic: bool):
    def expected(x, w, b):
        return F.linear(x, w, b).split_with_sizes([5, 2, 3], -1)

    model, x = Projections(5, 2, 3), rand(*shape)
    after = applied(MERGE, program(model, x, dynamic=dynamic)).program
    assert structure(after) == structure(program(expected, x, w=rand(10, 4), b=rand(10), dynamic=dynamic))
    for got, wanted in zip(after(x), model(x), strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_vector():
    assert calls(applied(MERGE, program(Projections(5, 2, 3), rand(4))).program)[:2] == MERGED


def test_the_weights_stand_one_below_the_other_under_a_name_of_all():
    model = Projections(5, 2, 3)
    layers = list(model.layers.values())
    got = weights_of(applied(MERGE, program(model, X)).program)
    assert set(got) == {"layers.p0_p1_p2.weight", "layers.p0_p1_p2.bias"}
    assert torch.equal(got["layers.p0_p1_p2.weight"], torch.cat([m.weight for m in layers]))
    assert torch.equal(got["layers.p0_p1_p2.bias"], torch.cat([m.bias for m in layers]))


def test_what_has_no_bias_gets_zeros():
    """Keys have none in Whisper."""
    model = Projections(5, 2, 3, bias=(True, False, True))
    after = applied(MERGE, program(model, X, dynamic=True)).program
    assert weights_of(after)["layers.p0_p2.bias"].tolist()[5:7] == [0, 0]
    for got, wanted in zip(after(X), model(X), strict=True):
        torch.testing.assert_close(got, wanted)


def test_four_without_a_bias():
    after = applied(MERGE, program(Projections(5, 2, 3, 1, bias=(False,) * 4), X)).program
    assert calls(after)[:2] == MERGED
    assert list(after.weights) == ["layers.p0_p1_p2_p3.weight"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    after = applied(MERGE, program(Projections(5, 2, 3).to(dtype), X.to(dtype))).program
    assert {w.dtype for w in after.weights.values()} == {dtype}


def test_the_call_comes_from_all_layers():
    """So that a pattern by module path, of any of them, finds it."""
    linear = next(iter(applied(MERGE, program(Projections(5, 2, 3), X)).program.calls()))
    assert {o.module for o in origins_of(linear)} == {"layers.p0", "layers.p1", "layers.p2"}


def six(x: torch.Tensor, y: torch.Tensor, **weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Three layers of each of two inputs, in turns, read in other orders."""
    a, b, c, d, e, f = (F.linear(t, w, w[:, 0]) for t, w in zip((x, y) * 3, weights.values(), strict=True))
    return c, a - e, f - d, b.relu()


def two_groups() -> Program:
    weights = {f"w{i}": rand(2, 4, seed=i) for i in range(6)}
    return PassManager.parse("fold-constants").run(program(six, X, X + 1, **weights)).program


def test_layers_of_two_inputs_are_merged_apart():
    before = two_groups()
    result = applied(MERGE, before)
    assert result.passes[0].rules == {"merge-parallel-linears": 2}
    for got, wanted in zip(result.program(X, X + 1), before(X, X + 1), strict=True):
        torch.testing.assert_close(got, wanted)


def test_the_order_of_the_calls_does_not_matter():
    before = two_groups()
    expected = canonical(PassManager.of([MERGE]).run(before).program)
    for seed in range(6):
        assert canonical(PassManager.of([MERGE]).run(reordered(before, seed)).program) == expected


def test_rows_stand_as_the_outputs_come_upon_them():
    def function(x, u, v, w, b):
        first, second, third = (F.linear(x, m, n) for m, n in ((u, b), (v, b.neg()), (w, b.exp())))
        return second, first * third

    weights = {n: rand(2, 4, seed=i) for i, n in enumerate("uvw")}
    before = PassManager.parse("fold-constants").run(program(function, X, **weights, b=rand(2))).program
    after = applied(MERGE, before).program
    assert torch.equal(after.weights["v_u_w"], torch.cat([weights[n] for n in "vuw"]))


def test_what_outputs_come_upon_twice_stands_where_the_first_does():
    def function(x, u, v, w, b):
        first, second, third = (F.linear(x, m, n) for m, n in ((u, b), (v, b.neg()), (w, b.exp())))
        return first, second, first * third

    weights = {n: rand(2, 4, seed=i) for i, n in enumerate("uvw")}
    before = PassManager.parse("fold-constants").run(program(function, X, **weights, b=rand(2))).program
    assert "u_v_w" in applied(MERGE, before).program.weights


def test_shards_cut_through_what_was_merged():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (f(x).reshape(2, 3, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 3, 8))

    x = rand(2, 3, 8)
    after = applied(MERGE, program(Attention(), x)).program
    assert calls(after)[:2] == MERGED
    parts = shards(after, 2)
    assert [p.weights["q_k_v.weight"].shape[0] for p in parts] == [12, 12]
    torch.testing.assert_close(run_together(parts, [x])[0], after(x))


def few(calls: int, saved: int) -> str:
    return f"of {calls} calls {saved} would be saved, to take the result apart costs as much"


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Projections(5, 5), few(4, 1)),
        (Projections(5, 2, 3, bias=(False,) * 3), few(3, 1)),
        (Projections(5, 2, bias=(False, True)), few(3, 0)),
    ],
    ids=["two", "three without a bias", "two, one with a bias"],
)
def test_where_no_call_is_gained(model: nn.Module, why: str):
    assert unchanged(MERGE, program(model, X)) == [why]


def test_large_layers_stay():
    before = program(Projections(5, 2, 3), X)
    assert calls(applied(MergeParallelLinears(max_elements=40), before).program)[:2] == MERGED
    [why] = unchanged(MergeParallelLinears(max_elements=39), before)
    assert why == "the weights have 40 elements: above 39 the calls do not show"


def test_65536_elements_are_small():
    def merged(rows: int) -> list[str]:
        weights = {n: rand(*shape, 1) for n, shape in (("u", (rows - 2,)), ("v", (1,)), ("w", (1,)))}
        before = program(lambda x, **k: [F.linear(x, w, w[:, 0]) for w in k.values()], rand(1, 1), **weights)
        folded = PassManager.parse("fold-constants").run(before).program
        return calls(PassManager.of([MERGE]).run(folded).program)[:2]

    assert merged(65536) == MERGED
    assert merged(65537) == ["linear"] * 2


def test_small_layers_beside_large_ones_are_merged():
    def function(x, y, **k):
        return [F.linear(t, w, w[:, 0]) for t, w in zip((x, x, x, y, y, y), k.values(), strict=True)]

    weights = {f"w{i}": rand(5 if i < 3 else 2, 4, seed=i) for i in range(6)}
    before = PassManager.parse("fold-constants").run(program(function, X, X + 1, **weights)).program
    after = applied(MergeParallelLinears(max_elements=24), before).program
    assert sorted(calls(after)[:5]) == [*["linear"] * 4, "split_with_sizes"]


def test_queries_keys_and_values_of_128_are_small_of_160_large():
    assert 3 * 128 * 128 <= MERGE.max_elements < 3 * 160 * 160


def test_one_layer_is_no_group():
    assert unchanged(MERGE, program(Projections(5), X)) == []


def three(change: Callable[[nn.ModuleDict], object]) -> Program:
    model = Projections(5, 2, 3)
    change(model.layers)
    return program(model, X)


def test_frozen_layers_stay_beside_those_that_train():
    assert unchanged(MERGE, three(lambda m: m["p0"].requires_grad_(False))) == [few(4, 1)]


def test_a_layer_that_trains_in_part_stays():
    before = three(lambda m: m["p0"].weight.requires_grad_(False))
    assert sorted(unchanged(MERGE, before)) == [few(4, 1), "weight and bias do not train together"]


def test_a_weight_that_is_a_vector_stays_beside_matrices():
    def function(x, v, **weights):
        return [F.linear(x, w, w[:, 0]) for w in weights.values()], F.linear(x, v)

    before = program(function, X, v=rand(4), **{f"w{i}": rand(2, 4, seed=i) for i in range(3)})
    result = applied(MERGE, PassManager.parse("fold-constants").run(before).program)
    assert [r.reason for r in result.passes[0].refusals] == [
        "its weight is a vector: its result has no axis of outputs"
    ]
    assert result.passes[0].rules == {"merge-parallel-linears": 1}


@pytest.mark.parametrize("trains", [False, True])
def test_what_trains_goes_on_doing_so(trains: bool):
    after = applied(MERGE, three(lambda m: m.requires_grad_(trains))).program
    assert calls(after)[:2] == MERGED
    assert {w.requires_grad for w in after.weights.values()} == {trains}


NAMES = [f"{kind}{i}" for i in range(3) for kind in "wb"]
WEIGHTS = {n: rand(*((2, 4) if n[0] == "w" else (2,)), seed=i) for i, n in enumerate(NAMES)}


def layers(x: torch.Tensor, **k: torch.Tensor) -> list[torch.Tensor]:
    return [F.linear(x, k[f"w{i}"], k[f"b{i}"]) for i in range(3)]


@pytest.mark.parametrize("name", ["w1", "b1"])
def test_weights_that_are_read_elsewhere_stay(name: str):
    before = program(lambda x, **k: [*layers(x, **k), k[name].sum()], X, **WEIGHTS)
    assert unchanged(MERGE, before) == ["a weight has another user, for which it stays", few(4, 1)]


@pytest.mark.parametrize("name", ["w1", "b1"])
def test_weights_that_are_inputs_stay(name: str):
    others = {n: w for n, w in WEIGHTS.items() if n != name}
    before = program(lambda x, given, **k: layers(x, **k, **{name: given}), X, WEIGHTS[name], **others)
    assert unchanged(MERGE, before) == ["a weight is not known at compile time", few(4, 1)]


def test_a_bias_of_several_rows_stays():
    before = program(layers, X, **{**WEIGHTS, "b1": rand(3, 2)})
    assert unchanged(MERGE, before) == ["the bias is no vector", few(4, 1)]


def test_a_layer_that_cannot_go_with_others_is_named_only_beside_them():
    before = program(lambda x, w, b: (F.linear(x, w, b), w.sum()), X, w=rand(2, 4), b=rand(2))
    assert unchanged(MERGE, before) == []


def test_weights_without_values_stay():
    before = program(Projections(5, 2, 3).to("meta"), X.to("meta"))
    assert calls(PassManager.of([MERGE]).run(before).program) == ["linear"] * 3


@pytest.mark.parametrize(
    ("names", "together"),
    [
        (["a.q.weight", "a.k.weight", "a.v.weight"], "a.q_k_v.weight"),
        (["a.q.weight"], "a.q.weight"),
        (["w", "v"], "w_v"),
        (["a.b", "a.c"], "a.b_c"),
        (["a.w", "b.w"], "a_b.w"),
        (["a.x.w", "b.w"], "a_x_b.w"),
        (["a.w", "a.w.w"], "a.w_w_w"),
    ],
)
def test_names(names: list[str], together: str):
    assert common_name(names) == together


def test_drawn_programs():
    check_pass(MERGE, examples=25, targets=())
