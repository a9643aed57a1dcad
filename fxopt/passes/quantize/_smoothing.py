"""How far outlying channels of what layers read are moved into the layers' weights, by the error that rounding makes.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2022,
arXiv:2211.10438: `s = max|x|**alpha / max|w|**(1 - alpha)`, a number a channel.
"""

from collections.abc import Sequence

import torch

from fxopt.errors import InputError

__all__ = ["ALPHAS", "Channels", "best_scale", "rounding_error", "smoothing_scale"]

ALPHAS = tuple(i / 10 for i in range(1, 11))
_SHARE = 0.9
_LEAST = 1e-4
"""A channel's range counts as at least this share of the largest: one that calibration never saw still moves."""


Weights = torch.Tensor | Sequence[torch.Tensor]
"""Of all layers that read the channels: a matrix [in, out], or [groups, in / groups, out / groups, taps] of each layer."""


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

    @property
    def reach(self) -> torch.Tensor:
        """The largest magnitudes."""
        return torch.maximum(-self.low, self.high)

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


def smoothing_scale(
    channels: Channels, weights: Weights, alpha: float, reach: torch.Tensor | None = None
) -> torch.Tensor | None:
    """What each channel is divided by, float64, of geometric mean 1; None where nothing was seen but zeros.

    Args:
        channels: of what the layers read.
        weights: of all layers that read it.
        alpha: the share of the range that moves to the weights, 0 to 1.
        reach: the range that each channel may come to have, float64; by default that of what was read.
    """
    if not channels.count:
        return None
    reads = channels.reach if reach is None else reach
    weighs = torch.stack([w.double().abs().amax((2, 3)).flatten() for w in _grouped(weights)]).amax(0)
    if not all(0 < float(r.max()) < torch.inf for r in (reads, weighs)):
        return None
    reads, weighs = (r.clamp(min=float(r.max()) * _LEAST).log() for r in (reads, weighs))
    logs = alpha * reads - (1 - alpha) * weighs
    return (logs - logs.mean()).exp()


def best_scale(
    channels: Channels, weights: Weights, reach: torch.Tensor | None = None, *, share: float = _SHARE
) -> torch.Tensor | None:
    """The scale of the alpha with the least expected error; None unless that is below a share of that without any."""
    plain = rounding_error(channels, weights, torch.ones_like(channels.low))
    scales = [s for a in ALPHAS if (s := smoothing_scale(channels, weights, a, reach)) is not None]
    errors = [rounding_error(channels, weights, s) for s in scales]
    return scales[errors.index(least)] if scales and (least := min(errors)) < share * plain else None


def rounding_error(channels: Channels, weights: Weights, scale: torch.Tensor) -> float:
    """The expected squared error of a row of results once both factors are rounded to 8 bits.

    Rounding is taken as uniform noise of a twelfth of the squared step: a step for all that is read, by its least and
    largest value, one for each output channel of the weights, by its largest magnitude.

    Args:
        channels: of what the layers read.
        weights: of all of them.
        scale: by which what is read is divided.
    """
    low, high = (channels.low / scale).min().clamp(max=0), (channels.high / scale).max().clamp(min=0)
    power, error = channels.power / scale.square(), 0.0
    for weight in _grouped(weights):
        groups, _, _, taps = weight.shape
        moved = weight.double() * scale.reshape(groups, -1, 1, 1)
        of_inputs = ((high - low) / 255).square() * moved.square().sum()
        steps = moved.abs().amax((1, 3)) / 127
        of_weights = (steps.square().sum(1) * power.reshape(groups, -1).sum(1)).sum() * taps
        error += float(of_inputs + of_weights) / 12
    return error


def _grouped(weights: Weights) -> Sequence[torch.Tensor]:
    return [weights[None, :, :, None]] if isinstance(weights, torch.Tensor) else weights
