"""fxopt's own ops: rounding to integers and back."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from fxopt.ops import dequantize, fake_quantize, round_blocks

scales = st.floats(2.0**-20, 2.0**10, width=32)


def onnx_pair(x: torch.Tensor, scale: float, zero_point: int, kind: int) -> np.ndarray:
    """ONNX's QuantizeLinear and DequantizeLinear."""
    dtype = {TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8}[kind]
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]  # fmt: skip
    constants = [
        onnx.numpy_helper.from_array(np.array(scale, np.float32), "s"),
        onnx.numpy_helper.from_array(np.array(zero_point, dtype), "z"),
    ]
    x_info, y_info = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy")
    graph = helper.make_graph(nodes, "g", [x_info], [y_info], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    return ReferenceEvaluator(model).run(None, {"x": x.numpy()})[0]


@given(scales, st.integers(0, 255), st.integers(0, 2**31))
def test_as_onnx_does_it(scale: float, zero_point: int, seed: int) -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * scale * 100
    x = torch.cat([x, torch.tensor([0.0, 0.5, 1.5, -0.5, 1e6, -1e6]) * scale])
    got = fake_quantize(x, torch.tensor(scale), torch.tensor(zero_point), 0, 255)
    assert np.array_equal(got.numpy(), onnx_pair(x, scale, zero_point, TensorProto.UINT8))
    got = fake_quantize(x, torch.tensor(scale), torch.tensor(zero_point - 128), -128, 127)
    assert np.array_equal(got.numpy(), onnx_pair(x, scale, zero_point - 128, TensorProto.INT8))


def test_a_scale_a_channel() -> None:
    w = torch.tensor([[1.0, -2.0, 0.3], [10.0, 20.0, -127.0]])
    scale = torch.tensor([[2 / 127], [1.0]])
    got = fake_quantize(w, scale, torch.tensor(0), -128, 127)
    rows = [fake_quantize(w[i], scale[i], torch.tensor(0), -128, 127) for i in range(2)]
    assert torch.equal(got, torch.stack(rows))
    q = torch.round(w / scale).to(torch.int8)
    assert torch.equal(dequantize(q, scale, torch.tensor(0)), got)


def test_gradients_go_straight_through_within_the_range() -> None:
    x = torch.tensor([-1.0, 0.1, 20.0, 30.0], requires_grad=True)
    y = fake_quantize(x, torch.tensor(0.1), torch.tensor(0), 0, 255)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_other_dtypes_and_meta() -> None:
    scale, zero = torch.tensor(0.5), torch.tensor(0)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        got = fake_quantize(torch.ones(3, dtype=dtype) * 0.7, scale, zero, -128, 127)
        assert got.dtype is dtype
        assert got.tolist() == [0.5] * 3
    assert fake_quantize(torch.ones(2, 3, device="meta"), scale, zero, 0, 255).shape == (2, 3)
    assert fake_quantize(torch.ones(0, 3), scale, zero, 0, 255).shape == (0, 3)


def test_integers_are_no_input() -> None:
    with pytest.raises(TypeError, match="floating-point"):
        fake_quantize(
            torch.ones(2, dtype=torch.int64, device="meta"), torch.tensor(0.5), torch.tensor(0), 0, 255
        )


def test_blocks_are_rounded_by_their_own_largest_magnitude() -> None:
    x = torch.tensor([[1.27, 0.004, -2.54, 0.011], [0.0, 0.0, 127.0, 0.5]])
    got = round_blocks(x, x.reshape(2, 2, 2).abs().amax(-1), 127)
    assert torch.allclose(got, torch.tensor([[1.27, 0.0, -2.54, 0.02], [0.0, 0.0, 127.0, 0.0]]), atol=1e-6)
    assert round_blocks(torch.zeros(0, 4), torch.zeros(0, 2), 127).shape == (0, 4)


def test_gradients_pass_straight_through_blocks() -> None:
    x = torch.randn(2, 4, requires_grad=True)
    (round_blocks(x, torch.ones(2, 2), 7) * torch.arange(4.0)).sum().backward()
    assert torch.equal(x.grad, torch.arange(4.0).expand(2, 4))


@pytest.mark.parametrize(
    ("x", "error", "why"),
    [
        (torch.ones(3, 5), RuntimeError, "3, 5. has no blocks of which"),
        (torch.ones(()), RuntimeError, "has no blocks"),
        (torch.ones(4, dtype=torch.int64), TypeError, "floating-point"),
    ],
)
def test_what_has_no_blocks(x: torch.Tensor, error: type[Exception], why: str) -> None:
    with torch._subclasses.FakeTensorMode() as mode, pytest.raises(error, match=why):
        round_blocks(mode.from_tensor(x), mode.from_tensor(torch.ones(3, 2)), 127)
