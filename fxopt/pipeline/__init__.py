"""Passes, contracts, pipeline text, the manager, instruments."""

from fxopt.pipeline.base import Contract, Pass, RewritePass
from fxopt.pipeline.instruments import (
    CheckEach,
    DiffAfterChange,
    Failure,
    Instrument,
    RewriteLimit,
    StructuralVerify,
)
from fxopt.pipeline.manager import PassManager, PipelineResult, check_calibration
from fxopt.pipeline.named import register_pipeline
from fxopt.pipeline.options import option_help
from fxopt.pipeline.registry import load_plugin, register_pass, registry
from fxopt.pipeline.reproducer import CrashReproducer, Reproduction

__all__ = [
    "CheckEach",
    "Contract",
    "CrashReproducer",
    "DiffAfterChange",
    "Failure",
    "Instrument",
    "Pass",
    "PassManager",
    "PipelineResult",
    "Reproduction",
    "RewriteLimit",
    "RewritePass",
    "StructuralVerify",
    "check_calibration",
    "load_plugin",
    "option_help",
    "register_pass",
    "register_pipeline",
    "registry",
]
