"""What quantization did to each layer, and how precisions were chosen.

>>> LayerReport("head", "linear", 8, 8, sqnr=40.1).bits
'8, 8'
"""

import math
from dataclasses import dataclass

from fxopt.json_data import JsonData

__all__ = ["LayerReport", "PrecisionReport", "Trial"]


@dataclass(frozen=True)
class LayerReport(JsonData):
    """A product of which an operand is rounded, alone: what it reads comes without any other rounding."""

    name: str
    """The module, or the node where none is known."""
    op: str
    activation_bits: int
    """32: float."""
    weight_bits: int
    sqnr: float = math.nan
    """Signal to quantization noise of its result, dB, over the calibration data."""
    share: float = math.nan
    """Of the squared error at the outputs that all layers make, to first order; NaN where it was not looked for."""
    low: float = math.nan
    high: float = math.nan
    """The least and the largest value that it reads; NaN where that is not rounded."""
    clipped: float = math.nan
    """The share of what it reads that lies beyond its integers."""
    flops: int = 0
    """Operations of a call at the sizes of the example."""
    weight_bytes: int = 0
    seconds: float = math.nan
    """Of its kernels in a run of the file on this machine; NaN where that was not measured."""

    @property
    def bits(self) -> str:
        """Of what it reads and of its weight."""
        return f"{self.activation_bits}, {self.weight_bits}"


@dataclass(frozen=True)
class Trial(JsonData):
    """A choice of precisions, and what it came to."""

    layers: tuple[str, ...]
    """The `layers` option of `insert-fake-quant`."""
    score: float
    met: bool


@dataclass(frozen=True)
class PrecisionReport(JsonData):
    """The search for layers that are to have a higher precision."""

    goal: str
    met: bool
    """By the simulated program that was chosen."""
    score: float
    layers: tuple[str, ...] = ()
    """What was chosen."""
    tried: tuple[Trial, ...] = ()
    """All that were tried, in order; scored in simulation."""
    next: tuple[str, ...] = ()
    """The changes that would come next."""

    def __str__(self) -> str:
        """One line.

        >>> str(PrecisionReport("a drop of at most 0.1", True, 0.9, ("head=float",)))
        'a drop of at most 0.1: met (0.9) with head=float'
        """
        changes = ", ".join(self.layers) or "nothing changed"
        return f"{self.goal}: {'met' if self.met else 'not met'} ({self.score:.6g}) with {changes}"
