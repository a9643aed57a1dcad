"""recompose-attention: ways in which public code writes attention, and a twin of each that is none."""

import math

import pytest
import torch
import torch.nn.functional as F

from fxopt.frontend import trace
from fxopt.passes.recompose.recompose_attention import RecomposeAttention
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.testing import check_pass
from fxopt.verification import check_programs
from tests.passes.helpers import Function, applied, calls, program, rand, structure, unchanged
from tests.passes.recompose.attentions import LENGTH, TWINS, VARIANTS, WIDTH, weights_of

ATTENTION = RecomposeAttention()
SDPA = "scaled_dot_product_attention"
CLEAN = PassManager.parse(
    "fixpoint(eliminate-dead-code,eliminate-identities,simplify-reshapes,fold-constants)"
)
Q, K, V = rand(2, 3, 5, 4), rand(2, 3, 6, 4, seed=1), rand(2, 3, 6, 7, seed=2)
X = rand(4, LENGTH, WIDTH)


def variant(function, *, dynamic: bool = False) -> Program:
    return program(function, X, dynamic=dynamic, **weights_of())


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_variants(name: str, dynamic: bool):
    before = variant(VARIANTS[name], dynamic=dynamic and name != "swin")  # its windows go in pairs
    after = PassManager.parse("O1").run(before).program
    assert calls(after).count(SDPA) == 1
    assert not {"softmax", "matmul", "bmm", "baddbmm"} & set(calls(after))
    report = check_programs(before, after)
    assert report.ok, report.reason


@pytest.mark.parametrize("name", ["padded", "bloom", "deberta", "gpt_neo"])
@pytest.mark.parametrize("hidden", ["all", "the first"])
def test_queries_that_see_no_key(name: str, hidden: str):
    """Padding may leave a query no key, or only later ones: then the numbers that are filled in and added decide."""
    before = variant(VARIANTS[name])
    after = PassManager.parse("O1").run(before).program
    x = X.clone()
    x[:, : 3 if hidden == "the first" else LENGTH, 0] = 2.0
    torch.testing.assert_close(after(x), before(x))


@pytest.mark.parametrize("name", ["bloom", "deberta"])
def test_heads_in_the_batch_axis_at_any_length(name: str):
    """The shapes in which the scores are masked and the result is are stated by what reshapes the scores."""
    weights = weights_of()
    if name == "deberta":
        weights["narrow_k"] = rand(4, 6, seed=3)
    dynamic = [{0: "batch", 1: "length"}] if name == "bloom" else [{0: "batch"}]
    before = trace(Function(VARIANTS[name], weights).eval(), (X,), dynamic_shapes=dynamic)
    after = PassManager.parse("O1").run(before).program
    assert calls(after).count(SDPA) == 1
    report = check_programs(before, after)
    assert report.ok, report.reason


def test_a_bias_of_the_batch_stays_when_heads_join_it():
    """`[batch, 1, 1, keys]` has no place for the heads, which the batch axis of the masked scores has."""

    def function(q, k, v, m, n):
        scores = ((q @ k.mT).reshape(2, 3, 5, 6) + m).reshape(6, 5, 6) + n
        return torch.softmax(scores, -1) @ v

    flat = [t.reshape(6, *t.shape[2:]) for t in (Q, K, V)]
    [why] = unchanged(ATTENTION, program(function, *flat, rand(2, 1, 1, 6), rand(6, 5, 6)))
    assert why.endswith("does not broadcast to the scores as they are masked later")


def test_a_bias_of_heads_that_holds_infinities_stays():
    bias = rand(6, 5, 6).masked_fill(rand(6, 5, 6) > 1, -math.inf)

    def function(q, k, v, n, b):
        scores = (q.reshape(6, 5, 4) @ k.reshape(6, 4, 6) + b).reshape(2, 3, 5, 6) + n
        return torch.softmax(scores, -1).reshape(6, 5, 6) @ v.reshape(6, 6, 7)

    args = (Q, K, V, rand(2, 1, 1, 6))
    assert SDPA in calls(applied(ATTENTION, program(function, *args, b=rand(6, 5, 6))).program)
    [why] = unchanged(ATTENTION, program(function, *args, b=bias))
    assert why.endswith("does not broadcast to the scores as they are masked later")


