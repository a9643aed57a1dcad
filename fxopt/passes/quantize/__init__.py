"""Quantization: rounding simulated in the graph, then stored as integers."""

from fxopt.passes.quantize._placement import Placement, placement_of, register_placement

__all__ = ["Placement", "placement_of", "register_placement"]
