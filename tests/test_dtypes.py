"""Each dtype on every target, with a batch that may be empty, 1 or huge; complex numbers get a clear error."""

import contextlib

import pytest
import torch
from torch import Tensor, nn

import fxopt

TARGETS = ("eager", "torchscript", "onnx")
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Whole(nn.Module):
    """Arithmetic, order and choice among integers."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = x * 2 + 3
        return (
            (y - x).clamp(1, 60),
            torch.where(x > y, x, y),
            torch.cat([x, y], 1).amax(1),
            x.sum(1),
            x // 3,
            x % 5,
            y.argmax(1),
            x.sort(1)[0],
            x.float().mean(1),
            x.unsqueeze(1).expand(-1, 2, -1).flatten(1),
            x == y,
        )


class Logic(nn.Module):
    """Masks."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        turned = ~x
        return (
            x & turned[:, :1],
            x | turned.flip(1),
            x ^ turned[:, 1:2],
            x.any(1),
            x.all(1),
            x.sum(1),
            x.float(),
            torch.where(x, 1, -1),
            torch.cat([x, turned], 1),
            x.cumsum(1),
            x.long().argmax(1),
        )


class Layers(nn.Module):
    """What a model of one float dtype is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5)
        self.register_buffer("table", torch.randn(4, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = nn.functional.silu(self.norm(self.first(x)))
        z = self.second(y).softmax(-1)
        return (
            z,
            (x @ self.table.t()).tanh().sum(1),
            x.amax(1),
            (z > 0.2).to(x.dtype).mean(1),
            x.round().long(),
        )


def made(dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if dtype.is_floating_point:
            return Layers().eval().to(dtype), torch.randn(3, 6).to(dtype)
        x = torch.randint(0, 50, (3, 6))
        return (Logic(), x % 2 == 0) if dtype is torch.bool else (Whole(), x.to(dtype))


@pytest.mark.filterwarnings("ignore:the model goes another way")  # with an empty batch
@pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS, *FLOATS], ids=str)
def test_a_model_of_one_dtype(dtype: torch.dtype):
    model, x = made(dtype)
    static = fxopt.trace(model, (x,))
    dynamic = fxopt.trace(model, (x,), dynamic_shapes={"x": {0: "batch"}})
    tolerance = {torch.float16: 2e-2, torch.bfloat16: 1e-1}.get(dtype)
    for target in TARGETS:
        assert str(fxopt.lower(static, target).report.verdict) == "equivalent"
        artifact = fxopt.lower(dynamic, target)
        assert str(artifact.report.verdict) == "equivalent"
        for batch in (0, 1, 5000):
            given = x[torch.arange(batch) % 3]
            for got, expected in zip(artifact(given), model(given), strict=True):
                torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("target", TARGETS)
def test_what_raises_with_an_empty_batch_may_raise(target: str):
    class Largest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.amax(0)

    x = torch.randn(3, 4)
    artifact = fxopt.lower(fxopt.trace(Largest().eval(), (x,), dynamic_shapes={"x": {0: "batch"}}), target)
    assert artifact(x[:1]).shape == (1, 4)
    with pytest.raises(IndexError):
        Largest()(x[:0])
    with contextlib.suppress(fxopt.FxoptError, IndexError, RuntimeError):  # as the model
        assert artifact(x[:0]).shape == (0, 4)


def test_complex_numbers_get_a_clear_error():
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.polar(x.abs(), x)

    x = torch.randn(3, 4)
    with pytest.raises(fxopt.FxoptError, match="complex"):
        fxopt.trace(nn.Identity(), (x + 1j,))
    with pytest.raises(fxopt.FxoptError, match="complex"):
        fxopt.lower(fxopt.trace(Turned().eval(), (x,)), "onnx")