@pytest.mark.parametrize("name", TWINS)
def test_twins(name: str):
    after = PassManager.parse("O1").run(variant(TWINS[name])).program
    assert SDPA not in calls(after)
    assert "softmax" in calls(after)


def plain(q, k, v):
    return torch.softmax(q @ k.mT * 0.5, -1) @ v


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_before_and_after(dynamic: bool):
    after = CLEAN.run(applied(ATTENTION, program(plain, Q, K, V, dynamic=dynamic)).program).program
    expected = program(lambda q, k, v: F.scaled_dot_product_attention(q, k, v), Q, K, V, dynamic=dynamic)
    assert structure(after) == structure(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype):
    after = applied(ATTENTION, program(plain, *(t.to(dtype) for t in (Q, K, V)))).program
    assert calls(after) == ["permute", "permute", SDPA]


def scale_of(function, *args: torch.Tensor, **weights: torch.Tensor) -> object:
    """The scale of the attention that is found."""
    after = applied(ATTENTION, program(function, *args, **weights)).program
    [node] = (n for n in after.calls() if n.target is torch.ops.aten.scaled_dot_product_attention.default)
    return node.kwargs["scale"]


@pytest.mark.parametrize(
    ("function", "scale"),
    [
        (lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v, 1.0),
        (lambda q, k, v: torch.softmax(q @ k.mT / 2, -1) @ v, None),
        (lambda q, k, v: torch.softmax(q @ k.mT * 0.5, -1) @ v, None),
        (lambda q, k, v: torch.softmax(0.25 * (q @ k.mT), -1) @ v, 0.25),
        (lambda q, k, v: torch.softmax(q @ k.mT / 8 * 2, -1) @ v, 0.25),
        (lambda q, k, v: torch.softmax((q * 3) @ k.mT, -1) @ v, 3.0),
        (lambda q, k, v: torch.softmax((q / 4) @ k.mT, -1) @ v, 0.25),
        (lambda q, k, v: torch.softmax(q @ (k.mT * 3), -1) @ v, 3.0),
        (lambda q, k, v: torch.softmax((q * 2) @ (k.mT / 4) * 6, -1) @ v, 3.0),
        (lambda q, k, v: torch.softmax(q @ k.mT * -1, -1) @ v, -1.0),
    ],
)
def test_scales(function, scale: object):
    assert scale_of(function, Q, K, V) == scale


def test_a_scale_that_is_a_weight():
    def function(q, k, v, s):
        return torch.softmax(q @ k.mT / s, -1) @ v

    assert scale_of(function, Q, K, V, s=torch.tensor(4.0)) == 0.25
    assert scale_of(function, Q, K, V, s=torch.full((6,), 4.0)) == 0.25
    unchanged(ATTENTION, program(function, Q, K, V, s=torch.tensor([4.0, 4, 4, 4, 4, 5])))


def test_a_factor_that_repeats_the_queries_is_no_scale():
    def function(q, k, v, s):
        return torch.softmax((q * s) @ k.mT, -1) @ v

    assert scale_of(function, Q[:1], K, V, s=torch.full((2, 1, 1, 1), 4.0)) == 1.0


def test_a_sum_that_is_left_out():
    def function(q, k, v, s):
        return torch.bmm(torch.softmax(torch.baddbmm(s, q, k.mT, beta=0, alpha=0.25), -1), v)

    assert scale_of(function, Q[0], K[0], V[0], s=rand(6)) == 0.25


