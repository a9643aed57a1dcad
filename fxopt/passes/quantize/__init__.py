"""Quantization: rounding simulated in the graph, then stored as integers."""

from fxopt.passes.quantize._integer_weights import RANGES, StoreIntegerWeights
from fxopt.passes.quantize._layer_errors import LayerError, layer_errors
from fxopt.passes.quantize._placement import Placement, placement_of, register_placement

__all__ = [
    "RANGES",
    "LayerError",
    "Placement",
    "StoreIntegerWeights",
    "layer_errors",
    "placement_of",
    "register_placement",
]
