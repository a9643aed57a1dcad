"""Capture: a model becomes a functional, canonical `Program`."""

from fxopt.frontend.trace import trace

__all__ = ["trace"]