HIDDEN = (rand(5, 6) > 0) & (torch.arange(6) > 0)
LOW = torch.tensor(-math.inf)
FILLS = {
    "filled": (lambda s, m: s.masked_fill(m, -math.inf), HIDDEN),
    "filled by a tensor": (lambda s, m: s.masked_fill(m, LOW), HIDDEN),
    "filled where not": (lambda s, m: s.masked_fill(~m, -math.inf), ~HIDDEN),
    "filled where not, logically": (lambda s, m: s.masked_fill(m.logical_not(), -math.inf), ~HIDDEN),
    "filled where equal": (lambda s, m: s.masked_fill(m == 0, -math.inf), 1.0 - HIDDEN.float()),
    "filled where unequal": (lambda s, m: s.masked_fill(m != 0, -math.inf), HIDDEN.float()),
    "filled where a number is not": (
        lambda s, m: s.masked_fill(torch.logical_not(m), -math.inf),
        1 - HIDDEN.float(),
    ),
    "kept": (lambda s, m: torch.where(m, s, -math.inf), ~HIDDEN),
    "kept by a slice": (
        lambda s, m: torch.where(m[:5, :6], s, -math.inf),
        torch.ones(8, 8, dtype=torch.bool).tril(),
    ),
    "kept by rows": (
        lambda s, m: torch.where(m[2:7, :6], s, -math.inf),
        torch.ones(8, 8, dtype=torch.bool).tril(),
    ),
    "kept by a view": (lambda s, m: torch.where(m.view(1, 5, 6), s, -math.inf), ~HIDDEN),
    "kept by each head": (lambda s, m: torch.where(m.unsqueeze(0), s, -math.inf), ~HIDDEN),
    "kept by tril": (
        lambda s, m: torch.where(torch.ones(5, 6, dtype=torch.bool).tril(), s, -math.inf),
        HIDDEN,
    ),
    "kept by tril of a weight": (
        lambda s, m: s.masked_fill(m.tril(1) == 0, -math.inf),
        torch.full((5, 6), 2.0),
    ),
    "dropped by triu": (lambda s, m: s.masked_fill(m.triu(1), -math.inf), torch.ones(5, 6, dtype=torch.bool)),
    "dropped": (lambda s, m: torch.where(m, -math.inf, s), HIDDEN),
    "kept twice": (lambda s, m: torch.where(~m & (m == 0), s, -math.inf), HIDDEN),
    "kept, and filled": (lambda s, m: torch.where(~m, s, -math.inf).masked_fill(m, -math.inf), HIDDEN),
    "kept, and added": (lambda s, m: torch.where(~m, s, -math.inf) + m.float(), HIDDEN),
    "added, and filled": (lambda s, m: (s + m.float()).masked_fill(m, -math.inf), HIDDEN),
    "filled, of all heads": (lambda s, m: s.masked_fill(m, -math.inf), HIDDEN.expand(3, 5, 6)),
    "added": (lambda s, m: s + m, rand(5, 6)),
    "added -inf": (lambda s, m: s + m, torch.zeros(5, 6).masked_fill(HIDDEN, -math.inf)),
}


def masked_by(masked, mask: torch.Tensor, *, known: bool) -> Program:
    if known:
        return program(lambda q, k, v, m: torch.softmax(masked(q @ k.mT / 2, m), -1) @ v, Q, K, V, m=mask)
    return program(lambda q, k, v, m: torch.softmax(masked(q @ k.mT / 2, m), -1) @ v, Q, K, V, mask)


@pytest.mark.parametrize("name", FILLS)
def test_masks_of_weights(name: str):
    after = applied(ATTENTION, masked_by(*FILLS[name], known=True)).program
    assert SDPA in calls(after)
    assert "softmax" not in calls(after)


ADDED = {
    "a matrix": (lambda s, m: s + m, rand(5, 6)),
    "first": (lambda s, m: m + s, rand(3, 5, 6)),
    "of keys": (lambda s, m: s + m, rand(6)),
    "of the batch": (lambda s, m: s + m, rand(2, 1, 1, 6)),
    "twice": (lambda s, m: s + m + m[0], rand(5, 6)),
    "a finite fill": (lambda s, m: s + torch.where(m > 0, 0.0, -1e30), rand(5, 6)),
}


@pytest.mark.parametrize("name", ADDED)
def test_masks_that_are_inputs(name: str):
    after = applied(ATTENTION, masked_by(*ADDED[name], known=False)).program
    assert SDPA in calls(after)
    assert "softmax" not in calls(after)


MAY_HIDE_ALL = {
    "filled": (lambda s, m: s.masked_fill(m, -math.inf), HIDDEN),
    "kept": (lambda s, m: torch.where(m, s, -math.inf), ~HIDDEN),
    "added": (lambda s, m: s + torch.where(m, 0.0, -math.inf), ~HIDDEN),
    "added, moved": (
        lambda s, m: s + torch.zeros(5, 6).masked_fill(m, -math.inf).unsqueeze(0)[:2].reshape(5, 6),
        HIDDEN,
    ),
}


