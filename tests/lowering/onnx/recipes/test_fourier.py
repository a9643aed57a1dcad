"""Short-time transforms by frames against torch's; whole models stand in tests/lowering/onnx/rules/test_complex.py."""

import pytest
import torch

from fxopt.lowering.onnx.recipes import RecipeError, find_recipe
from tests.lowering.onnx.recipes.harness import agrees

aten = torch.ops.aten
X = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
WINDOW = torch.hann_window(6) + 0.1


def test_stft_by_frames() -> None:
    agrees(aten.stft.default, X, 8, None, None, torch.ones(8), False, None, True)
    agrees(aten.stft.default, X, 8, 3, 6, WINDOW, True, False, True)
    agrees(aten.stft.default, X, 8, 3, 5, torch.ones(5), False, True, False)
    agrees(aten.stft.default, X[0], 7, None, None, torch.ones(7), False, None, True)
    agrees(aten.stft.default, torch.complex(X, X.flip(0)), 8, 2, None, torch.ones(8), False, None, True)
    torch.testing.assert_close(
        find_recipe("aten.stft.default")(X, 8, return_complex=True),
        torch.stft(X, 8, window=torch.ones(8), center=False, return_complex=True),
    )


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("length", [None, 20, 60])
def test_istft_by_frames(center: bool, length: int | None) -> None:
    spectra = torch.stft(X, 6, 2, window=WINDOW, center=center, return_complex=True)
    agrees(aten.istft.default, spectra, 6, 2, None, WINDOW, center, False, None, length)
    agrees(aten.istft.default, spectra[0], 6, 2, 6, WINDOW, center, True, True, length)
    both = torch.stft(X, 8, 2, 6, window=WINDOW, center=center, onesided=False, return_complex=True)
    agrees(aten.istft.default, both[..., 1:-1], 8, 2, 6, WINDOW, True, False, False)


def test_what_is_not_offered() -> None:
    with pytest.raises(RecipeError, match="aligned to the window"):
        find_recipe("aten.stft.default")(X, 8, align_to_window=True)
    with pytest.raises(RecipeError, match="complex signal"):
        find_recipe("aten.istft.default")(X.reshape(2, 5, 6), 8, return_complex=True)
