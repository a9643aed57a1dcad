"""Short-time Fourier transforms: frames, a window, the transform of each; and back by adding what overlaps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fxopt.lowering.onnx.recipes import RecipeError, recipe
from fxopt.lowering.onnx.recipes.parts import irfft

__all__: list[str] = []


def _window(window: Tensor | None, like: Tensor, n_fft: int, win_length: int | None) -> Tensor:
    """The window in the middle of a frame."""
    length = n_fft if win_length is None else win_length
    dtype = torch.view_as_real(like).dtype if like.is_complex() else like.dtype
    window = torch.ones(length, dtype=dtype, device=like.device) if window is None else window
    left = (n_fft - length) // 2
    return F.pad(window, (left, n_fft - length - left))


@recipe("aten.stft.default")
def stft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Tensor:
    """Spectra of a signal's frames, [..., frequencies, frames]."""
    if align_to_window:
        raise RecipeError("frames that are aligned to the window")
    whole = x.is_complex() or onesided is False
    frames = x.unfold(-1, n_fft, n_fft // 4 if hop_length is None else hop_length)
    frames = frames * _window(window, x, n_fft, win_length)
    norm = "ortho" if normalized else "backward"
    spectra = torch.fft.fft(frames, norm=norm) if whole else torch.fft.rfft(frames, norm=norm)
    spectra = spectra.transpose(-1, -2)
    return spectra if return_complex else torch.view_as_real(spectra)


@recipe("aten.istft.default")
def istft(
    spectra: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """The signal whose frames have these spectra: their sum, by the sum of the squared windows."""
    if return_complex:
        raise RecipeError("a complex signal")
    hop = n_fft // 4 if hop_length is None else hop_length
    shape = _window(window, spectra, n_fft, win_length)
    half = spectra.transpose(-1, -2)[..., : n_fft // 2 + 1]
    frames = irfft(half, n_fft, norm="ortho" if normalized else "backward") * shape
    count = frames.shape[-2]
    places = (torch.arange(count, device=frames.device) * hop)[:, None] + torch.arange(
        n_fft, device=frames.device
    )
    total = n_fft + hop * (count - 1)
    signal = _overlapped(frames, places, total)
    weight = _overlapped((shape * shape).expand(count, n_fft), places, total)
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else total - start
    signal = signal[..., start:end] / weight[start:end]
    return signal if length is None else F.pad(signal, (0, length - signal.shape[-1]))


def _overlapped(frames: Tensor, places: Tensor, total: int) -> Tensor:
    """Frames added where they lie, [..., total]."""
    empty = torch.zeros(*frames.shape[:-2], total, dtype=frames.dtype, device=frames.device)
    return empty.index_add(-1, places.reshape(-1), frames.reshape(*frames.shape[:-2], -1))