@pytest.mark.parametrize("name", MAY_HIDE_ALL)
def test_masks_that_may_hide_all_stay(name: str):
    [why] = unchanged(ATTENTION, masked_by(*MAY_HIDE_ALL[name], known=False))
    assert why.endswith("may hide all keys of a query: softmax makes NaN of them, attention 0")


BY_NUMBERS = {
    "filled": lambda s, m: s.masked_fill(m, -1e9),
    "filled where not": lambda s, m: s.masked_fill(~m, torch.finfo(torch.float32).min),
    "kept": lambda s, m: torch.where(m, s, -1e30),
    "dropped": lambda s, m: torch.where(m, torch.tensor(-1e10), s),
    "twice": lambda s, m: s.masked_fill(m, -1e9).masked_fill(m[:, :1], -1e9),
    "and scaled": lambda s, m: s.masked_fill(m, -1e10) / 2,
    "added, and filled": lambda s, m: (s + m.float()).masked_fill(m, -1e9),
}


@pytest.mark.parametrize("name", BY_NUMBERS)
@pytest.mark.parametrize("known", [False, True], ids=["an input", "a weight"])
@pytest.mark.parametrize("mask", ["some", "all of a row", "all"])
def test_masks_by_numbers(name: str, known: bool, mask: str):
    """Of a query that sees no key all scores are alike, hidden or not: the average of the values."""
    hidden = {"some": HIDDEN, "all of a row": HIDDEN | (torch.arange(5) == 2)[:, None], "all": HIDDEN | True}[
        mask
    ]
    hidden = ~hidden if name in ("kept", "filled where not") else hidden
    before = masked_by(BY_NUMBERS[name], hidden, known=known)
    after = applied(ATTENTION, before).program
    assert SDPA in calls(after)
    inputs = [Q, K, V] if known else [Q, K, V, hidden]
    torch.testing.assert_close(after(*inputs), before(*inputs))


NUMBERS_APART: dict[str, tuple[object, str]] = {
    "several numbers": (
        lambda s, m: s.masked_fill(m, -1e9).masked_fill(m[:1], -1e10),
        "scores are hidden by several numbers, of which the largest are seen where there are no others",
    ),
    "a number and infinity": (
        lambda s, m: s.masked_fill(torch.ones(5, 6, dtype=torch.bool).triu(1), -math.inf).masked_fill(
            m, -1e9
        ),
        "scores are hidden by several numbers, of which the largest are seen where there are no others",
    ),
    "something added later": (
        lambda s, m: s.masked_fill(m, -1e9) + torch.arange(6.0),
        "something is added to scores that are hidden by a number, of which it makes several",
    ),
    "infinity added first": (
        lambda s, m: (s + torch.tensor([0.0, 0, 0, 0, 0, -math.inf])).masked_fill(m, -1e9),
        "-inf may be added to scores, beside which those are seen that a number hides",
    ),
}


@pytest.mark.parametrize("name", NUMBERS_APART)
def test_masks_by_numbers_that_stay(name: str):
    masked, why = NUMBERS_APART[name]
    before = PassManager.parse("fold-constants").run(masked_by(masked, HIDDEN, known=False)).program
    assert unchanged(ATTENTION, before) == [why]


def test_numbers_of_float16():
    """No number of it is so far below that scores are lost beside it."""

    def function(q, k, v, m):
        scores = (q @ k.mT).float().masked_fill(m, -1e9)
        return torch.softmax(scores, -1).half() @ v

    half = [t.half() for t in (Q, K, V)]
    assert unchanged(ATTENTION, program(function, *half, HIDDEN)) == [
        "a query may see no key, and no number of float16 is so far below that the scores would not count"
    ]
    after = applied(ATTENTION, program(function, *half, m=HIDDEN)).program
    assert SDPA in calls(after)


def test_a_mask_is_of_the_querys_dtype():
    def function(q):
        seen = torch.ones(5, 5, dtype=torch.bool).tril()
        return torch.softmax(torch.where(seen, (q @ q.mT).float(), -math.inf), -1).half() @ q

    [*_, attention] = applied(ATTENTION, program(function, Q.half())).program.calls()
    assert attention.args[3].meta["val"].dtype == torch.float16


