"""Registers all rules of the target, when it is first used."""

from importlib import import_module

__all__ = ["FAMILIES", "load_rules"]

FAMILIES = (
    "activation", "attention", "binary", "contraction", "creation", "elementwise", "indexing", "norms",
    "padding", "pooling", "quantization", "recurrent", "reduction", "resize", "scatter", "shape", "sizes",
)  # fmt: skip


def load_rules() -> None:
    """Imports each family's file, which registers its rules."""
    for family in FAMILIES:
        import_module(f"fxopt.lowering.onnx.rules_{family}")
