"""Programs become small and still fail in the same way."""

import torch
from torch import nn

from fxopt.diagnosis import call_count, reduce_program
from fxopt.dialect import violations
from fxopt.frontend import trace
from fxopt.ops import op_key
from fxopt.program import Program
from fxopt.verification import evaluate, sample_inputs
from tests.diagnosis.broken_passes import chain, net
from tests.zoo import dynamic_batch, model


def has(program: Program, *ops: str) -> bool:
    """Whether the ops are called in a row, each on what the one before gives."""
    keys = {n: op_key(n.target).split(".")[1] for n in program.calls()}
    last = [n for n, key in keys.items() if key == ops[-1]]
    for op in reversed(ops[:-1]):
        last = [i for n in last for i in n.all_input_nodes if keys.get(i) == op]
    return bool(last)


def runs(program: Program) -> None:
    assert list(violations(program, values=True)) == []
    for sample in sample_inputs(program.signature):
        evaluate(program, sample.tensors)


def test_what_is_left_is_what_is_needed():
    reduction = reduce_program(net(), lambda p: has(p, "tanh", "relu"))
    runs(reduction.program)
    assert [op_key(n.target) for n in reduction.program.calls()] == [
        "aten.tanh.default",
        "aten.relu.default",
    ]
    assert str(reduction.program.signature.inputs[0]).endswith("f32[1, 1]")
    assert not reduction.program.weights and not reduction.program.signature.symbols
    assert reduction.complete and reduction.tried < 120


def test_the_largest_that_passes_is_kept():
    reduction = reduce_program(net(), lambda p: has(p, "gelu"))
    assert reduction.passing is not None and not has(reduction.passing, "gelu")
    assert call_count(reduction.passing) >= 2


def test_a_dynamic_size_stays_where_it_matters():
    def dynamic(program: Program) -> bool:
        return has(program, "gelu") and bool(program.signature.symbols)

    reduction = reduce_program(net(), dynamic)
    assert str(reduction.program.signature.inputs[0]).endswith("f32[batch, 1]")
    assert call_count(reduction.program) == 1


def test_both_outputs_stay_where_both_matter():
    program = net()
    reduction = reduce_program(program, lambda p: len(p.signature.outputs) == 2 and has(p, "softmax"))
    assert call_count(reduction.program) <= 2


def test_sizes_shrink_together():
    """Channels, heads and what is made of them: 24 features are 4 heads of 6."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, activation="gelu").eval()
    program = trace(layer, (torch.randn(2, 5, 24),), dynamic_shapes=[{0: "batch"}])
    reduction = reduce_program(program, lambda p: has(p, "linear", "gelu", "linear"))
    runs(reduction.program)
    assert call_count(reduction.program) == 3
    assert sum(t.numel() for t in reduction.program.weights.values()) <= 4


def test_weights_become_plain_unless_they_matter():
    def odd(program: Program) -> bool:
        return any(bool((t == 0.5).any()) for t in program.weights.values()) and has(program, "linear")

    linear = nn.Linear(8, 8)
    with torch.no_grad():
        linear.weight[0, 0] = 0.5
    program = chain(linear, nn.ReLU(), nn.Linear(8, 8))
    reduction = reduce_program(program, odd)
    assert call_count(reduction.program) == 1
    kept = [t for t in reduction.program.weights.values() if bool((t == 0.5).any())]
    assert len(kept) == 1 and all(
        torch.equal(t, torch.zeros_like(t)) for t in reduction.program.weights.values() if t is not kept[0]
    )


def test_the_program_given_stays_as_it_is():
    program = net()
    before = str(program)
    reduce_program(program, lambda p: has(p, "gelu"))
    assert str(program) == before


def test_time_runs_out():
    reduction = reduce_program(net(), lambda p: has(p, "gelu"), seconds=0.0)
    assert not reduction.complete and call_count(reduction.program) == call_count(net())


def test_a_convolution_in_a_network():
    module, args = model("unet")
    program = trace(module, args, dynamic_shapes=dynamic_batch(args))
    reduction = reduce_program(program, lambda p: has(p, "conv2d", "batch_norm", "relu"))
    runs(reduction.program)
    assert call_count(reduction.program) == 3
    assert sum(t.numel() for t in reduction.program.weights.values()) <= 24
