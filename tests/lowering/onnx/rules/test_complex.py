"""Complex values inside a model against torch."""

import pytest
import torch

from fxopt import LoweringError, lower, trace
from tests.lowering.onnx.harness import Apply, Case, check

X = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary embedding as DeepSeek and the first Llama have it."""
    angle = torch.outer(torch.arange(x.shape[1]).float(), 10000.0 ** -torch.arange(x.shape[-1] // 2).float())
    turn = torch.polar(torch.ones_like(angle), angle)
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn[None, :, None]).flatten(3).type_as(x)


def parts(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    z = torch.complex(x[..., :3], x[..., 3:])
    w = (z.permute(0, 2, 1, 3) * z.permute(0, 2, 1, 3).conj()).select(2, 0)
    return z.abs(), (z * x[..., :3]).real, w.imag, (2.5 * z)[:, 1:3].imag


FUNCTIONS = {
    "rotated": rotated,
    "rotated-half": lambda x: rotated(x.half()),
    "parts": parts,
    "fnet": lambda x: torch.fft.fftn(x, dim=(2, 3)).real,
    "fft": lambda x: torch.fft.fft(x, dim=1, norm="ortho").imag,
    "there-and-back": lambda x: torch.fft.ifft2(torch.fft.fft2(x) * 2).real,
    "forward": lambda x: torch.fft.ifft(torch.fft.fft(x, norm="forward"), norm="forward").abs(),
    "spectrum": lambda x: torch.fft.rfft(x).abs(),
    "double": lambda x: torch.view_as_real(torch.fft.fft(x.double())),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_complex_values_inside(name: str) -> None:
    check(Case(name, FUNCTIONS[name], (X,)))


@pytest.mark.parametrize(
    "function", [torch.view_as_complex, lambda x: torch.exp(torch.view_as_complex(x)).real]
)
def test_complex_outputs_and_ops_without_a_rule_are_refused(function) -> None:
    with pytest.raises(LoweringError, match=r"complex64 has no counterpart|has no rule for aten.exp"):
        lower(trace(Apply(function), (X[..., :2].contiguous(),)), "onnx")


def test_a_transform_over_a_size_that_varies_is_refused() -> None:
    program = trace(
        Apply(lambda x: torch.fft.fft(x, dim=0).real), (X,), dynamic_shapes={"inputs": ({0: "n"},)}
    )
    with pytest.raises(LoweringError, match="size of axis 0 must be fixed"):
        lower(program, "onnx")
