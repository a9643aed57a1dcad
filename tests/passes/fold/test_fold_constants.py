"""fold-constants: what is computed once, and what it must leave to run time."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from fxopt.ops import OpInfo, info
from fxopt.passes.eliminate.eliminate_common_subexpressions import EliminateCommonSubexpressions
from fxopt.passes.fold.fold_constants import FoldConstants, _one_thread, _plain
from fxopt.pipeline import PassManager
from fxopt.program import origins_of
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import applied, calls, program, rand, reasons, structure, unchanged

FOLD = FoldConstants()
NO_GROWTH = FoldConstants(max_growth=0)
CSE = EliminateCommonSubexpressions()

X, W = rand(3, 4), rand(4, 6, seed=1)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_before_and_after(dynamic: bool):
    before = program(lambda x, w: x @ w.permute(1, 0), X, dynamic=dynamic, w=W.t().contiguous())
    result = applied(FOLD, before)
    assert structure(result.program) == structure(program(lambda x, w: x @ w, X, dynamic=dynamic, w=W))
    assert list(result.program.weights) == ["folded"]


def test_chains_are_folded_at_their_end():
    """Four calls, one rewrite: inner results are not stored."""
    before = program(lambda x, w: x @ (w.exp() * 2 + w.t().sum()).relu(), X, w=W)
    result = applied(FOLD, before)
    assert calls(result.program) == ["matmul"]
    assert result.passes[0].rules == {"fold-constants": 1}
    assert len(result.program.weights) == 1


def test_what_several_calls_read_is_stored_once():
    def function(x, w):
        v = w.exp()
        return x @ v, x @ v.relu(), x * v.sum()

    after = applied(FOLD, program(function, X, w=W)).program
    assert calls(after) == ["matmul", "matmul", "mul"]
    assert len(after.weights) == 3


def test_what_literals_make_is_folded():
    before = program(lambda x: x + torch.arange(4) * 2 - torch.eye(4)[:1], X, dynamic=True)
    after = applied(FOLD, before).program
    assert calls(after) == ["add", "sub"]
    assert len(after.weights) == 2


def test_parts_of_a_split_are_folded():
    before = program(lambda x, w: x @ w.split(3, 1)[1].contiguous(), X, w=W)
    after = PassManager.parse("eliminate-dead-code").run(applied(FOLD, before).program).program
    assert calls(after) == ["matmul"]


def test_a_constant_result_is_folded():
    after = applied(FOLD, program(lambda x, w: (x.relu(), w.exp()), X, w=W)).program
    assert calls(after) == ["relu"]


def test_views_share_the_memory_of_their_weight():
    before = program(lambda x, w: x @ w.permute(1, 0)[:, 1:], X, w=W.t().contiguous())
    after = applied(FOLD, before).program
    stored = after.weights["folded"]
    assert stored.untyped_storage().data_ptr() == before.weights["w"].untyped_storage().data_ptr()


def test_weight_norm_becomes_a_plain_layer():
    torch.manual_seed(0)
    model = parametrizations.weight_norm(nn.Linear(4, 6))
    after = applied(FOLD, program(model, X, dynamic=True)).program
    assert calls(after) == ["linear"]


def test_position_ids_of_a_fixed_length_are_folded():
    def function(ids, table, positions):
        return F.embedding(ids, table) + F.embedding(torch.arange(ids.shape[1]), positions)

    ids = torch.zeros(2, 5, dtype=torch.int64)
    after = applied(
        FOLD, program(function, ids, dynamic=True, table=rand(9, 4), positions=rand(7, 4))
    ).program
    assert calls(after) == ["embedding", "add"]


def test_results_are_those_of_the_reference_evaluator_for_any_number_of_threads():
    before = program(lambda x, w: x * w.t().sum(1).softmax(0)[:4], X, w=rand(40, 999))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        after = applied(FOLD, before).program
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert calls(after) == ["mul"]


def test_the_folded_weight_is_named_after_its_module():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(rand(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale.exp()

    after = applied(FOLD, program(nn.Sequential(Scaled(), Scaled()), X)).program
    assert list(after.weights) == ["0.folded", "1.folded"]
    assert all(origins_of(n) for n in after.calls())


def test_weights_without_values_are_folded_without_values():
    """Planning on the meta device."""
    model = nn.Linear(4, 6, device="meta")
    before = program(lambda x, w: F.linear(x, w.exp()), X.to("meta"), w=model.weight.detach())
    after = PassManager.of([FOLD]).run(before).program
    assert calls(after) == ["linear"]
    assert after.weights["folded"].is_meta


# What must not fire.


def test_what_depends_on_an_input_stays():
    assert unchanged(FOLD, program(lambda x, w: (x + w).exp(), X, w=rand(4))) == []


def test_what_has_a_dynamic_size_stays():
    before = program(lambda x: x + torch.arange(x.shape[0])[:, None], X, dynamic=True)
    assert unchanged(FOLD, before) == []
    before = program(lambda x, w: x + w.expand(x.shape[0], 4), X, dynamic=True, w=rand(1, 4))
    assert unchanged(FOLD, before) == []


def test_what_has_a_size_that_depends_on_values_stays():
    """The program does not know how many there are, although the weight does not change."""
    b = ProgramBuilder()
    x, w = b.input((b.batch, 4)), b.weight((4,), kind="integers")
    before = b.finish(b.call("aten.relu", x), b.call("aten.nonzero", w))
    assert calls(PassManager.of([FOLD]).run(before).program) == ["relu", "nonzero"]


def test_a_result_that_would_take_more_memory_stays():
    before = program(lambda x, w: x + w.expand(3, 4), X, w=rand(1, 4))
    [why] = unchanged(NO_GROWTH, before)
    assert why == "the result takes 48 bytes, the weights that go for it 16"
    assert calls(applied(FOLD, before).program) == ["add"]


def test_operands_of_what_is_too_big_are_folded():
    before = program(lambda x, w: x + w.exp().expand(3, 4), X, w=rand(1, 4))
    after = applied(NO_GROWTH, before).program
    assert calls(after) == ["expand", "add"]
    assert list(after.weights) == ["folded"]


def test_a_big_inner_result_does_not_count():
    before = program(lambda x, w: x + w.expand(50, 4).sum(0), X, w=rand(1, 4))
    assert calls(applied(NO_GROWTH, before).program) == ["add"]


def test_a_weight_that_stays_in_use_pays_for_nothing():
    """The transpose of an embedding that is tied to it would be a second copy in every file."""

    def function(ids, w):
        return F.embedding(ids, w) @ w.t()

    before = program(function, torch.tensor([0, 2]), w=rand(5, 4))
    [why] = unchanged(NO_GROWTH, before)
    assert why == "the result takes 80 bytes, the weights that go for it 0"


def test_a_shared_weight_may_be_left_alone():
    def function(ids, w):
        return F.embedding(ids, w) @ w.t()

    before = program(function, torch.tensor([0, 2]), w=rand(5, 4))
    assert unchanged(FoldConstants(keep_shared=True), before) == ["w is also used as it is (keep_shared)"]
    assert calls(applied(FOLD, before).program) == ["embedding", "matmul"]


@pytest.mark.parametrize("more", [0, 1, 2])
def test_a_weight_pays_once(more: int):
    """Two results of as many bytes as their one weight: one too many, in every round."""

    def f(x: torch.Tensor, w: torch.Tensor):
        return x @ w.t(), x @ w.t().exp(), *(x @ w.t().sin() for _ in range(more))

    before = program(f, X, w=W.t().contiguous())
    for start in (before, applied(CSE, before).program):
        after = applied(NO_GROWTH, start).program
        assert sum(t.numel() for t in after.weights.values()) == W.numel()


def test_an_inner_result_that_all_read_is_paid_by_its_weight():
    def f(x: torch.Tensor, w: torch.Tensor):
        turned = w.t()
        return x @ turned, x @ turned.exp()

    after = applied(NO_GROWTH, program(f, X, w=W.t().contiguous())).program
    assert calls(after) == ["matmul", "exp", "matmul"]


def test_results_that_share_a_weight_are_paid_together():
    """Neither half alone sets the weight free."""
    before = program(lambda x, w: (x @ w[:, :2].exp(), x @ w[:, 2:].exp()), X, w=W)
    assert calls(applied(NO_GROWTH, before).program) == ["matmul", "matmul"]


def test_results_that_a_third_joins_are_paid_together():
    def f(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor, u: torch.Tensor):
        return x @ (w + u)[:, :2].exp(), x @ v[:, :2].exp(), x @ (w[:, 2:] + v[:, 2:])

    after = applied(NO_GROWTH, program(f, X, w=W, v=rand(*W.shape, seed=2), u=rand(6, seed=3))).program
    assert calls(after) == ["matmul"] * 3


def test_calls_that_two_others_read_are_looked_at_once():
    """The weight stays, so each of them does; over all paths it would be 2^60 looks."""

    def f(x: torch.Tensor, w: torch.Tensor):
        turned = w
        for _ in range(60):
            turned = turned.sin() + turned.cos()
        return x @ turned, w

    assert len(unchanged(NO_GROWTH, program(f, X, w=W))) == 3 * 60


def test_a_call_that_raises_stays():
    before = program(
        lambda x, w, i: x + F.embedding(i, w), X, w=W.t().contiguous(), i=torch.tensor([0, 1, 2])
    )
    before.weights["i"][2] = 9
    assert unchanged(FOLD, before) == ["it raises: index out of range in self"]


def test_an_op_of_a_user_that_may_count_its_calls_stays():
    library = torch.library.Library("fxopt_fold_test", "DEF")
    library.define("count(Tensor x) -> Tensor")
    library.impl("count", lambda x: x.clone(), "CPU")
    library.impl("count", torch.empty_like, "Meta")
    try:
        before = program(lambda x, w: x + torch.ops.fxopt_fold_test.count(w), X, w=rand(4))
        assert unchanged(FOLD, before) == []
    finally:
        library._destroy()


def test_an_op_of_a_user_that_is_said_to_be_pure_is_folded(monkeypatch: pytest.MonkeyPatch):
    name = "fxopt_fold_pure_test.twice"
    monkeypatch.setitem(info._TABLE, name, OpInfo(op=name, pure=True))
    library = torch.library.Library("fxopt_fold_pure_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CPU")
    library.impl("twice", torch.empty_like, "Meta")
    try:
        before = program(lambda x, w: x + torch.ops.fxopt_fold_pure_test.twice(w), X, w=rand(4))
        assert calls(applied(FOLD, before).program) == ["add"]
    finally:
        library._destroy()


def test_drawn_programs():
    check_pass(FOLD, examples=20, min_fired=0.2, targets=())


def test_what_is_no_tensor_is_passed_over_on_the_way_to_what_is():
    """A part of a split is not stored; the split itself, several tensors, can't be."""
    before = program(lambda x, w: x + w + w.exp().chunk(2)[0].repeat(2, 1), rand(4, 6), w=W)
    result = applied(FoldConstants(keep_shared=True), before)
    assert calls(result.program) == calls(before)
    assert all("keep_shared" in why for why in reasons(result))


