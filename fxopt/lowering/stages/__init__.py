"""Stages: a folder with one artifact a stage of a partition plan, and what they take, return and run on."""

__all__ = ["STAGES"]

STAGES = "stages.json"
"""The manifest in such a folder."""
