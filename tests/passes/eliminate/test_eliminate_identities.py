"""eliminate-identities: each identity with its near-misses, which must stay."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.passes.eliminate.eliminate_identities import EliminateIdentities
from fxopt.pipeline import Contract, PassManager
from fxopt.rewriting import Rewriter
from fxopt.testing import ProgramBuilder, check_pass
from fxopt.verification import check_programs
from tests.passes.helpers import applied, calls, program, rand, reasons, structure, unchanged

ALL = EliminateIdentities()
EXACT = EliminateIdentities(exact=True)
CLEAN = EliminateIdentities(exact=True, keep_dropout=True, keep_weights=True)

X = rand(3, 4)
IDS = torch.arange(12).reshape(3, 4)
MASK = rand(3, 4) > 0

Fn = Callable[..., torch.Tensor]

# Every line: a function that is the sigmoid (or bitwise_not) of its argument, with an identity before it.
EXACT_IDENTITIES: dict[str, tuple[Fn, torch.Tensor]] = {
    "eval dropout": (lambda x: F.dropout(x, 0.3, False), X),
    "eval feature dropout": (lambda x: torch.feature_dropout(x, 0.3, False), X),
    "eval alpha dropout": (lambda x: F.alpha_dropout(x, 0.3, False), X),
    "reshape to its shape": (lambda x: x.reshape(x.shape), X),
    "view with -1": (lambda x: x.view(-1, 4), X),
    "flatten of one axis": (lambda x: x.flatten(1), X),
    "unflatten into one": (lambda x: x.unflatten(1, (4,)), X),
    "expand that keeps": (lambda x: x.expand(-1, 4), X),
    "full slice": (lambda x: torch.ops.aten.slice.Tensor(x, 1, 0, 4), X),
    "slice with a far end": (lambda x: torch.ops.aten.slice.Tensor(x, 1, None, 100), X),
    "narrow over all": (lambda x: x.narrow(1, 0, 4), X),
    "repeat once": (lambda x: x.repeat(1, 1), X),
    "permute in order": (lambda x: x.permute(0, 1), X),
    "two transposes": (lambda x: x.t().t(), X),
    "inverse permutes": (lambda x: x.permute(1, 2, 0).permute(2, 0, 1), rand(2, 3, 4)),
    "squeeze of a wide axis": (lambda x: x.squeeze(1), X),
    "join of one": (lambda x: torch.cat([x], 1), X),
    "join with nothing": (lambda x: torch.cat([x, x[:, :0]], 1), X),
    "split in one": (lambda x: x.split(4, 1)[0], X),
    "chunk in one": (lambda x: x.chunk(1, 1)[0], X),
    "pad by nothing": (lambda x: F.pad(x, (0, 0)), X),
    "times 1": (lambda x: x * 1, X),
    "1.0 times": (lambda x: 1.0 * x, X),
    "times ones": (lambda x: x * torch.ones(3, 4), X),
    "times ones of one row": (lambda x: torch.ones(4) * x, X),
    "times a filled scalar": (lambda x: x * torch.full((), 1.0), X),
    "divided by 1": (lambda x: x / 1, X),
    "to the power of 1": (lambda x: x**1, X),
    "minus 0": (lambda x: x - 0, X),
    "plus -0.0": (lambda x: x + -0.0, X),
    "double negation": (lambda x: x.neg().neg(), X),
    "double flip": (lambda x: x.flip(1).flip(1), X),
    "where with one choice": (lambda x: torch.where(x > 0, x, x), X),
    "maximum with itself": (lambda x: torch.maximum(x, x), X),
    "integers plus 0": (lambda x: x + 0, IDS),
    "integers by 1, rounded down": (lambda x: x // 1, IDS),
    "integers or 0": (lambda x: x | 0, IDS),
    "integers and -1": (lambda x: x & -1, IDS),
    "mask and True": (lambda x: x & torch.ones(3, 4, dtype=torch.bool), MASK),
    "mask or False": (lambda x: x.logical_or(torch.zeros(4, dtype=torch.bool)), MASK),
    "double not": (lambda x: x.logical_not().logical_not(), MASK),
    "double bitwise not": (lambda x: ~~x, IDS),
}


@pytest.mark.parametrize("name", EXACT_IDENTITIES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_exact_identities_go(name: str, dynamic: bool):
    function, x = EXACT_IDENTITIES[name]
    if dynamic and name in ("times ones", "mask and True"):
        pytest.skip("its literal sizes fix the batch")
    last = torch.sigmoid if x.is_floating_point() else torch.bitwise_not
    before = program(lambda x: last(function(x)), x, dynamic=dynamic)
    assert len(calls(before)) > 1
    result = applied(EXACT, before)
    cleaned = PassManager.parse("eliminate-dead-code").run(result.program).program  # a condition, say
    assert structure(cleaned) == structure(program(last, x, dynamic=dynamic))


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("aten.to.dtype", (torch.float32,)),
        ("aten.to.device", (torch.device("cpu"), torch.float32)),
        ("aten._to_copy", ()),
        ("aten.contiguous", ()),
        ("aten.clone", ()),
        ("aten.alias", ()),
        ("aten.detach", ()),
    ],
)
def test_conversions_to_what_it_is_already_go(op: str, arguments: tuple[object, ...]):
    # Tracing leaves none; other passes may make them.
    b = ProgramBuilder()
    before = b.finish(b.call("aten.sigmoid", b.call(op, b.input((b.batch, 4)), *arguments)))
    assert calls(applied(EXACT, before).program) == ["sigmoid"]


# Equal as real numbers; a zero may change its sign.
EQUIVALENT_IDENTITIES: dict[str, Fn] = {
    "plus 0": lambda x: torch.sin(x) + 0,
    "0.0 plus": lambda x: 0.0 + torch.sin(x),
    "plus zeros": lambda x: torch.sin(x) + torch.zeros(4),
    "plus twice zero": lambda x: torch.add(torch.sin(x), 0, alpha=2),
    "minus -0.0": lambda x: torch.sin(x) - -0.0,
    "clamp of what lies within": lambda x: torch.sin(x).clamp(-1.0, 1.0),
    "hardtanh of what lies within": lambda x: F.hardtanh(torch.sin(x), -2.0, 1.0),
}


@pytest.mark.parametrize("name", EQUIVALENT_IDENTITIES)
def test_equivalent_identities_go(name: str):
    before = program(EQUIVALENT_IDENTITIES[name], X, dynamic=True)
    assert calls(applied(ALL, before).program) == ["sin"]
    assert unchanged(EXACT, before) == ["it may change the sign of a zero (exact)"]


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x: x.relu().relu().relu(), ["relu"]),
        (lambda x: x.relu6().relu(), ["relu6"]),
        (lambda x: x.relu().relu6(), ["relu", "relu6"]),
        (lambda x: x.clamp(0.0, 3.0).relu(), ["clamp"]),
        (lambda x: x.clamp(0.0, 3.0).clamp(0.0, 6.0), ["clamp"]),
        (lambda x: x.clamp(0.0, 6.0).clamp(0.0, 3.0), ["clamp", "clamp"]),
        (lambda x: x.clamp(max=3.0).relu(), ["clamp", "relu"]),
        (lambda x: x.relu().clamp(min=-1.0), ["relu"]),
        (lambda x: x.clamp(5.0, 3.0).clamp(3.0, 5.0), ["clamp"]),
        (lambda x: x.sigmoid().relu(), ["sigmoid"]),
        (lambda x: x.softmax(1).clamp(0.0, 1.0), ["softmax"]),
        (lambda x: x.tanh().relu(), ["tanh", "relu"]),
        (lambda x: x.exp().abs(), ["exp"]),
        (lambda x: x.abs().abs(), ["abs"]),
        (lambda x: x.floor().floor(), ["floor"]),
        (lambda x: x.floor().ceil(), ["floor", "ceil"]),
        (lambda x: x.tril().tril(), ["tril"]),
        (lambda x: x.tril(1).tril(0), ["tril", "tril"]),
        (lambda x: x.clamp(0.0, 1.0).clamp(0.0, 1.0), ["clamp"]),
    ],
)
def test_clamps_and_roundings(function: Fn, left: list[str]):
    def relu6(x: torch.Tensor) -> torch.Tensor:
        return F.relu6(x)

    torch.Tensor.relu6 = relu6  # type: ignore[attr-defined]
    try:
        before = program(function, X, dynamic=True)
    finally:
        del torch.Tensor.relu6  # type: ignore[attr-defined]
    assert [c.replace("hardtanh", "relu6") for c in calls(applied(ALL, before).program)] == left


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.relu(x).relu(),
        lambda x: x.abs().abs(),
        lambda x: x.clamp(0.0, 1.0).clamp(0.0, 1.0),
        lambda x: x.floor().floor(),
    ],
)
def test_the_same_twice_is_exact(function: Fn):
    assert len(calls(applied(EXACT, program(function, X)).program)) == 1


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x: F.dropout(x, 0.3, False).neg().sin(), X),
        (lambda x: x.reshape(4, 3), X),
        (lambda x: x[:, 1:], X),
        (lambda x: x[:, ::2], X),
        (lambda x: x.permute(1, 0), rand(4, 4)),
        (lambda x: x.permute(1, 2, 0).permute(1, 2, 0), rand(4, 4, 4)),
        (lambda x: x.squeeze(1), rand(3, 1, 4)),
        (lambda x: torch.cat([x, x], 1), X),
        (lambda x: x.split(2, 1)[0], X),
        (lambda x: F.pad(x, (1, -1)), X),
        (lambda x: F.pad(x, (1, 0)), X),
        (lambda x: x * -1, X),
        (lambda x: x * 0, X),
        (lambda x: x * torch.tensor([1.0, 1.0, 1.0, 2.0]), X),
        (lambda x: torch.ones(3, 4) / x, X),
        (lambda x: torch.zeros(4) - x, X),
        (lambda x: torch.add(torch.zeros(4), x, alpha=2), X),
        (lambda x: x**-1, X),
        (lambda x: x.div(1, rounding_mode="floor"), X),
        (lambda x: 1 - x, X),
        (lambda x: torch.add(x, 0, alpha=math.inf), X),
        (lambda x: x.neg().abs().neg(), X),
        (lambda x: x.flip(0).flip(1), X),
        (lambda x: torch.where(x > 0, x, x + 1), X),
        (lambda x: x & 1, IDS),
        (lambda x: x | 1, IDS),
        (lambda x: torch.roll(x, 1, 0), X),
        (lambda x: torch.lerp(x, x + 1, 0.5), X),
    ],
)
def test_near_misses_stay(function: Fn, x: torch.Tensor):
    before = program(function, x)
    kept = [c for c in calls(before) if c != "dropout"]
    assert calls(applied(ALL, before).program) == kept


def test_what_is_far_from_an_identity_is_no_refusal():
    def function(x: torch.Tensor) -> torch.Tensor:
        first, second = torch.cat([x, x], 1).split(4, 1)
        return F.pad(first.reshape(2, 6), (1, 1)).t() @ second.reshape(2, 6) * 2 + 1

    assert unchanged(ALL, program(function, X)) == []


def test_a_dropout_that_drops_stays():
    """No program that is traced has one."""
    b = ProgramBuilder()
    before = b.finish(b.call("aten.dropout", b.input((3, 4)), 0.5, True))
    text = str(before)
    ALL.run(Rewriter(before))
    assert str(before) == text


@pytest.mark.parametrize(
    ("function", "args", "why"),
    [
        (lambda x: x + torch.zeros(2, 3, 4), (X,), "the result is f32[2, 3, 4], the operand f32[3, 4]"),
        (lambda x: x * torch.ones(3, 4), (rand(1, 4),), "the result is f32[3, 4], the operand f32[1, 4]"),
        (lambda x: x * torch.ones(1, 1, 1), (X,), "the result is f32[1, 3, 4], the operand f32[3, 4]"),
        (lambda x, c: torch.where(c, x, x), (rand(4), MASK), "the result is f32[3, 4], the operand f32[4]"),
    ],
)
def test_the_shape_must_stay(function: Fn, args: tuple[torch.Tensor, ...], why: str):
    assert unchanged(ALL, program(function, *args)) == [why]


@pytest.mark.parametrize(
    ("function", "x", "dtype"),
    [
        (lambda x: x * 1.0, IDS, torch.float32),
        (lambda x: x / 1, IDS, torch.float32),
        (lambda x: x**1.0, IDS, torch.float32),
        (lambda x: x - 0.0, IDS, torch.float32),
        (lambda x: x - torch.zeros(4), X.half(), torch.float32),
        (lambda x: x * torch.ones(4, dtype=torch.float64), X, torch.float64),
        (lambda m: m * 1, MASK, torch.int64),
        (lambda x: x.logical_not().logical_not(), X, torch.bool),
        (lambda x: x.logical_not().logical_not(), IDS, torch.bool),
    ],
)
def test_where_the_dtype_changes_a_cast_is_left(function: Fn, x: torch.Tensor, dtype: torch.dtype):
    after = applied(EXACT, program(function, x)).program
    assert [c for c in calls(after) if c not in ("zeros", "ones")] == ["to"]
    assert after.output_nodes()[0].meta["val"].dtype is dtype  # type: ignore[attr-defined]


def test_a_dynamic_axis_is_not_taken_for_one_that_squeeze_leaves():
    before = program(lambda x: x.squeeze(0).relu(), X, dynamic=True)
    assert unchanged(ALL, before) == ["a dynamic size may be 1, and would then be squeezed"]


def test_a_squeeze_of_a_number_goes():
    assert calls(applied(ALL, program(lambda x: x.sum().squeeze(0).relu(), X)).program) == ["sum", "relu"]


def test_of_tensors_without_elements_one_stays():
    before = program(lambda x, y: torch.cat([x, y], 1).relu(), X[:, :0], X[:, :0])
    assert calls(applied(ALL, before).program) == ["relu"]


def test_a_squeeze_of_all_axes_of_size_one_is_settled_while_tracing():
    assert calls(program(lambda x: x.squeeze().relu(), X)) == ["relu"]
    with pytest.warns(UserWarning, match="treats batch = 1 apart"):
        assert calls(program(lambda x: x.squeeze().relu(), X, dynamic=True)) == ["relu"]


def test_a_weight_of_ones_goes_unless_weights_are_kept():
    before = program(lambda x, scale: torch.relu(x * scale), X, scale=torch.ones(4))
    after = applied(ALL, before).program
    assert calls(after) == ["relu"]
    assert not after.weights
    assert unchanged(EliminateIdentities(keep_weights=True), before) == []


def test_a_weight_that_is_not_one_everywhere_stays():
    for last in (1.5, 1.0 + 2**-23, -1.0):
        scale = torch.tensor([1.0, 1.0, 1.0, last])
        assert unchanged(ALL, program(lambda x, scale: x * scale, X, scale=scale)) == []


def test_a_late_element_of_a_long_weight_counts():
    scale = torch.ones(1000)
    scale[-1] = 2
    assert unchanged(ALL, program(lambda x, scale: x * scale, rand(2, 1000), scale=scale)) == []


def test_zeros_of_both_signs_are_no_number():
    zeros = torch.tensor([0.0, -0.0, 0.0, 0.0])
    assert unchanged(ALL, program(lambda x, b: x - b, X, b=zeros)) == []


def test_a_filled_tensor_counts_as_its_dtype_rounds_it():
    ones = program(lambda x: x * torch.full((4,), 1.9, dtype=torch.int64), X)
    assert calls(PassManager.parse("eliminate-dead-code").run(applied(ALL, ones).program).program) == []
    assert calls(applied(ALL, program(lambda x: x * torch.full((4,), 1.9), X)).program) == ["full", "mul"]


def test_moves_of_a_filled_tensor_are_looked_through():
    before = program(lambda x: x * torch.ones(4, 1).permute(1, 0).expand(3, 4), X)
    assert calls(PassManager.parse("eliminate-dead-code").run(applied(ALL, before).program).program) == []


def test_clean_keeps_dropout_and_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Flatten())
    before = program(model, X)
    assert calls(applied(ALL, before).program) == ["linear"]
    result = applied(CLEAN, before)
    assert calls(result.program) == ["linear", "dropout"]
    assert reasons(result) == ["kept for training (keep_dropout)"]


def test_the_contract_is_that_of_the_rules_in_use():
    assert ALL.contract is Contract.EQUIVALENT
    assert EXACT.contract is Contract.EXACT
    assert EliminateIdentities.contract is Contract.EQUIVALENT


def test_adding_zero_is_not_exact():
    before = program(lambda x: x + 0.0, X)
    after = PassManager.of([ALL]).run(before).program
    report = check_programs(before, after, "exact", inputs=[(torch.tensor([[-0.0] * 4] * 3),)])
    assert report.verdict.value == "different"


def test_a_chain_goes_in_one_run():
    def function(x: torch.Tensor) -> torch.Tensor:
        y = F.dropout(x, 0.1, False).mul(1).t().t().relu().relu()
        return y.reshape(y.shape).neg().neg()

    before = program(function, X, dynamic=True)
    result = applied(ALL, before)
    assert structure(result.program) == structure(program(torch.relu, X, dynamic=True))
    assert result.passes[0].rules == {
        "eval-dropout": 1,
        "multiply-by-one": 1,
        "inverse-permutes": 1,
        "twice-is-once": 1,
        "no-op-move": 1,
        "twice-is-nothing": 1,
    }


def test_a_result_may_become_the_input_itself():
    result = applied(ALL, program(lambda x: (x * 1, x.neg().neg()), X, dynamic=True))
    assert structure(result.program) == ["return %0, %0"]


def test_sizes_read_from_what_goes_are_read_from_the_operand():
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    y = b.call("aten.mul.Tensor", x, 1)
    size = b.call("aten.sym_size.int", y, 0)
    before = b.finish(b.call("aten.expand", b.call("aten.sum", y), [size]))
    after = applied(ALL, before).program
    assert calls(after) == ["sym_size", "sum", "expand"]


def test_drawn_programs():
    counts = check_pass(ALL, examples=25, min_fired=0.3, targets=())
    assert counts["programs"] >= 25


def test_drawn_programs_exactly():
    check_pass(EXACT, examples=15, min_fired=0.3, targets=())


@pytest.mark.parametrize("function", [lambda x, w: w * x, lambda x, w: x * w, lambda x, w: x / w])
def test_a_weight_of_ones_goes_on_either_side(function):
    before = program(lambda x, w: function(x, w).relu(), rand(2, 3), w=torch.ones(3))
    assert calls(applied(EliminateIdentities(), before).program) == ["relu"]


def test_a_weight_of_ones_is_not_divided_away():
    unchanged(EliminateIdentities(), program(lambda x, w: w / x, rand(2, 3), w=torch.ones(3)))


@pytest.mark.parametrize("sides", [(0.0, None), (None, 5.0)])
def test_a_clamp_whose_bound_is_a_size_stays(sides: tuple[float | None, float | None]):
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    size = b.call("aten.sym_size.int", x, 0)
    low, high = (size if s is None else s for s in sides)
    before = b.finish(b.call("aten.clamp", b.call("aten.sigmoid", x), low, high))
    unchanged(ALL, before)


def test_what_is_filled_with_a_size_is_no_number():
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    filled = b.call("aten.full", [4], b.call("aten.sym_size.int", x, 0), dtype=torch.float32)
    unchanged(ALL, b.finish(b.call("aten.mul.Tensor", x, filled)))
