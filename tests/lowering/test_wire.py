import io
import math

import pytest
import torch

from fxopt.lowering.tensors import pack, unpack, unpack_value
from fxopt.lowering.wire import Packed, read_frame, write_frame

TENSORS = {
    "plain": torch.randn(3, 4),
    "half": torch.randn(5).half(),
    "bfloat16": torch.randn(2, 2).bfloat16(),
    "float8": torch.randn(4).to(torch.float8_e4m3fn),
    "flags": torch.tensor([True, False]),
    "no dimension": torch.tensor(7),
    "empty": torch.zeros(0, 3, dtype=torch.int16),
    "transposed": torch.arange(6).reshape(2, 3).t(),
    "one element with strides": torch.arange(4.0).reshape(1, 2, 2)[:, :1].transpose(0, 2)[:1],
    "expanded": torch.ones(1).expand(4),
    "special": torch.tensor([math.nan, math.inf, -0.0]),
    "wants gradients": torch.randn(2, requires_grad=True),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_come_back(name: str):
    tensor = TENSORS[name].detach().clone(memory_format=torch.contiguous_format)
    again = unpack_value(pack(TENSORS[name]))
    assert isinstance(again, torch.Tensor)
    assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
    assert bytes(again.contiguous().reshape(-1).view(torch.uint8)) == bytes(
        tensor.reshape(-1).view(torch.uint8)
    )


def test_a_lone_element_of_a_larger_tensor_passes():
    value = torch.arange(12.0).reshape(1, 12)[:, 0]
    assert value.stride() == (12,)
    assert torch.equal(unpack(pack(value)), value)


def test_numbers_pass_as_they_are():
    assert [unpack_value(pack(v)) for v in (3, 2.5, True)] == [3, 2.5, True]
    with pytest.raises(TypeError, match="got str"):
        pack("x")


def test_a_result_can_be_written_to_whatever_it_came_in():
    for data in (bytes(8), bytearray(8), memoryview(bytes(8))):
        unpack(Packed("float32", (2,), data)).add_(1)


def test_frames_follow_one_another():
    pipe = io.BytesIO()
    values = [pack(t) for t in TENSORS.values()]
    write_frame(pipe, {"do": "run"}, [*values, 3, math.inf, True])
    write_frame(pipe, {"do": "close", "file": 2})
    pipe.seek(0)
    header, got = read_frame(pipe)
    assert header == {"do": "run"}
    assert got[-3:] == [3, math.inf, True]
    assert got[-1] is True
    for sent, received in zip(values, got, strict=False):
        assert isinstance(sent, Packed)
        assert isinstance(received, Packed)
        assert (sent.dtype, sent.shape, bytes(sent.data)) == (
            received.dtype,
            received.shape,
            bytes(received.data),
        )
    assert read_frame(pipe) == ({"do": "close", "file": 2}, [])


def test_nan_passes():
    pipe = io.BytesIO()
    write_frame(pipe, {}, [math.nan])
    pipe.seek(0)
    assert math.isnan(read_frame(pipe)[1][0])  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [0, 4, 8, 12, 40])
def test_a_closed_stream_is_told(cut: int):
    pipe = io.BytesIO()
    write_frame(pipe, {"do": "run"}, [pack(torch.zeros(3))])
    with pytest.raises(EOFError, match="closed"):
        read_frame(io.BytesIO(pipe.getvalue()[:cut]))


def test_a_stream_out_of_step_is_told():
    with pytest.raises(EOFError, match="out of step"):
        read_frame(io.BytesIO(b"Traceback (most recent call last)"))
