"""Quantization: rounding simulated in the graph, then stored as integers."""
