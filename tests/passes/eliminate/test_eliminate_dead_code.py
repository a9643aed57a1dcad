"""eliminate-dead-code: what nothing uses goes, what has an effect stays."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxopt.passes.eliminate.eliminate_dead_code import EliminateDeadCode
from fxopt.program import Program
from fxopt.testing import ProgramBuilder, check_pass
from tests.passes.helpers import applied, calls, unchanged

DCE = EliminateDeadCode()


def builder() -> tuple[ProgramBuilder, object]:
    b = ProgramBuilder()
    return b, b.input((b.batch, 4))


def test_before_and_after():
    b, x = builder()
    b.call("aten.relu", x)
    after = applied(DCE, b.finish(b.call("aten.tanh", x))).program
    assert calls(after) == ["tanh"]


def test_a_chain_goes_in_one_run_with_its_weights():
    b, x = builder()
    y = b.call("aten.linear", x, b.weight((4, 4)), b.weight((4,)))
    for op in ("relu", "exp", "neg"):
        y = b.call(f"aten.{op}", y)
    after = applied(DCE, b.finish(b.call("aten.tanh", x))).program
    assert calls(after) == ["tanh"]
    assert not after.weights
    assert not after.weight_nodes()


def test_a_weight_that_another_call_uses_stays():
    b, x = builder()
    w = b.weight((4, 4))
    b.call("aten.linear", x, w, None)
    after = applied(DCE, b.finish(b.call("aten.matmul", x, w))).program
    assert list(after.weights) == ["w0"]


def test_a_weight_that_nothing_uses_goes_with_its_other_names():
    b, x = builder()
    b.weight((4, 4))
    before = b.finish(b.call("aten.tanh", x))
    before.ties["alias"] = "w0"
    after = applied(DCE, before).program
    assert not after.weights
    assert not after.ties
    assert before.ties == {"alias": "w0"}


@pytest.mark.parametrize(
    "call",
    [
        lambda b, x: b.call("aten.dropout", x, 0.5, False),
        lambda b, x: b.call("aten.scaled_dot_product_attention", x, x, x, None, 0.0, False),
        lambda b, x: b.call(
            "aten.batch_norm", x, None, None, b.weight((4,)), b.weight((4,)), False, 0.1, 1e-5, True
        ),
        lambda b, x: b.call("aten.sym_size.int", x, 0),
        lambda b, x: b.call("aten.topk", x, 2),
        lambda b, x: b.call("aten.arange", b.call("aten.sym_size.int", x, 0)),
    ],
)
def test_pure_calls_that_torch_takes_for_impure_ones(call):
    b, x = builder()
    call(b, x)
    assert calls(applied(DCE, b.finish(b.call("aten.tanh", x))).program) == ["tanh"]


def test_inputs_stay():
    b = ProgramBuilder()
    x, unused = b.input((3, 4)), b.input((2, 2))
    before = b.finish(b.call("aten.tanh", x))
    assert unchanged(DCE, before) == []
    assert unused.name in {n.name for n in before.placeholders()}


def test_what_is_returned_stays():
    b, x = builder()
    assert unchanged(DCE, b.finish(b.call("aten.relu", x), b.call("aten.sum", x))) == []


def test_one_result_of_several_keeps_the_call():
    b, x = builder()
    import operator

    top = b.call("aten.topk", x, 2)
    values, _ = b.call(operator.getitem, top, 0), b.call(operator.getitem, top, 1)
    assert calls(applied(DCE, b.finish(values)).program) == ["topk", "getitem"]


def test_an_op_of_a_user_that_writes_stays():
    library = torch.library.Library("fxopt_dce_test", "DEF")
    library.define("log(Tensor(a!) x) -> ()")
    library.define("pure(Tensor x) -> Tensor")
    for key in ("CPU", "Meta"):
        library.impl("log", lambda x: None, key)
    library.impl("pure", torch.clone, "CPU")
    library.impl("pure", torch.empty_like, "Meta")
    try:
        before = _with_call(torch.ops.fxopt_dce_test.log.default)
        after = _run(before)
        assert "log" in calls(after)
        assert "pure" not in calls(_run(_with_call(torch.ops.fxopt_dce_test.pure.default)))
    finally:
        library._destroy()


def _with_call(op: torch._ops.OpOverload) -> Program:
    """A program that calls an op and does not use its result; the dialect would refuse one that writes."""
    b, x = builder()
    program = b.finish(b.call("aten.tanh", x))
    output = program.graph.output_node()
    with program.graph.inserting_before(output):
        node = program.graph.call_function(op, (program.placeholders()[0],))
    node.meta = {"val": None, "origins": next(program.calls()).meta["origins"]}
    return program


def _run(before: Program) -> Program:
    from fxopt.rewriting import Rewriter

    after = before.copy()
    DCE.run(Rewriter(after))
    return after


def test_a_model_with_an_unused_head():
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.unused = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.body(x)
            F.softmax(self.unused(y), -1)
            return self.head(y)

    from tests.passes.helpers import program

    after = applied(DCE, program(TwoHeads(), torch.zeros(2, 4), dynamic=True)).program
    assert calls(after) == ["linear", "linear"]
    assert len(after.weights) == 4


def test_drawn_programs():
    check_pass(DCE, examples=10, min_fired=0.0, targets=())
