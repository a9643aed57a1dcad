"""Canonical spelling, for those who look for it here: see `fxopt.ops.spelling`."""

from fxopt.ops.spelling import DROPPED, SPELLINGS, Emit, canonical_call

__all__ = ["DROPPED", "SPELLINGS", "Emit", "canonical_call"]