HIDES_ALL = {
    "a row": (lambda s, m: s.masked_fill(m, -math.inf), torch.ones(5, 6, dtype=torch.bool)),
    "a row that is kept": (lambda s, m: torch.where(m, s, -math.inf), torch.ones(5, 6, dtype=torch.bool).tril(-1)),
    "a row of what is added": (lambda s, m: s + m, torch.full((5, 6), -math.inf).tril(-1)[:, :1].expand(5, 6)),
    "a later column": (
        lambda s, m: torch.where(m[:, 1:7], s, -math.inf), torch.ones(5, 8, dtype=torch.bool).tril(),
    ),
    "tril below": (lambda s, m: s.masked_fill(m.tril(-1) == 0, -math.inf), torch.ones(5, 6)),
    "tril of zeros": (lambda s, m: s.masked_fill((m * 0).tril() == 0, -math.inf), torch.ones(5, 6)),
    "triu": (lambda s, m: s.masked_fill(m.triu(), -math.inf), torch.ones(5, 6, dtype=torch.bool)),
    "triu that is kept": (lambda s, m: torch.where(m.triu(1), s, -math.inf), torch.ones(5, 6, dtype=torch.bool)),
    "tril that is dropped": (lambda s, m: s.masked_fill(m.tril(), -math.inf), torch.ones(5, 6, dtype=torch.bool)),
    "one of two": (lambda s, m: torch.where(m & ~m, s, -math.inf), torch.ones(5, 6, dtype=torch.bool)),
    "a view of other rows": (
        lambda s, m: torch.where(m.view(5, 6), s, -math.inf), torch.ones(6, 5, dtype=torch.bool).tril(),
    ),
    "equal to one": (lambda s, m: s.masked_fill(m == 1, -math.inf), torch.ones(5, 6)),
    "unequal to one": (lambda s, m: s.masked_fill(m != 1, -math.inf), torch.zeros(5, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDES_ALL)
def test_masks_not_known_to_leave_a_key_stay(name: str):
    unchanged(ATTENTION, masked_by(*HIDES_ALL[name], known=True))


CAUSAL = torch.ones(5, 6, dtype=torch.bool).tril()
BUT_THE_FIRST, BUT_THE_LAST = torch.arange(6) == 0, torch.arange(6) == 5
TOGETHER = {
    "all of the first query": (lambda s, m: torch.where(m, s, -math.inf).masked_fill(BUT_THE_FIRST, -math.inf), False),
    "all of it, one added": (
        lambda s, m: torch.where(m, s, -math.inf) + torch.zeros(6).masked_fill(BUT_THE_FIRST, -math.inf), False,
    ),
    "all of it, one computed": (
        lambda s, m: s.masked_fill(m.float().tril() == 0, -math.inf).masked_fill(BUT_THE_FIRST, -math.inf), False,
    ),
    "not the first key": (lambda s, m: torch.where(m, s, -math.inf).masked_fill(BUT_THE_LAST, -math.inf), True),
    "not the first key, one computed": (
        lambda s, m: s.masked_fill(torch.ones(5, 6).tril() == 0, -math.inf).masked_fill(BUT_THE_LAST, -math.inf), True,
    ),
    "not the second key": (
        lambda s, m: s.masked_fill(BUT_THE_FIRST, -math.inf).masked_fill(BUT_THE_LAST, -math.inf), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOGETHER)
def test_masks_that_hide_together(name: str):
    """Each leaves a key; of a query that sees none of both softmax makes NaN."""
    masked, recognised = TOGETHER[name]
    before = masked_by(masked, CAUSAL, known=True)
    if recognised:
        assert SDPA in calls(applied(ATTENTION, before).program)
    else:
        unchanged(ATTENTION, before)


def test_a_comparison_is_turned_round():
    after = applied(ATTENTION, masked_by(*FILLS["filled where equal"], known=True)).program
    assert "ne" in calls(after) and "bitwise_not" not in calls(after)


def test_a_negation_is_not_made_twice():
    before = masked_by(lambda s, m: s.masked_fill(~m, -math.inf), ~HIDDEN, known=True)
    assert "bitwise_not" not in calls(applied(ATTENTION, before).program)


LOWEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize("added", [None, -math.inf, LOWEST / 2], ids=["kept", "added", "added, finite"])
@pytest.mark.parametrize("shape", [(5, 5), (1, 1, 5, 5)])
def test_a_constant_causal_mask(added: float | None, shape: tuple[int, ...]):
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    mask = (mask if added is None else torch.zeros(5, 5).masked_fill(~mask, added)).reshape(shape)
    before = program(
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, scale=3.0), Q, Q, Q, m=mask
    )
    after = applied(ATTENTION, before).program
    expected = program(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=3.0), Q, Q, Q
    )
    assert structure(after) == structure(expected)


OTHER_MASKS = {
    "of other keys": torch.ones(5, 5, dtype=torch.bool).triu(),
    "strictly": torch.ones(5, 5, dtype=torch.bool).tril(-1),
    "finite": torch.full((5, 5), -1e9).triu(1),
    "not so low": torch.full((5, 5), LOWEST / 2.5).triu(1),
    "by head": torch.ones(3, 5, 5, dtype=torch.bool).tril(),
    "one row": torch.ones(1, 5, dtype=torch.bool).tril(),
}


@pytest.mark.parametrize("name", OTHER_MASKS)
def test_another_constant_mask_stays(name: str):
    mask = OTHER_MASKS[name]
    unchanged(
        ATTENTION, program(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), Q, Q, Q, m=mask)
    )


