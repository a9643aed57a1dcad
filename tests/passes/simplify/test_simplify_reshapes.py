"""simplify-reshapes: chains of moves become one or none, at every size of a dynamic batch."""

from collections.abc import Callable

import pytest
import torch
from torch.fx import Node

from fxopt.passes.simplify.simplify_reshapes import SimplifyReshapes, _replace
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.rewriting import Rewriter
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import applied, at_sizes, calls, program, rand, reasons, structure, unchanged

SIMPLIFY = SimplifyReshapes()

X = rand(2, 3, 4)
Fn = Callable[..., object]


def simplified(before: Program) -> Program:
    """The result, compared with what it was at batches of 0, 1, 2 and 5."""
    after = applied(SIMPLIFY, before).program
    at_sizes(before, after)
    return after


# Before and after, static and with a dynamic batch.
CHAINS: dict[str, tuple[Fn, Fn]] = {
    "reshape of a reshape": (lambda x: x.reshape(-1, 12).reshape(-1, 4, 3), lambda x: x.reshape(-1, 4, 3)),
    "five reshapes": (
        lambda x: x.flatten(1).unsqueeze(1).reshape(-1, 6, 2).unsqueeze(0).squeeze(0),
        lambda x: x.reshape(-1, 6, 2),
    ),
    "back to the same shape": (lambda x: x.flatten(1).reshape(-1, 3, 4), lambda x: x),
    "back to an inner shape": (
        lambda x: x.flatten(1).reshape(-1, 3, 4).reshape(-1, 12),
        lambda x: x.reshape(-1, 12),
    ),
    "unsqueeze and squeeze": (lambda x: x.unsqueeze(1).squeeze(1), lambda x: x),
    "squeeze of another axis": (
        lambda x: x.unsqueeze(1).unsqueeze(2).squeeze(1),
        lambda x: x.reshape(-1, 1, 3, 4),
    ),
    "flatten and unflatten": (lambda x: x.flatten(1).unflatten(1, (2, 6)), lambda x: x.reshape(-1, 2, 6)),
    "a transpose of an axis of size 1": (
        lambda x: x.unsqueeze(1).permute(0, 2, 1, 3).flatten(1),
        lambda x: x.reshape(-1, 12),
    ),
    "two permutations": (lambda x: x.permute(1, 2, 0).permute(1, 2, 0), lambda x: x.permute(2, 0, 1)),
    "two different permutations": (
        lambda x: x.permute(1, 2, 0).permute(0, 2, 1),
        lambda x: x.permute(1, 0, 2),
    ),
    "three that come back": (lambda x: x.permute(1, 2, 0).permute(1, 2, 0).permute(1, 2, 0), lambda x: x),
    "two expansions": (
        lambda x: x.unsqueeze(1).expand(-1, 5, -1, -1).expand(2, -1, -1, 3, 4),
        lambda x: x.unsqueeze(1).expand(2, -1, 5, -1, -1),
    ),
    "an expansion to the size of another axis": (
        lambda x: x.amax(1, True).expand(-1, 5, -1).expand(4, -1, 5, -1),
        lambda x: x.amax(1, True).expand(4, -1, 5, -1),
    ),
    "an expansion that keeps": (lambda x: x.expand(-1, 3, 4), lambda x: x),
    "a reshape of another kind of a permutation": (
        lambda x: x.permute(0, 2, 1).reshape(-1, 2, 6).reshape(-1, 12),
        lambda x: x.permute(0, 2, 1).reshape(-1, 12),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_chains(name: str, dynamic: bool):
    before, expected = (program(f, X, dynamic=dynamic) for f in CHAINS[name])
    after = applied(SIMPLIFY, before).program
    assert _same_moves(after, expected)
    if dynamic:
        at_sizes(before, after)


def _same_moves(a: Program, b: Program) -> bool:
    """The same ops with the same results; a size of -1 or the number that it is are one."""
    return [_kind(n) for n in a.calls()] == [_kind(n) for n in b.calls()]


def _kind(node: Node) -> tuple[str, list[str]]:
    return str(node.target), [str(d) for d in node.meta["val"].shape]


def test_the_docstring_example():
    def function(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 12).unsqueeze(0).permute(1, 2, 0).permute(2, 0, 1)

    after = simplified(program(function, X))
    assert structure(after) == structure(program(lambda x: x.reshape(1, 2, 12), X))


def test_a_dynamic_reshape_needs_no_arithmetic():
    """The split of heads: the batch is not computed, -1 stands for it."""
    before = program(lambda x: x.view(x.shape[0] * 3, 4).view(x.shape[0], 3, 2, 2), X, dynamic=True)
    assert calls(before).count("sym_size") == 1
    after = simplified(before)
    assert [n.args[1] for n in after.calls()] == [[-1, 3, 2, 2]]


def test_several_dynamic_sizes_are_taken_from_the_last_reshape():
    b = ProgramBuilder()
    x = b.input((b.batch, 3, b.batch, 4))
    size = b.call("aten.sym_size.int", x, 0)
    flat = b.call("aten.reshape", x, [-1, 4])
    before = b.finish(b.call("aten.reshape", flat, [size, size, 12]))
    after = simplified(before)
    assert calls(after) == ["sym_size", "reshape"]


def test_several_dynamic_sizes_that_nothing_states_refuse():
    b = ProgramBuilder()
    x = b.input((b.batch, b.batch, 4))
    before = b.finish(b.call("aten.unsqueeze", b.call("aten.unsqueeze", x, 0), 0))
    assert unchanged(SIMPLIFY, before) == ["several sizes are dynamic, none stated"]


def test_a_size_of_zero_beside_a_dynamic_one_is_not_inferred():
    """-1 beside 0 is ambiguous: torch refuses it."""
    b = ProgramBuilder()
    x = b.input((b.batch, 0))
    size = b.call("aten.sym_size.int", x, 0)
    before = b.finish(b.call("aten.reshape", x, [size, 0, 3]))
    assert unchanged(SIMPLIFY, before) == []


def test_an_inner_value_with_another_user_stays():
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = x.flatten(1)
        return flat.relu(), flat.reshape(-1, 2, 6)

    [why] = unchanged(SIMPLIFY, program(function, X, dynamic=True))
    assert why == "flatten has another user, relu"


def test_an_inner_value_that_only_reshapes_use_goes():
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = x.flatten(1)
        return flat.reshape(-1, 2, 6), flat.reshape(-1, 6, 2)

    assert calls(simplified(program(function, X, dynamic=True))) == ["reshape", "reshape"]


def test_an_inner_value_that_is_returned_stays():
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = x.flatten(1)
        return flat, flat.reshape(-1, 2, 6)

    assert unchanged(SIMPLIFY, program(function, X)) == ["flatten has another user, output"]


def test_a_squeeze_of_a_dynamic_axis_stays():
    """In the trace the axis stays; at size 1 it goes. Only what reshapes its result may pass it by."""
    before = program(lambda x: x.squeeze(0).relu(), X, dynamic=True)
    assert unchanged(SIMPLIFY, before) == []
    before = program(lambda x: x.flatten(1).squeeze(0).relu(), X, dynamic=True)
    assert calls(applied(SIMPLIFY, before).program) == ["flatten", "squeeze", "relu"]
    before = program(lambda x: x.squeeze(0).reshape(-1, 12), X, dynamic=True)
    assert calls(simplified(before)) == ["reshape"]


def test_nothing_is_taken_for_the_result_of_a_dynamic_squeeze():
    """At batch 1 the squeezed value has no batch axis, the reshape of it has."""
    b = ProgramBuilder()
    x = b.input((b.batch, 1, 4))
    squeezed = b.call("aten.squeeze.dims", x, [0, 1])
    before = b.finish(b.call("aten.reshape", squeezed, [-1, 4]), b.call("aten.relu", squeezed))
    assert calls(simplified(before)) == ["squeeze", "reshape", "relu"]


def test_a_reinterpretation_of_bits_is_no_reshape():
    b = ProgramBuilder()
    x = b.input((3, 4))
    before = b.finish(b.call("aten.reshape", b.call("aten.view.dtype", x, torch.int32), [4, 3]))
    assert unchanged(SIMPLIFY, before) == []


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(0, 2, 1).reshape(-1, 12),
        lambda x: x.reshape(-1, 4, 3).permute(0, 2, 1),
        lambda x: x.unsqueeze(0).permute(1, 2, 0, 3).permute(0, 1, 3, 2).relu(),
        lambda x: x[:, :2].reshape(-1, 8),
        lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1).reshape(-1, 6, 4),
    ],
)
def test_moves_that_do_not_merge(function: Fn):
    before = program(function, X, dynamic=True)
    after = applied(SIMPLIFY, before).program
    at_sizes(before, after)
    assert calls(after)[-1] in calls(before)
    assert len(calls(after)) >= 2


