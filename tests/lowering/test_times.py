"""The times of an artifact's kernels: which kernels there are and what they are named after; no clock is judged."""

import pytest
import torch
import torch.nn.functional as F

import fxopt
from fxopt.lowering.eager.flat import flat_function, step_times
from fxopt.lowering.integers import with_integer_weights
from fxopt.lowering.kernels.packing import why_not
from fxopt.lowering.onnx.times import _laps
from fxopt.lowering.times import NodeTime, medians
from fxopt.program import Program
from tests.passes.helpers import program, rand

X = rand(8, 6)


def rounded(target: str) -> Program:
    def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(F.silu(F.linear(x, w)), v)

    before = program(net, X, dynamic=True, w=rand(6, 6, seed=1), v=rand(4, 6, seed=2))
    return fxopt.run_pipeline(before, "int8", calibration=[X], target=target)


def named(after: Program, target: str) -> list[tuple[str, str]]:
    artifact = fxopt.lower(after, target)
    calls = {n.name for n in after.calls()}
    nodes = artifact.node_times([X], frozenset(calls))
    assert all(n.seconds >= 0 and n.name in {*calls, ""} for n in nodes)
    return [(n.name, n.kernel) for n in nodes]


def linears(after: Program) -> list[str]:
    return [n.name for n in after.calls() if n.target is torch.ops.aten.linear.default]


def test_onnxruntime_s_kernels_are_named_after_the_calls() -> None:
    pytest.importorskip("onnxruntime")
    after = rounded("onnx")
    found = named(after, "onnx")
    assert [(n, "QGemm") for n in linears(after)] == [f for f in found if f[1] == "QGemm"]
    assert {"QuickGelu", "QuantizeLinear"} <= {kernel for _, kernel in found}
    assert len(found) == len(set(found)), "each kernel once, whatever the number of runs"


@pytest.mark.skipif(bool(why_not("linear")), reason="needs integer kernels")
def test_torch_s_kernels_are_named_after_the_calls() -> None:
    after = rounded("eager")
    found = named(after, "eager")
    first, second = linears(after)
    kernel = "quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default"
    assert (first, kernel) in found and (second, kernel) in found
    assert "aten.silu.default" in {k for _, k in found}


def test_a_clock_leaves_the_function_as_it_is() -> None:
    after = with_integer_weights(rounded("eager"))
    before = flat_function(after)(X)[0]
    assert step_times(after, [X])
    assert torch.equal(flat_function(after)(X)[0], before)


def test_torchscript_does_not_tell() -> None:
    assert named(rounded("torchscript"), "torchscript") == []


def test_the_middle_of_several_runs_counts() -> None:
    laps = [("a", "conv", "Conv", t) for t in (9.0, 1.0, 2.0)] + [("b", "conv", "Relu", 5.0)]
    assert medians(laps) == [NodeTime("conv", "Conv", 2.0), NodeTime("conv", "Relu", 5.0)]


def test_events_of_a_profile() -> None:
    def event(name: str, cat: str = "Node") -> dict[str, object]:
        return {"cat": cat, "name": name, "dur": 2000, "args": {"op_name": "Conv"}}

    events = [event("conv_1/Conv_token_3_kernel_time"), event("Transpose_kernel_time"),
              event("conv_1/Conv_fence_before"), event("model_run_kernel_time", "Session")]  # fmt: skip
    assert list(_laps(events, frozenset({"conv_1"}))) == [
        ("conv_1/Conv_token_3_kernel_time", "conv_1", "Conv", 0.002),
        ("Transpose_kernel_time", "", "Conv", 0.002),
    ]


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("QLinearConv", "integers"), ("QGemm", "integers"), ("MatMulIntegerToFloat", "integers"),
        ("quantized.conv2d_relu.new", "integers"), ("QuantizeLinear", "rounding"),
        ("aten.quantize_per_tensor.default", "rounding"), ("aten.dequantize.self", "rounding"),
        ("Transpose", "moves"), ("FusedConv", "floats"), ("aten.silu.default", "floats"), ("Gemm", "floats"),
    ],
)  # fmt: skip
def test_kinds(kernel: str, kind: str) -> None:
    assert NodeTime("", kernel, 0.0).kind == kind