def test_a_mask_of_one_query_over_more_keys_stays():
    before = program(
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        Q[:, :, :1], K, V, m=torch.ones(1, 1, dtype=torch.bool),
    )  # fmt: skip
    unchanged(ATTENTION, before)


def test_a_causal_mask_over_more_keys_stays():
    mask = torch.ones(5, 6, dtype=torch.bool).tril()
    unchanged(
        ATTENTION, program(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), Q, K, V, m=mask)
    )


def test_masks_of_scores_in_two_shapes():
    """A bias by head of [windows * batch, heads, ...], then a mask by window of [batch, windows, heads, ...]."""

    def function(q, k, v, bias, mask):
        scores = (q @ k.mT + bias).view(2, 1, 3, 5, 6) + mask
        return scores.view(2, 3, 5, 6).softmax(-1) @ v

    mask = rand(2, 1, 1, 5, 6, seed=4)
    for bias in (rand(3, 5, 6, seed=3), rand(1, 3, 5, 6, seed=3), rand(6, seed=3), rand(2, 3, 5, 6, seed=3)):
        assert SDPA in calls(applied(ATTENTION, program(function, Q, K, V, bias, mask)).program)
    before = program(function, Q, K, V, rand(2, 1, 5, 6, seed=3), mask)
    assert unchanged(ATTENTION, before) == [
        "the mask args_3 does not broadcast to the scores as they are masked later"
    ]


def squared(x):
    return x @ x