def test_a_full_slice_does_not_hold_up_a_chain():
    def function(x):
        y = x.unsqueeze(1).permute(1, 0, 2, 3)
        return y.flatten(2).relu(), y[:, :, :].unsqueeze(1)

    before = program(function, X)
    after = applied(SIMPLIFY, before).program
    assert calls(after) == ["reshape", "relu", "reshape"]
    assert unchanged(SIMPLIFY, after) == []


def test_a_full_slice_goes_and_a_part_stays():
    before = program(lambda x: torch.ops.aten.slice.Tensor(x, 1, 0, 3).relu(), X, dynamic=True)
    assert calls(simplified(before)) == ["relu"]
    before = program(lambda x: torch.ops.aten.slice.Tensor(x, 1, 1, 3).relu(), X, dynamic=True)
    assert unchanged(SIMPLIFY, before) == []


def test_an_expansion_to_a_dynamic_size_keeps_it_when_merged():
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    row = b.weight((1, 4))
    wide = b.call("aten.expand", row, [b.call("aten.sym_size.int", x, 0), -1])
    before = b.finish(b.call("aten.expand", wide, [3, -1, -1]))
    assert calls(simplified(before)) == ["sym_size", "expand"]


def test_a_size_that_stays_is_not_read():
    before = program(lambda x: x.relu().expand(2, x.shape[0]), rand(3), dynamic=True)
    after = simplified(before)
    assert calls(after) == ["relu", "expand"]
    assert list(after.calls())[1].args[1] == [2, -1]


