"""How far outlying channels of what layers read are moved into the layers' weights, by the error that rounding makes.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2022,
arXiv:2211.10438: `s = max|x|**alpha / max|w|**(1 - alpha)`, a number a channel.
"""

import torch

from fxopt.errors import InputError

__all__ = ["ALPHAS", "Channels", "best_scale", "rounding_error", "smoothing_scale"]

ALPHAS = tuple(i / 10 for i in range(1, 11))
_GAIN = 0.9
_LEAST = 1e-4
"""A channel's range counts as at least this share of the largest: one that calibration never saw still moves."""


class Channels:
    """The least, the largest, and the mean squared value of each channel, which is the last dimension; float64."""

    def __init__(self) -> None:
        self.count = 0
        """Values of a channel."""
        self.low = self.high = self._squares = torch.zeros(())

    @property
    def power(self) -> torch.Tensor:
        """The mean squares."""
        return self._squares / self.count

    def update(self, values: torch.Tensor) -> None:
        """Adds values; none for an empty tensor.

        Raises:
            InputError: NaN or infinite ones are among them.
        """
        if not values.numel():
            return
        rows = values.detach().reshape(-1, values.shape[-1]).double()
        low, high = torch.aminmax(rows, dim=0)
        if not bool(torch.stack((low, high)).isfinite().all()):
            bad = int((~torch.isfinite(values)).sum())
            raise InputError(f"{bad} of {values.numel()} values are NaN or infinite")
        self.low = torch.minimum(self.low, low) if self.count else low
        self.high = torch.maximum(self.high, high) if self.count else high
        self._squares = self._squares + rows.square().sum(0)
        self.count += len(rows)


def smoothing_scale(channels: Channels, weights: torch.Tensor, alpha: float) -> torch.Tensor | None:
    """What each channel is divided by, float64, of geometric mean 1; None where nothing was seen but zeros.

    Args:
        channels: of what the layers read.
        weights: of all layers that read it, [in, out].
        alpha: the share of the range that moves to the weights, 0 to 1.
    """
    if not channels.count:
        return None
    reads, weighs = torch.maximum(-channels.low, channels.high), weights.double().abs().amax(1)
    if not all(0 < float(r.max()) < torch.inf for r in (reads, weighs)):
        return None
    reads, weighs = (r.clamp(min=float(r.max()) * _LEAST).log() for r in (reads, weighs))
    logs = alpha * reads - (1 - alpha) * weighs
    return (logs - logs.mean()).exp()


def best_scale(channels: Channels, weights: torch.Tensor) -> torch.Tensor | None:
    """The scale of the alpha with the least expected error; None unless that is a tenth below that without any."""
    plain = rounding_error(channels, weights, torch.ones(weights.shape[0], dtype=torch.float64))
    scales = [s for a in ALPHAS if (s := smoothing_scale(channels, weights, a)) is not None]
    errors = [rounding_error(channels, weights, s) for s in scales]
    return scales[errors.index(least)] if scales and (least := min(errors)) < _GAIN * plain else None


def rounding_error(channels: Channels, weights: torch.Tensor, scale: torch.Tensor) -> float:
    """The expected squared error of a row of results once both factors are rounded to 8 bits.

    Rounding is taken as uniform noise of a twelfth of the squared step: a step for all that is read, by its least and
    largest value, one for each output channel of the weights, by its largest magnitude.

    Args:
        channels: of what the layers read.
        weights: of all of them, [in, out].
        scale: by which what is read is divided.
    """
    low, high = (channels.low / scale).min().clamp(max=0), (channels.high / scale).max().clamp(min=0)
    moved = weights.double() * scale[:, None]
    of_inputs = ((high - low) / 255).square() * moved.square().sum()
    of_weights = (moved.abs().amax(0) / 127).square().sum() * (channels.power / scale.square()).sum()
    return float(of_inputs + of_weights) / 12
