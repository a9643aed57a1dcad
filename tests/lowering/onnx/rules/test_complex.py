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
    "longer": lambda x: torch.view_as_real(torch.fft.fft(x, n=9, dim=-1)),
    "shorter": lambda x: torch.view_as_real(torch.fft.ifft(torch.fft.fft(x), n=4, norm="ortho")),
    "rfft-odd": lambda x: torch.view_as_real(torch.fft.rfft(x, n=5)),
    "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x)),
    "irfft-odd": lambda x: torch.fft.irfft(torch.fft.fft(x), n=7, norm="ortho"),
    "irfft-longer": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=2), n=12, dim=2, norm="forward"),
    "rfftn": lambda x: torch.view_as_real(torch.fft.rfftn(x, dim=(1, 3))),
    "irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=(4, 6)),
    "hermitian": lambda x: torch.fft.hfft(torch.fft.ihfft(x)),
    "hermitian-2": lambda x: torch.fft.hfft2(torch.fft.ihfft2(x, norm="ortho"), norm="ortho"),
    "shifted": lambda x: torch.fft.fftshift(torch.fft.rfft(x).abs(), dim=-1),
    "sum": lambda x: (torch.fft.fft(x) + torch.fft.ifft(x) - (-torch.fft.fft(x, norm="ortho"))).imag,
    "transposed": lambda x: torch.view_as_real(torch.fft.fft(x).transpose(-1, 1)),
    "cast": lambda x: torch.view_as_real(
        torch.fft.fft(x.double()).to(torch.complex64) + x.to(torch.complex64)
    ),
    "double": lambda x: torch.view_as_real(torch.fft.fft(x.double())),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_complex_values_inside(name: str) -> None:
    check(Case(name, FUNCTIONS[name], (X,)))


def windowed(x: torch.Tensor, **options: object) -> torch.Tensor:
    return torch.stft(x[:, 0].flatten(1), 8, window=torch.hann_window(8), return_complex=True, **options)


SHORT_TIME = {
    "stft": lambda x: windowed(x).abs(),
    "stft-plain": lambda x: torch.view_as_real(
        torch.stft(x[0, 0].flatten(), 8, hop_length=3, win_length=6, window=torch.ones(6), center=False,
                   normalized=True, onesided=False, return_complex=True)
    ),
    "istft": lambda x: torch.istft(windowed(x), 8, window=torch.hann_window(8)),
    "istft-length": lambda x: torch.istft(
        windowed(x, hop_length=3, normalized=True), 8, 3, window=torch.hann_window(8), normalized=True, length=20
    ),
    "istft-longer": lambda x: torch.istft(windowed(x), 8, window=torch.hann_window(8), length=30),
    "istft-ends": lambda x: torch.istft(
        windowed(x, center=False), 8, window=torch.hann_window(8) + 0.1, center=False
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*istft will require the input window")
@pytest.mark.parametrize("name", SHORT_TIME)
def test_short_time_transforms(name: str) -> None:
    check(Case(name, SHORT_TIME[name], (X,), fixed=name == "stft-plain"))


def test_a_spectrum_of_a_signal_of_any_length() -> None:
    x = torch.randn(2, 40)
    function = Apply(lambda x: torch.stft(x, 8, window=torch.hann_window(8), return_complex=True).abs())
    program = trace(function, (x,), dynamic_shapes={"inputs": ({0: "batch", 1: "length"},)})
    artifact = lower(program, "onnx")
    y = torch.randn(3, 61)
    torch.testing.assert_close(artifact(y), function(y), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "function", [torch.view_as_complex, lambda x: torch.exp(torch.view_as_complex(x)).real]
)
def test_complex_outputs_and_ops_without_a_rule_are_refused(function) -> None:
    with pytest.raises(LoweringError, match=r"complex64 has no counterpart|has no rule for aten.exp"):
        lower(trace(Apply(function), (X[..., :2].contiguous(),)), "onnx")


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: torch.add(torch.fft.fft(x), torch.fft.fft(x), alpha=2).abs(), "without alpha"),
        (lambda x: (torch.fft.fft(x) + x).abs(), "only two complex values"),
        (
            lambda x: torch.nn.functional.pad(torch.fft.fft(x), (1, 1), value=2.0).abs(),
            "another value than 0",
        ),
        (lambda x: torch.nn.functional.pad(torch.fft.fft(x), (1, -1)).abs(), "another value than 0"),
        (lambda x: torch.fft.fft(x).to(torch.float32), "a complex value as a real one"),
        (
            lambda x: torch.stft(
                x[:, 0].flatten(1),
                8,
                center=False,
                window=torch.ones(8),
                align_to_window=True,
                return_complex=True,
            ).abs(),
            "aligned to the window",
        ),
        (
            lambda x: (
                torch.istft(
                    torch.fft.fft(x[:, 0]), 4, window=torch.ones(4), onesided=False, return_complex=True
                ).real
            ),
            "a complex signal",
        ),
    ],
)
def test_what_is_not_offered_is_told(function, why: str) -> None:
    with pytest.raises(LoweringError, match=why):
        lower(trace(Apply(function), (X,)), "onnx")


def test_a_transform_over_a_size_that_varies_is_refused() -> None:
    program = trace(
        Apply(lambda x: torch.fft.fft(x, dim=0).real), (X,), dynamic_shapes={"inputs": ({0: "n"},)}
    )
    with pytest.raises(LoweringError, match="size of axis 0 must be fixed"):
        lower(program, "onnx")