def test_sizes_that_the_program_returns():
    before = program(lambda x: (x.relu(), x.relu().shape[0] * 2), X, dynamic=True)
    after = simplified(before)
    assert after([torch.zeros(5, 3, 4)][0])[1] == 10  # type: ignore[index]


def test_refusals_say_why():
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = x.flatten(1)
        return flat.relu(), flat.reshape(-1, 2, 6)

    result = applied(SIMPLIFY, program(function, X))
    [refusal] = result.passes[0].refusals
    assert (refusal.rule, refusal.node) == ("merge-reshapes", "reshape")
    assert refusal.where
    assert reasons(result) == [refusal.reason]


def test_drawn_programs():
    shapes = ["reshape", "flatten", "permute", "squeeze", "unsqueeze", "expand", "unary", "binary", "repeat"]
    check_pass(SIMPLIFY, examples=25, families=shapes, min_fired=0.3, targets=())


def test_a_second_pass_after_identities_finds_nothing_new():
    before = program(lambda x: (x.flatten(1) * 1).reshape(-1, 3, 4), X, dynamic=True)
    once = PassManager.parse("eliminate-identities,simplify-reshapes").run(before).program
    assert calls(once) == []


def test_the_one_dynamic_size_is_inferred():
    b = ProgramBuilder()
    x = b.input((b.batch, 12))
    size = b.call("aten.sym_size.int", x, 0)
    before = b.finish(b.call("aten.reshape", x, [size, 3, 4]))
    result = applied(SIMPLIFY, before)
    assert [n.args[1] for n in result.program.calls()] == [[-1, 3, 4]]
    assert result.passes[0].rules == {"infer-size": 1}


def test_a_number_has_no_axis_that_a_squeeze_could_take():
    before = program(lambda x: x.sum().squeeze(0).reshape(1, 1).reshape(1), rand(2, 3))
    after = applied(SimplifyReshapes(), before).program
    assert calls(after) == ["sum", "reshape"]


def test_a_move_to_another_shape_is_refused():
    before = program(lambda x: x.reshape(3, 2).relu(), rand(2, 3)).copy()
    rewriter = Rewriter(before)
    (node,) = rewriter.nodes("aten.reshape")
    _replace(rewriter, node, "wrong", torch.ops.aten.reshape.default, node.args[0], [6])
    assert [r.reason for r in rewriter.refusals] == [
        "the merged call's shape is not known to be the same for all dynamic sizes"
    ]
    assert calls(before) == ["reshape", "relu"]
