"""`io=int8`: which inputs and outputs become integers, and the numbers by which they do."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.analysis.ranges import Grid
from fxopt.errors import InputError, PipelineError
from fxopt.ops import fake_quantize
from fxopt.passes.quantize import _ends
from fxopt.passes.quantize._placement import placement_of
from fxopt.program import Program
from tests.passes.helpers import calls, program, rand, reasons

X, W = rand(8, 6), rand(4, 6, seed=1)


def rounded(before: Program, *data: object, **options: object) -> Program:
    text = ",".join(f"{k}={v}" for k, v in {"io": "int8", **options}.items())
    return fxopt.run_pipeline(before, f"insert-fake-quant{{{text}}}", calibration=list(data))


def marks(after: Program) -> dict[str, object]:
    signature = after.signature
    return {s.name: s.quantized for s in (*signature.tensor_inputs, *signature.computed_outputs)}


def test_inputs_and_outputs_are_rounded_and_marked() -> None:
    after = rounded(program(F.linear, X, weight=W), X)
    assert calls(after) == ["fake_quantize", "fake_quantize", "linear", "fake_quantize"]
    found = marks(after)
    for node, name in ((next(after.calls()), "args_0"), (after.output_nodes()[0], "output")):
        scale, zero = (after.weights[str(a.target)] for a in node.args[1:3])
        assert (found[name].scale, found[name].zero_point, found[name].kind) == (
            float(scale),
            int(zero),
            "uint8",
        )


def test_the_program_still_takes_and_gives_floats() -> None:
    after = rounded(program(F.linear, X, weight=W), X)
    assert after(X).dtype is torch.float32
    numbers = after.signature.outputs[0].quantized
    assert torch.equal(numbers.floats(numbers.integers(after(X))), after(X))


def test_without_it_nothing_is_marked() -> None:
    after = fxopt.run_pipeline(program(F.linear, X, weight=W), "insert-fake-quant", calibration=[X])
    assert set(marks(after).values()) == {None}
    assert after.output_nodes()[0].target is not fake_quantize


def test_all_readers_of_an_input_read_what_is_rounded() -> None:
    """A norm has no integer kernel; the input is an integer for it too."""
    after = rounded(program(lambda x, w: F.linear(x, w).sum(1) + F.layer_norm(x, [6]).sum(1), X, w=W), X)
    (node,) = after.placeholders()
    assert [u.target for u in node.users] == [fake_quantize]
    (read,) = node.users
    assert {str(u.target).split(".")[1] for u in read.users} == {"linear", "layer_norm"}


def test_a_model_without_integer_kernels() -> None:
    after = rounded(program(lambda x: x.tanh(), X), X)
    assert calls(after) == ["fake_quantize", "tanh", "fake_quantize"]


def test_an_input_that_is_returned() -> None:
    after = rounded(program(lambda x, w: (F.linear(x, w), x), X, w=W), X)
    found = marks(after)
    assert found["output_1"] == found["args_0"]
    assert after.output_nodes()[1] is next(iter(after.placeholders()[0].users))


def test_a_model_that_computes_nothing() -> None:
    with pytest.raises(PipelineError, match="the program computes nothing"):
        rounded(program(lambda x: x, X), X)


def test_some_stay_as_they_are() -> None:
    before = program(lambda x, y, w: (F.linear(x, w), F.linear(y, w)), X, X, w=W)
    after = rounded(before, (X, X), io_keep='["args_1","*_0"]')
    assert [name for name, m in marks(after).items() if m] == ["output_1"]


def test_a_pattern_that_fits_nothing() -> None:
    with pytest.raises(
        PipelineError, match="io_keep holds 'y', which fits no input and no output; they are args_0, output"
    ):
        rounded(program(F.linear, X, weight=W), X, io_keep="[y]")


def test_integer_inputs_stay_as_they_are() -> None:
    indices = torch.tensor([[0, 1], [2, 3]])
    after = rounded(
        program(lambda i, t, w: F.linear(F.embedding(i, t), w), indices, t=rand(4, 6), w=W), indices
    )
    assert marks(after)["args_0"] is None and marks(after)["output"]
    assert after.signature.tensor_inputs[0].dtype is torch.int64


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x, w: F.linear(x, w).argmax(1), "it is int64, not float32"),
        (lambda x, w: F.linear(x, w) > 0, "it is bool, not float32"),
        (lambda x, w: F.linear(x, w).double(), "it is float64, not float32"),
        (lambda x, w: (F.linear(x, w), x.shape[0])[1], "it is a number of sizes"),
        (lambda x, w: (F.linear(x, w), w)[1], "it is a weight"),
    ],
)
def test_an_output_that_cannot_be_integers(function, why: str) -> None:
    before = program(function, X, w=W, dynamic=True)
    name = before.signature.outputs[0].name
    with pytest.raises(
        PipelineError, match=f"the output '{name}' can't become 8-bit integers: {why}"
    ) as raised:
        rounded(before, X)
    assert f"io=int8,io_keep=[{name}]" in str(raised.value)


def test_it_stays_where_it_is_said_so() -> None:
    after = rounded(program(lambda x, w: F.linear(x, w).argmax(1), X, w=W), X, io_keep="[output]")
    assert [n for n, m in marks(after).items() if m] == ["args_0"]


def test_an_output_that_is_an_input_that_stays() -> None:
    with pytest.raises(PipelineError, match="it is an input that stays as it is"):
        rounded(program(lambda x, w: (F.linear(x, w), x), X, w=W), X, io_keep="[args_0]")


def test_state_stays_as_it_is() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            self.seen.add_(y.sum(0))
            return y

    before = fxopt.trace(Counter().eval(), (X,), state=True)
    after = rounded(before, {"x": X, "state.seen": torch.zeros(4)})
    assert [n for n, m in marks(after).items() if m] == ["x", "output"]


def test_a_mask_that_is_an_input_stays_as_it_is() -> None:
    mask = torch.tensor([0.0, -1e9, 0.0, 0.0])
    before = program(lambda x, m, w: (F.linear(x, w) + m).softmax(1), X, mask, w=W)
    manager = fxopt.PassManager.parse("insert-fake-quant{io=int8,coverage=full}")
    run = manager.run(before, calibration=[(X, mask)])
    found = marks(run.program)
    assert found["args_1"] is None and found["args_0"] and found["output"]
    assert [r for r in reasons(run) if "it holds a mask" in r]


def test_an_output_that_holds_a_mask() -> None:
    mask = torch.tensor([0.0, -1e9, 0.0, 0.0])
    before = program(lambda x, m, w: F.linear(x, w) + m, X, mask, w=W)
    with pytest.raises(InputError, match="the output 'output' can't become integers: it holds a mask"):
        rounded(before, (X, mask))


def test_what_calibration_never_ran() -> None:
    before = program(F.linear, X, weight=W, dynamic=True)
    with pytest.raises(
        InputError, match="the output 'output' can't become integers: calibration never ran it"
    ):
        rounded(before, torch.zeros(0, 6))


def test_the_integers_are_the_placement_s() -> None:
    after = rounded(program(F.linear, X, weight=W), X, placement="onnx:mobile")
    found = marks(after)
    assert {m.kind for m in found.values()} == {"int8"} and {m.zero_point for m in found.values()} == {0}


def test_a_placement_without_8_bit_activations() -> None:
    narrow = dataclasses.replace(placement_of("generic"), name="narrow", activations=Grid(4, signed=False))
    before = program(F.linear, X, weight=W)
    with pytest.raises(PipelineError, match="the placement narrow has no 8-bit activations"):
        _ends.mark_integers(before, _ends.Ends(), {}, narrow)


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8-weights", "int4-weights"])
def test_schemes_without_fixed_ranges(scheme: str) -> None:
    with pytest.raises(
        PipelineError, match=f"io=int8 needs ranges that are fixed: scheme=int8, not {scheme}"
    ):
        fxopt.PassManager.parse(f"{scheme}{{io=int8}}")


def test_later_passes_keep_the_marks() -> None:
    before = program(F.linear, X, weight=W)
    after = fxopt.run_pipeline(before, "int8{io=int8},gptq", calibration=[X])
    assert all(marks(after).values())