NONE: dict[str, tuple[object, str]] = {
    "another axis": (lambda q, k, v: torch.softmax(q @ k.mT, 1) @ v, "softmax is over axis 1, not over the keys"),
    "a number that scores may reach": (
        lambda q, k, v: torch.softmax((q @ k.mT).masked_fill(q[..., :1] > 0, -1e8), -1) @ v, "",
    ),
    "a number that is scaled to where scores are": (
        lambda q, k, v: torch.softmax((q @ k.mT).masked_fill(q[..., :1] > 0, -1e12) / 1e4, -1) @ v, "",
    ),
    "a number above all scores": (
        lambda q, k, v: torch.softmax(-(q @ k.mT).masked_fill(q[..., :1] > 0, -1e30) * -1 * -1, -1) @ v, "",
    ),
    "a choice of numbers": (lambda q, k, v: torch.softmax(torch.where(q[..., :1] > 0, q @ k.mT, 0.0), -1) @ v, ""),
    "a factor of the mask": (lambda q, k, v: torch.softmax(torch.add(q @ k.mT, v.sum(), alpha=2), -1) @ v, ""),
    "a scaled mask": (lambda q, k, v: torch.softmax((q @ k.mT + v.sum()) * 2, -1) @ v, ""),
    "rounded scores": (lambda q, k, v: torch.softmax(torch.div(q @ k.mT, 2, rounding_mode="floor"), -1) @ v, ""),
    "rounded queries": (
        lambda q, k, v: torch.softmax(torch.div(q, 2, rounding_mode="floor") @ k.mT, -1) @ v, None,
    ),
    "a number over scores": (lambda q, k, v: torch.softmax((q @ k.mT).reciprocal() * 2, -1) @ v, ""),
    "a scale of zero": (lambda q, k, v: torch.softmax(q @ k.mT * 0, -1) @ v, ""),
    "whole numbers between": (
        lambda q, k, v: torch.softmax((q @ k.mT).long().float(), -1) @ v, "",
    ),
    "whole weights": (
        lambda q, k, v: torch.softmax(q @ k.mT, -1).long().float() @ v, "it is cast to another kind of number",
    ),
    "the weights on the right": (lambda q, k, v: v.mT @ torch.softmax(q @ k.mT, -1).mT, ""),
    "the weights squared": (lambda q, k, v: squared(torch.softmax(q @ q.mT, -1)), ""),
    "a product with another value": (lambda q, k, v: torch.softmax(q, -1) @ q.mT, ""),
    "a mask that makes the scores wider": (
        lambda q, k, v: torch.softmax(q[:, :, :1] @ k.mT + q.sum(-1, keepdim=True), -1) @ v, "",
    ),
    "a mask that makes more keys": (
        lambda q, k, v: torch.softmax(q @ k[:, :, :1].mT + v[:, :, :, 0].unsqueeze(2), -1) @ v, "",
    ),
    "whole scores": (
        lambda q, k, v: torch.softmax((q.long() @ k.long().mT).float(), -1) @ v, "it is cast to another kind of number",
    ),
    "values of another dtype": (
        lambda q, k, v: torch.softmax((q @ k.mT).double(), -1) @ v.double(), "query, key and value are of several dtypes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_attention_stays(name: str):
    function, why = NONE[name]
    before = program(function, Q, K, V)
    if why is None:
        assert scale_of(function, Q, K, V) == 1.0
    else:
        assert unchanged(ATTENTION, before) == ([why] if why else [])


def test_without_a_batch_it_stays():
    before = program(plain, rand(5, 4), rand(6, 4), rand(6, 7))
    assert unchanged(ATTENTION, before) == ["it has no batch axis"]


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_operands_that_broadcast_stay(which: int, axis: int):
    given = [Q, K, V]
    given[which] = given[which].narrow(axis, 0, 1)
    assert unchanged(ATTENTION, program(plain, *given)) == ["query, key and value broadcast"]


@pytest.mark.parametrize("inner", ["scores", "weights", "scaled"])
def test_an_inner_value_with_another_user_stays(inner: str):
    def function(q, k, v):
        scores = q @ k.mT
        scaled = scores / 2
        weights = torch.softmax(scaled, -1)
        return weights.to(q.dtype) @ v, {"scores": scores, "weights": weights, "scaled": scaled}[inner]

    before = program(function, Q, K, V)
    found = unchanged(ATTENTION, before)
    if inner != "weights":
        name = {"scores": "matmul", "scaled": "div"}[inner]
        assert found == [f"{name} has another user, output"]


def test_a_mask_of_another_dtype_stays():
    def function(q, k, v, m):
        return torch.softmax(q @ k.mT + m, -1) @ v

    assert unchanged(ATTENTION, program(function, Q, K, V, torch.ones(6, dtype=torch.int64))) == [
        "the mask args_3 is int64"
    ]


def test_weights_in_other_rows_stay():
    def function(q, k, v):
        return torch.softmax(q @ k.mT, -1).reshape(2, 3, 10, 3) @ v[:, :, :3]

    assert unchanged(ATTENTION, program(function, Q, K, V)) == [
        "the weights have another shape than the scores"
    ]


def test_eval_dropout_goes():
    before = program(lambda q, k, v: F.dropout(torch.softmax(q @ k.mT, -1), 0.5, False) @ v, Q, K, V)
    assert SDPA in calls(applied(ATTENTION, before).program)


def test_drawn_programs():
    check_pass(ATTENTION, examples=15, min_fired=0.2, targets=())