@pytest.mark.parametrize(("count", "folds"), [(1_000_001, True), (1_000_002, False)])
def test_weights_grow_by_a_million_bytes_at_most(count: int, folds: bool):
    """Over the one byte that goes."""
    w = torch.ones(1, dtype=torch.uint8)
    before = program(lambda x, w: x + w.repeat(count), torch.ones(1, dtype=torch.uint8), w=w)
    assert calls(applied(FOLD, before).program) == (["add"] if folds else ["repeat", "add"])


def test_what_two_big_results_read_is_stored_once():
    def function(x, w):
        v = w.exp()
        return x + v.expand(50, 4).cumsum(0) * v.expand(50, 4).cumprod(0)

    after = applied(NO_GROWTH, program(function, rand(50, 4), w=rand(1, 4))).program
    assert calls(after) == ["expand", "cumsum", "expand", "cumprod", "mul", "add"] or len(after.weights) == 1
    assert len(after.weights) == 1


def test_values_have_memory_of_their_own_and_one_thread():
    base = rand(3, 4)
    assert _plain(base) is base
    for part in (base[1:], base.t()):
        own = _plain(part)
        assert own.is_contiguous() and not own.storage_offset() and torch.equal(own, part)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with _one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_two_results_are_made_of_is_stored_once_and_the_rest_is_looked_at():
    """The results are too large; of what they are made of, one is met twice and another afterwards."""

    def function(x, w, v):
        a, b = w.exp(), v.exp()
        return x + torch.cat([b.expand(9, 4), a, a.expand(9, 4)])

    after = applied(NO_GROWTH, program(function, rand(19, 4), w=rand(1, 4), v=rand(4, seed=1))).program
    assert "exp" not in calls(after) and calls(after)[-2:] == ["cat", "add"] and len(after.weights) == 2


def test_what_is_no_tensor_does_not_end_the_search():
    def function(x, w, v):
        return x + torch.cat([v.exp(), w.expand(9, 4).chunk(2, 1)[0]])

    after = applied(NO_GROWTH, program(function, rand(10, 2), w=rand(1, 4), v=rand(1, 2, seed=1))).program
    assert calls(after) == ["expand", "chunk", "getitem", "cat", "add"]


def test_what_stays_of_a_weight_pays_for_nothing_else():
    """`a` is read by what is stored and by what is too large: a second run must not find more to store."""

    def function(x, w, v):
        a, b = w.exp(), v.exp()
        return x + torch.cat([b.expand(9, 4), a.expand(9, 4), a[None].expand(9, 4)])

    applied(NO_GROWTH, program(function, rand(27, 4), w=rand(4), v=rand(1, 4, seed=1)))
